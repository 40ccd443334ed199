"""Peak memory of a training step, in a process of its own.

The value is the process's highest resident memory over the building of the modules and two whole steps, minus its
resident memory just before the modules are built: weights, gradients, the optimizer's moments and all activations,
without interpreter and libraries, whose code a step of a minute model has brought into memory before. Two steps, for
moments and gradients are there together from the second on.

Linux: ``VmHWM`` of ``/proc/self/status``, set back just before where the kernel allows it. Not ``ru_maxrss``: a child
inherits the parent's there (a child of 9 MiB reported its parent's 811). Elsewhere there is nothing better.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
NUM_STEPS = 2
BENCH = Path(__file__).parents[1] / "bench.py"


@dataclass(frozen=True)
class Ask:
    """What a child is to run.

    Attributes:
        case: its name.
        rows: of the batch.
        seconds: a row.
        system: whose step.
        precision: of it.
        threads: to pin.
        keeps_memory: whether its process keeps freed pages, as that of :mod:`benchmarks.worker` does.
    """

    case: str
    rows: int
    seconds: float
    system: str
    precision: str
    threads: int
    keeps_memory: bool = False


def of_child(ask: Ask) -> float:
    """MiB, measured by a fresh process.

    Raises:
        subprocess.CalledProcessError: it failed; its own words are on stderr.
    """
    command = [sys.executable, str(BENCH), "--memory-child", json.dumps(asdict(ask))]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(answer.split()[-1])


def of_this_process(build: Callable[[], Callable[[], object]]) -> float:
    """MiB over ``build`` and the steps that it gives; for the child, whose libraries are loaded by now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = mib_of("VmRSS")
    step = build()
    for _ in range(NUM_STEPS):
        step()
    return mib_of("VmHWM") - before


def mib_of(field: str) -> float:
    """A field of this process's status in Linux, ``VmRSS`` or ``VmHWM``; elsewhere the most memory that it had."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
