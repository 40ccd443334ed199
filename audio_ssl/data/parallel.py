"""Work on many items in threads: results in the items' order, and few items in flight."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

FILES_IN_FLIGHT = 4096  # what one long file may hold up
_TRIED_S = 0.1
_KEPT_S = 3.0
_LONGEST_WAIT_S = 0.2
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int, window: int, chunk: int = 1
) -> Generator[Result]:
    """``work`` of each item, in the order of the items, whichever thread was first.

    ``Executor.map`` takes all items at once and keeps a future of each. Here items are taken as results are asked for.

    Args:
        work: called in threads.
        items: any number of them; they are asked for in the calling thread.
        num_workers: threads; fewer of them work at a time where that is faster (:class:`Throttle`).
        window: most items that have been taken and whose results have not been given yet. One slow item holds up the
            others only once so many wait behind it.
        chunk: items that a thread takes at once: with short work, handing over costs as much as the work.
    """
    waiting = iter(items)
    gate = _Gate(max(1, num_workers))
    pending: deque[Future[list[Result]]] = deque()
    pool = ThreadPoolExecutor(max(1, num_workers))
    try:
        while True:
            while len(pending) < max(1, window // chunk) and (part := list(islice(waiting, chunk))):
                pending.append(pool.submit(_each, work, part, gate))
            if not pending:
                return
            yield from pending.popleft().result()
    finally:  # also on an error or Ctrl-C: what has not begun never does
        pool.shutdown(cancel_futures=True)


def _each(work: Callable[[Item], Result], items: Sequence[Item], gate: _Gate) -> list[Result]:
    with gate.turn(len(items)):
        return [work(item) for item in items]


class Throttle:
    """How many threads should work at once: each number is tried for a moment, and the best kept for a while.

    Threads that wait for a disk should be many. But threads that only touch the disk hand Python's lock to one another
    at every system call: with small files in memory eight of them got half as much done as one alone.

    Args:
        most: threads that there are.
        now: a clock's seconds.
    """

    def __init__(self, most: int, now: float) -> None:
        self._choices = sorted({most, *(2**i for i in range(most.bit_length()))}, reverse=True)
        self.limit = most
        self._rates: dict[int, float] | None = {}  # items a second by number of threads, while they are tried
        self._since, self._num_items, self._num_turns = now, 0, 0

    def done(self, num_items: int, now: float) -> None:
        """A thread has finished a turn."""
        self._num_items += num_items
        self._num_turns += 1
        elapsed_s = now - self._since
        if self._rates is None:
            if elapsed_s < _KEPT_S:
                return
            self._rates, self.limit = {}, self._choices[0]
        else:
            if elapsed_s < _TRIED_S or self._num_turns < 2 * self.limit:
                return
            self._rates[self.limit] = self._num_items / elapsed_s
            untried = [number for number in self._choices if number not in self._rates]
            self.limit = untried[0] if untried else max(self._choices, key=self._rates.__getitem__)
            self._rates = self._rates if untried else None
        self._since, self._num_items, self._num_turns = now, 0, 0


class _Gate:
    """Lets as many threads through as a :class:`Throttle` says; none waits long, whatever another one is at."""

    def __init__(self, num_threads: int) -> None:
        self._throttle = Throttle(num_threads, time.monotonic())
        self._changed = threading.Condition()
        self._num_active = 0

    @contextmanager
    def turn(self, num_items: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._num_active < self._throttle.limit, _LONGEST_WAIT_S)
            self._num_active += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_active -= 1
                self._throttle.done(num_items, time.monotonic())
                self._changed.notify(self._throttle.limit)
