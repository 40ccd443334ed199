"""What a model takes from the whole of a long recording, so that its windows are treated as the whole would be.

Mean and deviation of the samples where waveforms are normalised, and the statistics of a norm over time: both from one
pass over the recording, piece by piece, before its first window. A mel front end behind a normalised waveform wants a
second pass, for energies follow from normalised samples alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from audio_ssl.data.threads import one_torch_thread
from audio_ssl.data.waveform import VARIANCE_FLOOR
from audio_ssl.errors import AudioError, AudioSSLError
from audio_ssl.inference.models import AudioNeeds
from audio_ssl.inference.reading import load_part, part_samples
from audio_ssl.inference.source import Samples, Source
from audio_ssl.model.time_stats import TimeStats

_PIECE_S = 30.0
_REMEMBERED = 8  # recordings: more than are read ahead of the one that is computed


@dataclass(frozen=True)
class WholeStats:
    """Of one recording.

    Attributes:
        mean: of its samples; 0 where the model does not want them normalised.
        std: their standard deviation with the usual floor; 1 where the model does not want them normalised.
        time_stats: what a norm over time goes by; None where there is none.
    """

    mean: float = 0.0
    std: float = 1.0
    time_stats: TimeStats | None = None

    def normalized(self, waveform: Samples) -> Samples:
        """(S,) float32 samples of the recording as the model wants them."""
        if (self.mean, self.std) == (0.0, 1.0):
            return waveform
        return ((waveform - self.mean) / self.std).astype(np.float32)


@dataclass
class _Entry:
    lock: Lock = field(default_factory=Lock)
    value: WholeStats | AudioSSLError | None = None


class Moments:
    """Reads a long recording when its first window asks; threads may ask at the same time.

    Args:
        source: the utterances.
        needs: of the model.
    """

    def __init__(self, source: Source, needs: AudioNeeds) -> None:
        self._source, self._needs = source, needs
        self._lock = Lock()
        self._known: OrderedDict[int, _Entry] = OrderedDict()

    def of(self, row: int) -> WholeStats:
        """Those of a row; of the last few rows they stay in memory, for long rows come in turn.

        Raises:
            AudioError: the recording cannot be read to its end, or holds NaN or infinity.
        """
        if not self._needs.normalize and self._needs.time_sums is None:
            return WholeStats()
        with self._lock:
            entry = self._known.setdefault(row, _Entry())
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        with entry.lock:
            if entry.value is None:
                try:
                    entry.value = self._measure(row)
                except (AudioSSLError, OSError) as error:
                    entry.value = error if isinstance(error, AudioSSLError) else AudioError(str(error))
        if isinstance(entry.value, AudioSSLError):
            raise AudioError(str(entry.value)) from entry.value
        return entry.value

    def _measure(self, row: int) -> WholeStats:
        normalize = self._needs.normalize
        sums = None if self._needs.time_sums is None else self._needs.time_sums()
        count, first, second = 0, 0.0, 0.0
        with one_torch_thread():
            for part in self._parts(row):
                exact = part.astype(np.float64)
                count, first, second = count + len(part), first + exact.sum(), second + np.square(exact).sum()
                if sums is not None and (sums.is_linear or not normalize):
                    sums.add(part)
            if not np.isfinite(first + second):
                raise AudioError(f"{self._source.name(row)[0]} must hold finite samples, it holds NaN or infinity")
            if not normalize:
                return WholeStats(time_stats=None if sums is None else sums.stats())
            mean = first / count
            stats = WholeStats(mean, float(np.sqrt(max(second / count - mean**2, 0.0) + VARIANCE_FLOOR)))
            if sums is None:
                return stats
            if sums.is_linear:
                return WholeStats(stats.mean, stats.std, sums.stats(mean=stats.mean, std=stats.std))
            for part in self._parts(row):
                sums.add(stats.normalized(part))
            return WholeStats(stats.mean, stats.std, sums.stats())

    def _parts(self, row: int) -> Iterator[Samples]:
        """The recording at the model's rate, each sample once."""
        length, to_hz = self._source.num_samples(row), self._needs.sample_rate_hz
        step = part_samples(_PIECE_S, from_hz=self._source.rate_hz(row), to_hz=to_hz)
        for start in range(0, length, step):
            yield load_part(self._source, row, start, min(step, length - start), to_hz=to_hz)
