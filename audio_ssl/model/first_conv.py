"""The first conv and the norm over time that follows it, as one product.

A conv of one channel is linear in the K samples under its kernel, so mean and variance of each of its C outputs over
time follow from the mean and the K x K covariance of these samples. The norm then is a factor on the kernel, and the
(B, T, C) activations, the largest of the model, are written once instead of being read for their statistics first, and
no float32 copies of them are made: docs/decisions/0010.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audio_ssl.precision import full_precision
from audio_ssl.tensors import is_valid_mask


def conv_then_time_norm(
    waveforms: Tensor,
    weight: Tensor,
    *,
    stride: int,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    num_frames: Tensor | None,
) -> Tensor:
    """What ``TimeNorm(conv(waveforms))`` gives; a bias of the conv would be taken away by the norm.

    Args:
        waveforms: (B, S) float.
        weight: (C, 1, K), of the conv.
        stride: samples a frame.
        norm_weight: (C,).
        norm_bias: (C,).
        eps: added to the variance.
        num_frames: (B,) valid frames of the result; None when all are.

    Returns:
        (B, T, C); the norm's bias beyond a row's frames.
    """
    with full_precision(waveforms.device):
        frames = waveforms.float().unfold(1, weight.shape[-1], stride)  # (B, S) -> (B, T, K)
        centred, covariance = _centre(frames, num_frames)
        kernel = weight[:, 0].float()  # (C, K)
        variance = ((kernel @ covariance) * kernel).sum(-1)  # (C, K) x (B, K, K) -> (B, C)
        scale = norm_weight * torch.rsqrt(variance + eps)
        taps = (kernel * scale[..., None]).transpose(1, 2)  # (B, C, K) -> (B, K, C)
    return torch.baddbmm(norm_bias, centred, taps)  # (B, T, K) x (B, K, C) -> (B, T, C)


def _centre(frames: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor]:
    """Samples under the kernel without their mean over time (B, T, K), zero beyond a row's frames; their covariance."""
    if num_frames is None:
        centred = frames - frames.mean(dim=1, keepdim=True)
        return centred, centred.transpose(1, 2) @ centred / frames.shape[1]
    is_padding = ~is_valid_mask(num_frames, frames.shape[1])[..., None]
    count = num_frames.clamp(min=1)[:, None, None]
    mean = frames.masked_fill(is_padding, 0.0).sum(dim=1, keepdim=True) / count
    centred = (frames - mean).masked_fill(is_padding, 0.0)
    return centred, centred.transpose(1, 2) @ centred / count
