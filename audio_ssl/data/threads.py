"""Keeps the threads that read from sharing the kernels' threads."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(work: Callable[P, R]) -> Callable[P, R]:
    """``work``, to be called in threads beside the calling one, with torch confined to one thread there.

    A torch operation in such a thread, resampling for one, would make a team of OpenMP threads of its own. The process
    then has more of them than cores, and OpenMP's answer is that no team waits awake any longer: every operation of a
    training step on a CPU goes to sleep and is woken (a step of the preset ``small`` took 0.31 s instead of 0.19).

    Args:
        work: anything; it must not be called in the thread that calls this, nor count on torch's threads.
    """
    num_threads = torch.get_num_threads()

    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.get_num_threads() > 1:  # this thread's own number
            torch.set_num_threads(1)
            _set_for_threads_to_come(num_threads)
        return work(*args, **kwargs)

    return alone


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """The calling thread's operations on one torch thread each, and as before afterwards.

    Resampling on several gives other last bits than on one, and rows must be the same wherever they are read.
    """
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)


def _set_for_threads_to_come(num_threads: int) -> None:
    """A thread that starts begins with what was set last, in any thread."""
    is_set = threading.Event()

    def set_it() -> None:
        torch.set_num_threads(num_threads)
        is_set.set()

    # threading.Thread would enter the calling thread, a native one of fairseq2's, in Python's list of threads for good
    _thread.start_new_thread(set_it, ())
    is_set.wait()
