"""Resident memory of a command in a process of its own, watched from outside (Linux)."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.02
_STATED = re.compile(r"needs about ([0-9.]+) GiB")


@dataclass(frozen=True)
class Watched:
    """What was seen of a command.

    Attributes:
        peak_mib: the most resident memory (``VmHWM``), the program itself included.
        seconds: from its start to its end.
        said: its standard error.
    """

    peak_mib: float
    seconds: float
    said: str

    @property
    def stated_mib(self) -> float | None:
        """What it said that it would need."""
        found = _STATED.search(self.said)
        return None if found is None else float(found[1]) * 1024


def watch(command: Sequence[str]) -> Watched:
    """Run a command to its end.

    Raises:
        SystemExit: it fails; with its own words.
    """
    started, peak_kib = time.monotonic(), 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        child = subprocess.Popen(list(command), stdout=subprocess.DEVNULL, stderr=said)
        status = Path(f"/proc/{child.pid}/status")
        while child.poll() is None:
            # a mark that only rises: the last look before the end sees all but what comes in the last moments
            lines = [line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")]
            peak_kib = max([peak_kib, *(int(line.split()[1]) for line in lines)])
            time.sleep(_POLL_S)
        said.seek(0)
        text = said.read()
    if child.returncode:
        raise SystemExit(f"error: {' '.join(command)} must end with status 0, got {child.returncode}:\n{text[-2000:]}")
    return Watched(peak_kib / 1024, time.monotonic() - started, text)
