"""What keeps a run from harm: the lock on its folder, signals that end it cleanly, and room on the disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from audio_ssl.errors import CheckpointError, TrainingError


@contextmanager
def locked_run_folder(run_dir: Path) -> Iterator[None]:
    """Own ``run_dir`` for the length of the context; the lock ends with the process, however it ends.

    Raises:
        TrainingError: another process is training here, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = (run_dir / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"run.dir {run_dir} must be a folder that can be written: {error}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise TrainingError(
                f"run.dir {run_dir} is in use by another process (pid {owner}); wait for it, or give another run.dir"
            ) from error
        except OSError as error:
            raise TrainingError(f"run.dir {run_dir} must be on a file system with locks: {error}") from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def require_disk_space(run_dir: Path, needed_bytes: int) -> None:
    """Refuse to start when the checkpoints to be kept would not fit.

    Raises:
        CheckpointError: naming what is needed and what is free.
    """
    free = shutil.disk_usage(run_dir).free
    if free < needed_bytes:
        raise CheckpointError(
            f"run.dir {run_dir} must have room for its checkpoints: {needed_bytes / 1e6:.0f} MB needed, "
            f"{free / 1e6:.0f} MB free; free space, lower run.keep_last, or give another run.dir; a run that "
            "has begun goes on with --resume auto"
        )


class StopRequest:
    """Remembers a signal to end, so that the loop can end between two updates. A second Ctrl-C ends at once.

    Such are SIGTERM, Ctrl-C, and SIGHUP (the terminal is gone) unless it was ignored from the start, as nohup does.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take over these signals for the length of the context."""
        taken = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            taken.append(signal.SIGHUP)
        previous = {s: signal.signal(s, self._remember) for s in taken}
        try:
            yield self
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _remember(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
