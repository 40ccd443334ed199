"""Who of the ranks is alive: each writes a beat into the process group's store and reads the others'.

A rank that ends in error leaves its message there; one that is killed falls silent. Either way the others end, too,
with its name, instead of waiting in a collective that will never complete.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from audio_ssl.errors import PeerError

logger = logging.getLogger(__name__)
BEAT_S = 2.0
RANKS_A_BEAT = 32  # more ranks beat less often, so that the store has no more to do
SILENT_S = 60.0  # without a beat a rank counts as dead
BROKEN_S = 10.0  # the same once a collective has failed: someone is gone, it only remains to see who
GRACE_S = 10.0  # for the main thread to end by itself; it cannot where it waits for a device that waits for a peer
_FAILED = "failed: "
_FOLLOWED = "ended after another"
_DONE = "done"


class Peers:
    """Watches the other ranks from a thread.

    Args:
        store: of the process group.
        rank: of this process.
        size: number of ranks.
    """

    def __init__(self, store: Any, *, rank: int, size: int) -> None:
        self._main_store: Any = PrefixStore("audio_ssl/peers", store)
        self._rank, self._size = rank, size
        self._period_s = BEAT_S * max(1.0, size / RANKS_A_BEAT)
        self._seen: dict[int, tuple[bytes, float]] = {}  # last beat of each rank, and when it was new here
        self._names = [f"rank {r}" for r in range(size)]
        self._dead: str | None = None
        self._is_over = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch for the length of the context; tell the others how it ended.

        Raises:
            PeerError: a peer ended in error or fell silent; what this rank met as a consequence is its cause.
        """
        self._main_store.set(f"who/{self._rank}", f"rank {self._rank} ({socket.gethostname()}, pid {os.getpid()})")
        self._main_store.set(f"beat/{self._rank}", "0")
        self._names = [name.decode() for name in self._main_store.multi_get(self._keys("who"))]
        watcher = threading.Thread(target=self._watch, name="peers", daemon=True)
        watcher.start()
        try:
            yield
            self._tell(_DONE)
        except BaseException as error:
            dead = self._culprit(error)
            if dead is None:
                self._tell(f"{_FAILED}{type(error).__name__}: {error}")
                self._linger()
                raise
            self._tell(_FOLLOWED)
            raise PeerError(_message(dead)) from error
        finally:
            self._is_over.set()
            watcher.join(timeout=2 * BEAT_S)

    def _keys(self, kind: str) -> list[str]:
        return [f"{kind}/{rank}" for rank in range(self._size)]

    def _tell(self, how: str) -> None:
        with suppress(Exception):  # the store may have gone with its host; then everybody knows
            self._main_store.set(f"end/{self._rank}", how)

    def _linger(self) -> None:
        """Stay until the others have read why, since the store may be with this process."""
        until = time.monotonic() + BROKEN_S
        with suppress(Exception):
            while time.monotonic() < until and not self._main_store.check(self._keys("end")):
                time.sleep(BEAT_S / 10)

    def _watch(self) -> None:
        """The thread: beat, look, and end the process where the main thread cannot."""
        store, beat, dead_since = self._main_store.clone(), 0, 0.0
        while not self._is_over.wait(self._period_s):
            beat += 1
            try:
                store.set(f"beat/{self._rank}", str(beat))
                self._dead = self._dead or self._find_dead(store, SILENT_S)
            except Exception as error:
                self._dead = self._dead or f"{self._names[0]}, which holds the ranks together, is gone ({error})"
            if self._dead is None:
                continue
            dead_since = dead_since or time.monotonic()
            if time.monotonic() - dead_since > GRACE_S and not self._is_over.is_set():
                sys.stderr.write(f"error: {_message(self._dead)}\n")
                sys.stderr.flush()
                os._exit(PeerError.exit_status)

    def _find_dead(self, store: Any, silent_s: float) -> str | None:
        """What is to be said of the first rank that ended in error, else of the first that is silent, else None."""
        ended = {rank: self._end_of(store, rank) for rank in range(self._size) if rank != self._rank}
        for rank, how in ended.items():
            if how.startswith(_FAILED):
                return f"{self._names[rank]} ended in error: {how.removeprefix(_FAILED)}"
        now = time.monotonic()
        for rank, beat in enumerate(store.multi_get(self._keys("beat"))):
            last, since = self._seen.get(rank, (b"", now))
            if beat != last:
                self._seen[rank] = (beat, now)
            elif rank in ended and not ended[rank] and now - since > silent_s:
                return f"{self._names[rank]} was killed or cut off: it has been silent for {now - since:.0f} s"
        return None

    def _end_of(self, store: Any, rank: int) -> str:
        return store.get(f"end/{rank}").decode() if store.check([f"end/{rank}"]) else ""

    def _culprit(self, error: BaseException) -> str | None:
        """The peer behind ``error``, where there is one; after a broken collective, wait until it is known which."""
        if self._dead is not None or not _is_of_a_collective(error):
            return self._dead
        until = time.monotonic() + BROKEN_S + 2 * self._period_s
        while time.monotonic() < until and self._dead is None:
            try:
                self._dead = self._find_dead(self._main_store, BROKEN_S)
            except Exception as gone:
                self._dead = f"{self._names[0]}, which holds the ranks together, is gone ({gone})"
            time.sleep(BEAT_S / 4)
        return self._dead or "a peer that could not be told"


def _is_of_a_collective(error: BaseException | None) -> bool:
    while error is not None:
        text = str(error).lower()
        if isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection reset")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _message(dead: str) -> str:
    return (
        f"all ranks must live for a run to go on: {dead}. This rank ends, too; checkpoints are intact. Look at what "
        "that rank said, then start again with --resume auto (the number of ranks may be another)"
    )
