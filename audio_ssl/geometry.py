"""Samples to frames: the only copy of the arithmetic of strided, unpadded windows: a conv stack, or stacked spectra.

Works on plain integers, numpy arrays and tensors alike, and imports none of them.

Reference: wav2vec 2.0 (2006.11477) section 4.2: kernels 10,3,3,3,3,2,2 and strides 5,2,2,2,2,2,2 give a hop of
320 samples and a receptive field of 400 samples (20 ms and 25 ms at 16 kHz).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar, cast

Count = TypeVar("Count")  # int, numpy integer array or integer tensor


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel widths and strides of a conv stack, in samples of each layer's input.

    Attributes:
        kernels: kernel width of each layer, first layer first.
        strides: stride of each layer.
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of_stacked_windows(cls, window_samples: int, hop_samples: int, *, stack: int) -> ConvGeometry:
        """Frames of ``stack`` neighbouring windows each, none of which is in two frames: one wide layer."""
        return cls((window_samples + (stack - 1) * hop_samples,), (stack * hop_samples,))

    def num_frames(self, num_samples: Count) -> Count:
        """Frames that ``num_samples`` samples give: ``floor((n - k) / s) + 1`` a layer, never below 0.

        Args:
            num_samples: an int, or an integer array/tensor of any shape.

        Returns:
            The same type and shape: 0 where the input is shorter than the receptive field.
        """
        n: Any = num_samples
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            n = (n - kernel) // stride + 1
            n = n * (n > 0)
        return cast(Count, n)

    @property
    def hop_samples(self) -> int:
        """Samples between the starts of neighbouring frames: the product of the strides."""
        hop = 1
        for stride in self.strides:
            hop *= stride
        return hop

    @property
    def receptive_field_samples(self) -> int:
        """Samples that one frame sees; the shortest input that gives a frame."""
        field, hop = 1, 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            field += (kernel - 1) * hop
            hop *= stride
        return field

    def frame_span_samples(self, frame_idx: int) -> tuple[int, int]:
        """Half-open range of samples that frame ``frame_idx`` covers."""
        start = frame_idx * self.hop_samples
        return start, start + self.receptive_field_samples

    def frame_centre_s(self, frame_idx: int, *, sample_rate_hz: int) -> float:
        """Centre of a frame's receptive field in seconds from the utterance's start."""
        start, stop = self.frame_span_samples(frame_idx)
        return (start + stop) / 2 / sample_rate_hz

    def samples_for_frames(self, num_frames: int) -> int:
        """The fewest samples that give ``num_frames`` frames (0 for 0 frames)."""
        return (num_frames - 1) * self.hop_samples + self.receptive_field_samples if num_frames > 0 else 0


def fft_samples(window_samples: int) -> int:
    """Points of the Fourier transform of a window: the next power of two, as Kaldi and NeMo take it."""
    return 1 << (window_samples - 1).bit_length()


def count_empty_mel_bands(num_bands: int, band_hz: tuple[float, float], *, bin_hz: float) -> int:
    """Triangular mel bands (HTK scale) that no bin of the Fourier transform lies in: they would be zero for any sound.

    Args:
        num_bands: how many, evenly spaced on the mel scale.
        band_hz: lower edge of the first and upper edge of the last.
        bin_hz: distance of neighbouring bins; bin 0 is at 0 Hz.
    """
    low, high = (math.log1p(hz / 700) for hz in band_hz)
    edges = [700 * math.expm1(low + (high - low) * i / (num_bands + 1)) for i in range(num_bands + 2)]
    return sum((edges[i] // bin_hz + 1) * bin_hz >= edges[i + 2] for i in range(num_bands))
