"""The first conv and the norm over time that follows it, as one product.

A conv of one channel is linear in the K samples under its kernel, so mean and variance of each of its C outputs over
time follow from the mean and the K x K covariance of these samples. The norm then is a factor on the kernel, and the
(B, T, C) activations, the largest of the model, are written once instead of being read for their statistics first, and
no float32 copies of them are made: docs/decisions/0010.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_ssl.precision import full_precision
from audio_ssl.tensors import is_valid_mask


@dataclass(frozen=True)
class TimeNormedConv:
    """A conv of one channel and the norm of its output, for the waveforms that it was made for.

    Attributes:
        mean: (B, 1, K) float32, of the samples under the kernel.
        taps: (B, K + 1, C) float32, the kernel with the norm's factor; the last one is the norm's bias.
        stride: samples a frame.
    """

    mean: Tensor
    taps: Tensor
    stride: int

    def __call__(self, waveforms: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Convolve and normalise.

        Args:
            waveforms: (B, S), those of :func:`fit_time_normed_conv` or a stretch of them.
            num_frames: (B,) valid frames of the result; beyond them it is the norm's bias. None when all are.

        Returns:
            (B, T, C).
        """
        centred = _samples_under(waveforms, self.taps.shape[1] - 1, self.stride) - self.mean
        if num_frames is not None:
            centred = centred.masked_fill(~is_valid_mask(num_frames, centred.shape[1])[..., None], 0.0)
        # The bias by a column of ones: torch would write it into the whole result first.
        return F.pad(centred, (0, 1), value=1.0) @ self.taps  # (B, T, K + 1) x (B, K + 1, C) -> (B, T, C)


def fit_time_normed_conv(
    waveforms: Tensor,
    weight: Tensor,
    *,
    stride: int,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    num_frames: Tensor | None,
) -> TimeNormedConv:
    """What gives ``TimeNorm(conv(waveforms))``; a bias of the conv would be taken away by the norm.

    Args:
        waveforms: (B, S) float.
        weight: (C, 1, K), of the conv.
        stride: samples a frame.
        norm_weight: (C,).
        norm_bias: (C,).
        eps: added to the variance.
        num_frames: (B,) valid frames of the result; None when all are.
    """
    with full_precision(waveforms.device):
        mean, covariance = _moments(_samples_under(waveforms, weight.shape[-1], stride), num_frames)
        kernel = weight[:, 0].float()  # (C, K)
        variance = ((kernel @ covariance) * kernel).sum(-1).clamp(min=0)  # (C, K) x (B, K, K) -> (B, C)
        scale = norm_weight * torch.rsqrt(variance + eps)
        taps = (kernel * scale[..., None]).transpose(1, 2)  # (B, C, K) -> (B, K, C)
        taps = torch.cat([taps, norm_bias.float().expand(taps.shape[0], 1, -1)], dim=1)  # -> (B, K + 1, C)
    return TimeNormedConv(mean, taps, stride)


def _samples_under(waveforms: Tensor, kernel: int, stride: int) -> Tensor:
    return waveforms.float().unfold(1, kernel, stride)  # (B, S) -> (B, T, K)


def _moments(frames: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean over a row's valid frames (B, 1, K) and covariance (B, K, K) of samples (B, T, K)."""
    if num_frames is None:
        mean = frames.mean(dim=1, keepdim=True)
        centred, count = frames - mean, frames.shape[1]
        return mean, centred.transpose(1, 2) @ centred / count
    is_padding = ~is_valid_mask(num_frames, frames.shape[1])[..., None]
    counts = num_frames.clamp(min=1)[:, None, None]
    mean = frames.masked_fill(is_padding, 0.0).sum(dim=1, keepdim=True) / counts
    centred = (frames - mean).masked_fill(is_padding, 0.0)
    return mean, centred.transpose(1, 2) @ centred / counts
