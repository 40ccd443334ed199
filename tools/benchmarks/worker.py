"""A candidate's training in a process of its own, on the same turns as the others.

What one candidate leaves in the heap would serve the next one in the same process, and how a training process treats
its memory is a part of its speed: ours keeps freed pages, as `audio-ssl pretrain` does; a peer's script does not, and
is also measured as if it did.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, cast

from safetensors.torch import load_file, save_file
from torch import Tensor

from audio_ssl.train.memory import keep_freed_memory
from benchmarks.candidates import find_system
from benchmarks.cases import CASES
from benchmarks.measure import pin
from benchmarks.memory import BENCH
from benchmarks.report import BenchError

DONE = "done"


@dataclass(frozen=True)
class WorkerAsk:
    """What a worker is.

    Attributes:
        case: its name.
        system: whose training.
        weights: a safetensors file, under our names.
        keeps_memory: whether its process keeps freed pages.
        threads: to pin.
    """

    case: str
    system: str
    weights: str
    keeps_memory: bool
    threads: int


class Worker:
    """A process that does an update whenever it is told to.

    Args:
        ask: what it is.
    """

    def __init__(self, ask: WorkerAsk) -> None:
        self.name = ask.system
        command = [sys.executable, str(BENCH), "--worker", json.dumps(asdict(ask))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._wait()

    def step(self, precision: str) -> None:
        """An update; returns when it is done.

        Raises:
            BenchError: the process has ended.
        """
        stdin = cast(IO[str], self._process.stdin)
        with suppress(BrokenPipeError):  # the answer tells
            print(precision, file=stdin, flush=True)
        self._wait()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _wait(self) -> None:
        stdout = cast(IO[str], self._process.stdout)
        while (line := stdout.readline()).strip() != DONE:
            if not line:
                raise BenchError(f"the process of {self.name} ended with status {self._process.wait()}; see above")


@contextmanager
def workers(
    case: str, systems: list[str], tensors: dict[str, Tensor], *, keep_memory_of: list[str], threads: int
) -> Iterator[list[Worker]]:
    """A worker for every system, all with the same weights; they end with the block."""
    started: list[Worker] = []
    with TemporaryDirectory(prefix="bench-") as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file(tensors, weights)
        try:
            for system in systems:
                started.append(Worker(WorkerAsk(case, system, str(weights), system in keep_memory_of, threads)))
            yield started
        finally:
            for worker in started:
                worker.close()


def serve(ask: WorkerAsk) -> None:
    """The process of a worker: a line with a precision asks for an update, the end of input for the end."""
    pin(ask.threads, keep_kernels=True)
    if ask.keeps_memory:
        keep_freed_memory()
    system_type = find_system(ask.system)
    system_type.load()
    system = system_type(CASES[ask.case], trains=True)
    system.take(load_file(ask.weights))
    print(DONE, flush=True)
    for line in sys.stdin:
        system.step(line.strip())
        print(DONE, flush=True)
