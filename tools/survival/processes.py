"""The processes of a run: started with a mark, so that each of them is found again, whoever started it. Linux only."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = "AUDIO_SSL_KILL_TEST"
POLL_S = 0.001


class Family:
    """All processes of one run: one, several ranks that know each other from the environment, or torchrun and its own.

    Args:
        arguments: of ``audio-ssl``.
        launcher: ``one process``, ``ranks`` or ``torchrun``.
        num_ranks: of the latter two.
        logs: folder for what they say, a file each.
    """

    def __init__(self, arguments: Sequence[str], *, launcher: str, num_ranks: int, logs: Path) -> None:
        self.mark = secrets.token_hex(8)
        self.started = time.monotonic()
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        module = ["-m", "audio_ssl", *arguments]
        if launcher == "torchrun":
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
            self._started = [self._start([*torchrun, *module], "torchrun", {})]
        elif launcher == "ranks":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
            meeting |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
            places = [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
            self._started = [self._start(module, f"rank {place['RANK']}", place) for place in places]
        else:
            self._started = [self._start(module, "one process", {})]

    def _start(self, arguments: Sequence[str], name: str, place: Mapping[str, str]) -> subprocess.Popen[bytes]:
        environment = {"OMP_NUM_THREADS": "1", **os.environ, **place, MARK: self.mark, "NO_COLOR": "1"}
        with (self._logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def members(self) -> dict[int, int | None]:
        """Every living process of the run, with its rank; None: torchrun, or a run of one process."""
        found: dict[int, int | None] = {}
        wanted = f"{MARK}={self.mark}".encode()
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # gone meanwhile, or another user's
                continue
            if wanted in environment:  # a process that is dead and not waited for has none
                ranks = [entry.removeprefix(b"RANK=") for entry in environment if entry.startswith(b"RANK=")]
                found[int(folder.name)] = int(ranks[0]) if ranks else None
        return found

    def is_over(self) -> bool:
        """Whether those that were started here have ended; they are waited for."""
        return all(process.poll() is not None for process in self._started)

    def kill(self, rank: int | None) -> bool:
        """SIGKILL a rank, or the process of a run that has but one; False where it is not there."""
        victims = [pid for pid, its in self.members().items() if its == rank]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return bool(victims)

    def wait(self, timeout_s: float) -> float | None:
        """Seconds until no process of the run is left; None after ``timeout_s``: the rest is killed then."""
        start = time.monotonic()
        while not self.is_over() or self.members():
            if time.monotonic() - start > timeout_s:
                for pid in self.members():
                    os.kill(pid, signal.SIGKILL)
                for process in self._started:
                    process.wait()
                return None
            time.sleep(POLL_S)
        return time.monotonic() - start

    def statuses(self) -> list[int]:
        """Exit statuses of those that were started here, in order of rank; a signal as its negative number."""
        return [process.wait() for process in self._started]

    def said(self) -> dict[str, str]:
        """What each of them wrote so far."""
        return {log.stem: log.read_text(encoding="utf-8", errors="replace") for log in sorted(self._logs.glob("*.log"))}
