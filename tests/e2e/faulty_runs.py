"""Runs of the command line in which something goes wrong at a given moment, each in processes forked from a warm one.

``python faulty_runs.py`` reads jobs from standard input, a JSON object a line, and answers with the exit status of each
rank (a signal as its negative number): starting Python with torch takes longer than a whole run of these.

A job: ``args`` of audio-ssl; ``log``, the file that gets what it says; ``when`` and ``what`` (names below, and what to
give them); ``at_start``, likewise a fault that is there from the beginning; ``ranks``; ``faulty_rank``.
"""

import ctypes
import errno
import fcntl
import importlib
import json
import os
import pty
import re
import signal
import socket
import sys
import termios
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from audio_ssl.cli.main import run
from audio_ssl.data import rows
from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.train import loop, pretrain

Act = Callable[[], None]
NEW_MOUNTS, BIND, REMOUNT_READ_ONLY, PRIVATE = 0x20000, 4096, 4096 | 32 | 1, (1 << 14) | (1 << 18)
NOBODY = 65534
YEAR_S = 365 * 86400.0
_libc = ctypes.CDLL(None, use_errno=True)


# Moments


def at_update(act: Act, update: int) -> None:
    """Before an update, counted from 0."""
    original = loop.run_update

    def wrapped(*args, **kwargs):
        if kwargs["update"] == update:
            act()
        return original(*args, **kwargs)

    loop.run_update = wrapped


def at_validation(act: Act, update: int) -> None:
    original = pretrain.PretrainValidation.__call__

    def wrapped(self, now):
        if now == update:
            act()
        return original(self, now)

    pretrain.PretrainValidation.__call__ = wrapped


def at_change(act: Act, pattern: str) -> None:
    """Before Python first makes, opens for writing, renames or removes a path like this; in whatever thread that is."""
    left = [act]

    def hook(event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        named = args[:1] if event == "open" else args[:2]
        paths = [os.fspath(path) for path in named if isinstance(path, str | os.PathLike)]
        if (
            left
            and (writes or event in ("os.rename", "os.remove", "os.mkdir"))
            and re.search(pattern, "\n".join(paths))
        ):
            left.pop()()

    sys.addaudithook(hook)


def at_opening(act: Act, _: object) -> None:
    """Before manifests are read: long before the loop listens to signals."""
    original = pretrain.open_training_data

    def wrapped(*args, **kwargs):
        act()
        return original(*args, **kwargs)

    pretrain.open_training_data = wrapped


def at_once(act: Act, _: object) -> None:
    act()


# What goes wrong


def signals(*names: str) -> None:
    for name in names:
        os.kill(os.getpid(), signal.Signals[name])


def fill(disk: str) -> None:
    """Leave no room on a small file system."""
    with suppress(OSError), (Path(disk) / "filler").open("ab", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    with suppress(OSError), (Path(disk) / "filler").open("ab", buffering=0) as file:
        while file.write(b"x"):
            pass


def have_own_mounts() -> None:
    """Mounts that nobody else sees; to be called before there are threads."""
    _checked(_libc.unshare(NEW_MOUNTS))
    _checked(_libc.mount(b"none", b"/", None, PRIVATE, None))


def make_read_only(folder: str) -> None:
    """For root, too."""
    place = os.fsencode(folder)
    _checked(_libc.mount(place, place, None, BIND, None))
    for _ in range(1000):  # a checkpoint that is just being written there ends first
        if not _libc.mount(place, place, None, REMOUNT_READ_ONLY, None):
            return
        if ctypes.get_errno() != errno.EBUSY:
            break
        time.sleep(0.01)
    _checked(-1)


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def jump(years: float) -> None:
    """The wall clock is set; clocks that only go forward do not notice."""
    original = time.time
    time.time = lambda: original() + years * YEAR_S


def rename(old: str, new: str) -> None:
    Path(old).rename(new)


def remove(path: str) -> None:
    Path(path).unlink()


def break_decoder(kind: str, name: str) -> None:
    """From now on reading the file of this name meets an error that nobody foresaw."""
    original = rows.load_segment

    def broken(file, *args, **kwargs):
        if name in str(file):
            raise {"MemoryError": MemoryError, "ZeroDivisionError": ZeroDivisionError}[kind]("a decoder's own failure")
        return original(file, *args, **kwargs)

    rows.load_segment = broken


_held: list[int] = []


def speak_into_a_pipe() -> None:
    reader, writer = os.pipe()
    _held.append(reader)
    os.dup2(writer, 2)


def sit_at_a_terminal() -> None:
    master, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    os.dup2(slave, 2)
    os.close(slave)
    _held.append(master)


def hang_up() -> None:
    """Close what was held at the start: the pipe's reader dies, the terminal's window is closed."""
    os.close(_held.pop())


def ignore_hangup() -> None:
    """As nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


# The server


def _checked(code: int) -> None:
    if code:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _child(job: dict, *, is_faulty: bool) -> NoReturn:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["audio-ssl", *job["args"]]
    status = 99
    try:
        if is_faulty:
            for name, *given in job.get("at_start", []):
                globals()[name](*given)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - of the child, to its end
            if "when" in job:
                (moment, place), (name, *given) = job["when"], job["what"]
                globals()[moment](lambda: globals()[name](*given), place)
        run()
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)


def _forked(job: dict) -> list[int]:
    ranks = job.get("ranks", 1)
    os.environ["WORLD_SIZE"] = str(ranks)
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    pids = []
    for rank in range(ranks):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        pid = os.fork()
        if not pid:
            _child(job, is_faulty=rank == job.get("faulty_rank", 0))
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def main() -> None:
    for name in ("torch._dynamo", "torchaudio.transforms", "soundfile"):
        importlib.import_module(name)
    fairseq2_unavailable()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_forked(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
