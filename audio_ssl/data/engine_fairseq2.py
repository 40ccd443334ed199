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
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_ssl.errors import MissingExtraError

if TYPE_CHECKING:
    from audio_ssl.data.plan import MicroBatch
    from audio_ssl.data.rows import Reading


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
    micro_batches: Iterable[MicroBatch],
    read: Callable[[int], Reading],
    *,
    num_workers: int,
    prefetch: int,
) -> Generator[tuple[MicroBatch, list[Reading]]]:
    """Read micro-batches ahead in fairseq2's threads; the pipeline ends with the generator.

    Args:
        micro_batches: entries (see :class:`Loader`); taken from it as they are read ahead.
        read: entry to :class:`Reading`; called from several threads.
        num_workers: parallel calls of ``read``.
        prefetch: micro-batches that are read ahead.
    """
    from fairseq2.data.data_pipeline import read_iterator

    batches = iter(micro_batches)
    first = next(batches, None)
    if first is None:
        return
    begun: deque[MicroBatch] = deque()  # given to the pipeline, not yet yielded

    def rows() -> Iterator[int]:
        for batch in chain((first,), batches):
            begun.append(batch)
            yield from batch

    pipeline: Any = (
        read_iterator(rows(), lambda iterator: iterator, infinite=False, skip_pickling_check=True)
        .map(_caught(read), num_parallel_calls=num_workers)
        .prefetch(max(1, prefetch * len(first)))
        .and_return()
    )
    results = iter(pipeline)
    try:
        for result in results:
            while not begun[0]:
                yield begun.popleft(), []
            batch = begun.popleft()
            yield batch, [_value(result), *(_value(next(results)) for _ in batch[1:])]
        yield from ((batch, []) for batch in begun)
    finally:
        del results, pipeline


class _Failure:
    """An exception on its way through the native pipeline, which would print it and lose its kind."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Box:
    """Keeps a reading opaque to the pipeline."""

    def __init__(self, value: Reading) -> None:
        self.value = value


def _caught(read: Callable[[int], Reading]) -> Callable[[int], _Box | _Failure]:
    def call(row: int) -> _Box | _Failure:
        try:
            return _Box(read(row))
        except Exception as error:
            return _Failure(error)

    return call


def _value(result: _Box | _Failure) -> Reading:
    if isinstance(result, _Failure):
        raise result.error
    return result.value
