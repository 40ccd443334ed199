"""Runs each check in a process of its own, for a limited time.

A fault of a kernel ends every later use of the GPU by the process that met it; so does memory that a check left
behind, and a collective that waits for ever. In a process of its own a check can do none of that to the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpu.outcome import CheckFailed, CheckSkipped, Figures, Result
from gpu.place import Place

LAST_LINES = 12  # of what a check said, that are shown when it died


@dataclass(frozen=True)
class Check:
    """One promise about training on a GPU.

    Attributes:
        run: gives figures, or raises ``CheckFailed`` or ``CheckSkipped``.
        limit_s: seconds that it may take.
    """

    run: Callable[[Place], Figures]
    limit_s: float

    @property
    def told(self) -> str:
        """The first line of what it checks."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


def run_here(name: str, check: Check, place: Place) -> Result:
    """Run a check in this process; whatever it raises becomes its result."""
    started = time.perf_counter()

    def result(verdict: str, reason: str = "", figures: Figures | None = None) -> Result:
        return Result(name, verdict, reason, figures or {}, time.perf_counter() - started)  # type: ignore[arg-type]

    try:
        return result("passed", figures=check.run(place))
    except CheckSkipped as skip:
        return result("skipped", str(skip))
    except CheckFailed as failure:
        return result("failed", str(failure), failure.figures)
    except Exception as error:  # one check must not stop the others
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return result("failed", f"{told} ({Path(where.filename).name}:{where.lineno})")


def run_apart(name: str, *, limit_s: float, words: Sequence[str]) -> Result:
    """Run a check in a child process, and end it and all that it started at its limit.

    Args:
        name: of the check.
        limit_s: seconds that it may take.
        words: the program and what makes it run this check and write the result's line into a file, whose path is
            added as the last word.
    """
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        answer, said = Path(folder, "result.json"), Path(folder, "said.txt")
        started = time.perf_counter()
        with said.open("wb") as output:
            child = subprocess.Popen([*words, str(answer)], stdout=output, stderr=output, start_new_session=True)
            try:
                status: int | None = child.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                status = None
            except BaseException:
                _end(child)
                raise
            _end(child)
        seconds = time.perf_counter() - started
        if answer.is_file():
            return replace(Result.of_line(answer.read_text(encoding="utf-8")), seconds=seconds)
        last = "\n".join(said.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        died = f"its process must end by itself, it ended with status {status}"
        reason = f"must take at most {limit_s:g} s, was ended" if status is None else died
        return Result(name, "failed", f"{reason}\n{last}".strip(), {}, seconds)


def words_for(program: Path, name: str, place: Place) -> list[str]:
    """The command of :func:`run_apart` for a check of this program."""
    return [sys.executable, str(program), "--device", place.device.type, "--run-one", name, "--answer"]


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole session; asked first, for a launcher ends workers that have sessions of their own."""
    for signum, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 0.0)):
        until = time.monotonic() + patience_s
        try:
            os.killpg(child.pid, signum)
            while time.monotonic() < until:
                child.poll()
                os.killpg(child.pid, 0)  # raises where nobody is left
                time.sleep(0.1)
        except ProcessLookupError:
            break
    child.wait()
