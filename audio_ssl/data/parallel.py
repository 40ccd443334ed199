"""Work on many items in threads: results in the items' order, and few items in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

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
        num_workers: threads.
        window: most items that have been taken and whose results have not been given yet. One slow item holds up the
            others only once so many wait behind it.
        chunk: items that a thread takes at once: with short work, handing over costs as much as the work.
    """
    waiting = iter(items)
    pending: deque[Future[list[Result]]] = deque()
    pool = ThreadPoolExecutor(max(1, num_workers))
    try:
        while True:
            while len(pending) < max(1, window // chunk) and (part := list(islice(waiting, chunk))):
                pending.append(pool.submit(_each, work, part))
            if not pending:
                return
            yield from pending.popleft().result()
    finally:  # also on an error or Ctrl-C: what has not begun never does
        pool.shutdown(cancel_futures=True)


def _each(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [work(item) for item in items]
