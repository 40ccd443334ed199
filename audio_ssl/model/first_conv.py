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

from audio_ssl.model.time_stats import TimeStats
from audio_ssl.precision import full_precision
from audio_ssl.tensors import is_valid_mask


@dataclass(frozen=True)
class TimeNormedConv:
    """A conv of one channel and the norm of its output, for the waveforms that it was made for.

    Attributes:
        mean: (B or 1, 1, K) float32, of the samples under the kernel.
        taps: (B or 1, K', C) float32, the kernel with the norm's factor, the norm's bias, and zeros up to K'.
        kernel: K.
        stride: samples a frame.
    """

    mean: Tensor
    taps: Tensor
    kernel: int
    stride: int

    def __call__(self, waveforms: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Convolve and normalise.

        Args:
            waveforms: (B, S), those of :func:`fit_time_normed_conv` or a stretch of them.
            num_frames: (B,) valid frames of the result; beyond them it is the norm's bias. None when all are.

        Returns:
            (B, T, C).
        """
        centred = _samples_under(waveforms, self.kernel, self.stride) - self.mean
        if num_frames is not None:
            centred = centred.masked_fill(~is_valid_mask(num_frames, centred.shape[1])[..., None], 0.0)
        # The bias by a column of ones: torch would write it into the whole result first.
        ones = self.taps.shape[1] - self.kernel
        return F.pad(centred, (0, ones), value=1.0) @ self.taps  # (B, T, K') x (B, K', C) -> (B, T, C)


def fit_time_normed_conv(
    waveforms: Tensor,
    weight: Tensor,
    *,
    stride: int,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    num_frames: Tensor | None,
    stats: TimeStats | None = None,
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
        stats: of the samples under the kernel, over the utterance that all rows are stretches of; None to take them
            from each row.
    """
    with full_precision(waveforms.device):
        if stats is None:
            mean, covariance = _moments(_samples_under(waveforms, weight.shape[-1], stride), num_frames)
        else:
            mean, covariance = stats.mean, stats.spread
        kernel = weight[:, 0].float()  # (C, K)
        variance = ((kernel @ covariance) * kernel).sum(-1).clamp(min=0)  # (C, K) x (B, K, K) -> (B, C)
        scale = norm_weight * torch.rsqrt(variance + eps)
        taps = (kernel * scale[..., None]).transpose(1, 2)  # (B, C, K) -> (B, K, C)
        bias = norm_bias.float().expand(taps.shape[0], 1, -1)
        # A GPU multiplies half-precision rows at their full rate where their length is a multiple of 8.
        zeros = 0 if taps.device.type == "cpu" else -(taps.shape[1] + 1) % 8
        taps = F.pad(torch.cat([taps, bias], dim=1), (0, 0, 0, zeros))  # -> (B, K', C)
    return TimeNormedConv(mean, taps, weight.shape[-1], stride)


def _samples_under(waveforms: Tensor, kernel: int, stride: int) -> Tensor:
    return waveforms.float().unfold(1, kernel, stride)  # (B, S) -> (B, T, K)


def _moments(frames: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean over a row's valid frames (B, 1, K) and covariance (B, K, K) of samples (B, T, K), float32.

    Without gradients the sums are float64. A channel's variance is a small difference of covariances where the kernel
    takes away what its samples share; in float32 its last digits would hang on padding and on the order of the sums
    (a low-pass noise of 7 s: 4e-5 of the latents, against 6e-6).
    """
    if not torch.is_grad_enabled() and frames.device.type != "mps":  # which has no float64
        frames = frames.double()
    mean, covariance = _central_moments(frames, num_frames)
    return mean.float(), covariance.float()


def _central_moments(frames: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor]:
    if num_frames is None:
        mean = frames.mean(dim=1, keepdim=True)
        centred, count = frames - mean, frames.shape[1]
        return mean, centred.transpose(1, 2) @ centred / count
    is_padding = ~is_valid_mask(num_frames, frames.shape[1])[..., None]
    counts = num_frames.clamp(min=1)[:, None, None]
    mean = frames.masked_fill(is_padding, 0.0).sum(dim=1, keepdim=True) / counts
    centred = (frames - mean).masked_fill(is_padding, 0.0)
    return mean, centred.transpose(1, 2) @ centred / counts
