"""What a stream reads: whole utterances or windows of long ones, decoded in threads ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioSSLError
from audio_ssl.inference.models import AudioNeeds
from audio_ssl.inference.moments import Moments
from audio_ssl.inference.reading import load_part
from audio_ssl.inference.source import Samples, Source
from audio_ssl.inference.windows import Window
from audio_ssl.model.time_stats import TimeStats

READ_AHEAD = 2
"""Batches that are read while one is computed."""


@dataclass(frozen=True)
class Job:
    """An utterance or a window of one.

    Attributes:
        row: the utterance.
        window: the part.
        is_last: whether no window of the utterance follows.
        is_windowed: whether the utterance was cut at all.
        is_left_of_seam: whether window and the next one are those that the cost of windows is measured on.
        total_frames: of the whole utterance.
    """

    row: int
    window: Window
    is_last: bool
    is_windowed: bool
    is_left_of_seam: bool
    total_frames: int


@dataclass(frozen=True)
class Loaded:
    """A job's waveform as the model wants it.

    Attributes:
        job: whose.
        waveform: (S,) float32.
        time_stats: of the recording that it is a window of; None where the model needs none.
    """

    job: Job
    waveform: Samples
    time_stats: TimeStats | None = None


class Loader:
    """Reads jobs; for several threads at once.

    Args:
        source: the utterances.
        needs: of the model.
    """

    def __init__(self, source: Source, needs: AudioNeeds) -> None:
        self._source, self._needs = source, needs
        self._moments = Moments(source, needs)

    def __call__(self, job: Job) -> Loaded | str:
        """The job with its waveform, or the reason why there is none."""
        try:
            # of a recording that breaks somewhere no window is read: the first pass over it tells
            whole = self._moments.of(job.row) if job.is_windowed else None
            window, to_hz = job.window, self._needs.sample_rate_hz
            waveform = load_part(self._source, job.row, window.start, window.num_samples, to_hz=to_hz)
        except (AudioSSLError, OSError) as error:
            return str(error)
        if not np.isfinite(waveform).all():
            return f"{self._source.name(job.row)[0]} must hold finite samples, it holds NaN or infinity"
        if whole is not None:
            return Loaded(job, whole.normalized(waveform), whole.time_stats)
        return Loaded(job, normalize(waveform) if self._needs.normalize else waveform)


def prefetched(
    batches: Iterable[list[Job]], load: Callable[[Job], Loaded | str], num_threads: int
) -> Iterator[tuple[list[Job], list[Loaded | str]]]:
    """Load the waveforms of each batch in threads, at most :data:`READ_AHEAD` batches before they are asked for."""
    pool = ThreadPoolExecutor(max(num_threads, 1), thread_name_prefix="decode")
    waiting: deque[tuple[list[Job], list[Future[Loaded | str]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(load, job) for job in batch]))
            if len(waiting) > READ_AHEAD:
                ready, futures = waiting.popleft()
                yield ready, [future.result() for future in futures]
        while waiting:
            ready, futures = waiting.popleft()
            yield ready, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
