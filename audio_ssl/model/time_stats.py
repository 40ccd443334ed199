"""Statistics over an utterance's time, summed up piece by piece, for norms that look at the whole utterance.

A long recording runs through an encoder in windows. Group norm after the first conv and the norm of mel bands want
mean and variance over the recording, not over the window; they are few numbers, and sums of them over pieces are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.geometry import ConvGeometry


@dataclass(frozen=True)
class TimeStats:
    """What a norm over time takes from a whole utterance; all rows of a batch share it.

    Attributes:
        mean: (1, 1, N) float32, of the N values at a time.
        spread: (1, N, N) float32, their covariance; (1, 1, N), their variances, where no more is wanted.
    """

    mean: Tensor
    spread: Tensor

    def to(self, device: torch.device) -> TimeStats:
        """The same on another device."""
        return TimeStats(self.mean.to(device), self.spread.to(device))


class TimeSums:
    """Sums over the values that an encoder norms over time, of one utterance that comes in pieces.

    Each time is counted once wherever the pieces are cut: samples that the next one needs too are kept. Sums are
    float64.

    Args:
        geometry: samples to the steps in which values come.
        values: (S,) float32 samples to (steps, N).
        is_linear: whether values are the samples themselves. Their covariance is then kept, and the statistics of
            samples that are shifted and scaled follow from those of the samples.
    """

    def __init__(self, geometry: ConvGeometry, values: Callable[[Tensor], Tensor], *, is_linear: bool) -> None:
        self.is_linear = is_linear
        self._geometry, self._values = geometry, values
        self._rest: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self._count = 0
        self._first: NDArray[np.float64] | float = 0.0
        self._second: NDArray[np.float64] | float = 0.0

    @torch.inference_mode()
    def add(self, samples: NDArray[np.float32]) -> None:
        """Take the next (S,) samples of the utterance."""
        waveform = np.concatenate([self._rest, samples])
        steps = self._geometry.num_frames(len(waveform))
        if steps:
            seen = torch.from_numpy(waveform[: self._geometry.samples_for_frames(steps)])
            values = self._values(seen).double().numpy()  # (S,) -> (times, N)
            self._count += len(values)
            self._first = self._first + values.sum(axis=0)
            self._second = self._second + (values.T @ values if self.is_linear else np.square(values).sum(axis=0))
        self._rest = waveform[steps * self._geometry.hop_samples :].copy()

    def stats(self, *, mean: float = 0.0, std: float = 1.0) -> TimeStats:
        """Of all samples so far.

        Args:
            mean: what will have been taken away from the samples when they reach the encoder; 0 unless linear.
            std: what they will then have been divided by; 1 unless linear.

        Raises:
            ValueError: no step has come, or other samples are asked for than sums tell of.
        """
        if not self._count:
            raise ValueError(f"an utterance must hold {self._geometry.receptive_field_samples} samples or more")
        if not self.is_linear and (mean, std) != (0.0, 1.0):
            raise ValueError("samples must be shifted and scaled before they are added: what is summed is not linear")
        centre = np.asarray(self._first) / self._count
        if self.is_linear:
            spread = np.asarray(self._second) / self._count - np.outer(centre, centre)
        else:
            spread = np.maximum(np.asarray(self._second) / self._count - np.square(centre), 0.0)[None]
        return TimeStats(
            torch.from_numpy((centre - mean) / std).float()[None, None], torch.from_numpy(spread / std**2).float()[None]
        )
