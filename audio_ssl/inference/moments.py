"""Mean and deviation of a long utterance, so that its windows are normalised as the whole would be."""

from __future__ import annotations

from threading import Lock

import numpy as np

from audio_ssl.data.waveform import VARIANCE_FLOOR
from audio_ssl.errors import AudioError
from audio_ssl.inference.models import AudioNeeds
from audio_ssl.inference.source import Source
from audio_ssl.inference.windows import WindowSettings


class Moments:
    """Reads a long utterance once, in pieces, when its first window asks; threads may ask at the same time.

    Args:
        source: the utterances.
        windows: pieces are as long as windows.
        needs: of the model.
    """

    def __init__(self, source: Source, windows: WindowSettings, needs: AudioNeeds) -> None:
        self._source, self._windows, self._needs = source, windows, needs
        self._lock = Lock()
        self._row: int | None = None
        self._value = (0.0, 1.0)

    def of(self, row: int) -> tuple[float, float]:
        """(mean, standard deviation with the usual floor); the last row's stay in memory, long rows come in turn."""
        with self._lock:
            if self._row != row:
                self._value, self._row = self._measure(row), row
            return self._value

    def _measure(self, row: int) -> tuple[float, float]:
        count, first, second = 0, 0.0, 0.0
        length, rate = self._source.num_samples(row), self._source.rate_hz(row)
        step = max(int(self._windows.max_s * rate), 1)
        for start in range(0, length, step):
            part = self._source.load(row, start, min(step, length - start), to_hz=self._needs.sample_rate_hz)
            exact = part.astype(np.float64)
            count, first, second = count + len(part), first + exact.sum(), second + (exact**2).sum()
        if not np.isfinite(first + second):
            raise AudioError(f"{self._source.name(row)[0]} must hold finite samples, it holds NaN or infinity")
        mean = first / count
        return mean, float(np.sqrt(max(second / count - mean**2, 0.0) + VARIANCE_FLOOR))
