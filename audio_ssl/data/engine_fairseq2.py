"""The loader's native engine: fairseq2's data pipeline runs our own row reader in its threads, in order.

fairseq2's FileMapper and AudioDecoder are not used: they end the pipeline at the first corrupt file, never resample or
check the rate, know no segments, and decode through the same libsndfile, so they are hardly faster: over 0.65 h of
FLAC with 2 threads on 2 shared cores, three runs each gave 4900-5800 (thread engine), 5000-5900 (this engine) and
5600-6100 (FileMapper + AudioDecoder) seconds of audio a second, with equal samples.
This is the only module of ``data`` that may import fairseq2, and it does so when it is asked for.
"""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from audio_ssl.errors import MissingExtraError

if TYPE_CHECKING:
    from audio_ssl.data.collate import Draft, Place
    from audio_ssl.data.rows import Reading

T = TypeVar("T")
_AHEAD = 1024  # results that a pipeline may hold: what it is dealt is bounded already


@functools.cache
def fairseq2_unavailable() -> str | None:
    """Why fairseq2 cannot be imported, or None where it can. Loads libsndfile for it first."""
    preload_libsndfile()
    try:
        from fairseq2.data.data_pipeline import read_iterator  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def require_fairseq2() -> None:
    """Import fairseq2.

    Raises:
        MissingExtraError: it cannot be imported; says why and what to install.
    """
    reason = fairseq2_unavailable()
    if reason is not None:
        raise MissingExtraError(
            f"the engine `fairseq2` needs the fairseq2 package, which cannot be imported ({reason}); install "
            "`audio_ssl[fairseq2]` (it needs torch 2.9.1), or set data.engine to `threads` (same batches)"
        )


@functools.cache
def preload_libsndfile() -> Path | None:
    """Load the libsndfile that the soundfile package brings, for all; fairseq2 needs one and brings none.

    Returns:
        The library's file, or None where soundfile uses the system's.
    """
    import soundfile

    folder = Path(soundfile.__file__).parent / "_soundfile_data"
    for library in sorted(folder.glob("libsndfile*")):
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError:  # another platform's file
            continue
        return library
    return None


def read_with_fairseq2(
    drafts: Iterable[Draft],
    read: Callable[[Place], Reading],
    *,
    num_workers: int,
    prefetch: int,
) -> Generator[tuple[Draft, list[Reading]]]:
    """Read micro-batches ahead in fairseq2's threads; the pipeline ends with the generator.

    Args:
        drafts: micro-batches; taken from it, in the calling thread, as they are read ahead.
        read: a row and its memory to :class:`Reading`; called from several threads.
        num_workers: threads, each with a pipeline of its own. One pipeline that maps in parallel would wait for the
            slowest of every ``num_workers`` rows, in as many threads as there are cores.
        prefetch: micro-batches that are read ahead.
    """
    from fairseq2.data.data_pipeline import read_iterator

    hands: list[SimpleQueue[_Box[list[Place]] | None]] = [SimpleQueue() for _ in range(num_workers)]

    def pipeline(hand: SimpleQueue[_Box[list[Place]] | None]) -> Any:
        tasks = iter(hand.get, None)
        source = read_iterator(tasks, lambda iterator: iterator, infinite=False, skip_pickling_check=True)
        return source.map(_caught(read)).prefetch(_AHEAD).and_return()  # prefetch has a thread of its own

    results = [iter(pipeline(hand)) for hand in hands]
    dealt, taken = cycle(hands), cycle(results)

    def collected(draft: Draft) -> tuple[Draft, list[Reading]]:
        readings: list[Reading] = []
        while len(readings) < len(draft.entries):
            result = next(taken)
            while not (found := _value(next(result))):
                pass
            readings += found
        return draft, readings

    begun: deque[Draft] = deque()  # dealt out, not yet yielded
    try:
        for draft in drafts:
            begun.append(draft)
            for task, hand in zip(draft.tasks(num_workers), dealt, strict=False):
                hand.put(_Box(task))
                hand.put(_Box([]))  # an item comes out of a pipeline only when the next one has gone in
            if len(begun) > prefetch:
                yield collected(begun.popleft())
        while begun:
            yield collected(begun.popleft())
    finally:
        for hand in hands:
            with suppress(Empty):
                while True:
                    hand.get_nowait()  # what nobody waits for any more
            hand.put(None)
        for result in results:
            deque(result, maxlen=0)  # to its end: a pipeline that is dropped waits for its thread and lets nobody run


class _Failure:
    """An exception on its way through the native pipeline, which would print it and lose its kind."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Box(Generic[T]):
    """Keeps a value opaque to the pipeline."""

    def __init__(self, value: T) -> None:
        self.value = value


def _caught(read: Callable[[Place], Reading]) -> Callable[[_Box[list[Place]]], _Box[list[Reading]] | _Failure]:
    def call(task: _Box[list[Place]]) -> _Box[list[Reading]] | _Failure:
        try:
            return _Box([read(place) for place in task.value])
        except Exception as error:
            return _Failure(error)

    return call


def _value(result: _Box[list[Reading]] | _Failure) -> list[Reading]:
    if isinstance(result, _Failure):
        raise result.error
    return result.value
