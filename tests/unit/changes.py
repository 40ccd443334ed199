"""Death at a given change of a folder, for processes of tests that are forked for it."""

import json
import os
import signal
from pathlib import Path


class Changes:
    """An audit hook that writes down each change of a folder as Python makes it, and dies instead of the one after k.

    Args:
        folder: what is watched, with all below it.
        log: gets a line a change: the event, and the path below the folder.
        kill_at: changes that are made; more than there are: it lives.
    """

    EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")

    def __init__(self, folder: Path, log: Path, *, kill_at: int) -> None:
        self.prefix, self.left = f"{folder}/", kill_at
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in self.EVENTS:
            return
        named = args[:1] if event == "open" else args[:2]
        paths = [os.fsdecode(path) for path in named if isinstance(path, str | bytes | os.PathLike)]
        if not any(path.startswith(self.prefix) for path in paths):
            return
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        mode = "append" if event == "open" and args[2] & os.O_APPEND else ""
        os.write(self.log, f"{json.dumps([event, *(p.removeprefix(self.prefix) for p in paths), mode])}\n".encode())
