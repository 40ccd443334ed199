"""A wide grouped convolution over frames as a few large matrix products.

With a kernel position written as k = a S + b, what the conv sums over k becomes S products of dilated windows of K / S
frames, each shifted by b frames: all of them are one product of a row of frames times S o columns, whose sums along
diagonals are the result. That costs the arithmetic of the conv and S copies of its output, where the textbook's way
costs K copies of its input. The weight's gradient turns the same two factors round.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from audio_ssl.model.kernels import product_dtype
from audio_ssl.precision import full_precision

_SHIFTS = 8  # S; copies of frames are K / S + S, fewest at the root of K, and products are square enough


def grouped_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int, groups: int) -> Tensor:
    """What ``Conv1d`` with these settings gives on the last axis but one; for devices whose library is slow at it.

    Args:
        x: (B, T, C).
        weight: (C', C / groups, K), as ``Conv1d`` holds it.
        bias: (C',) or None.
        stride: frames a step.
        padding: zero frames at both ends.
        groups: groups of channels.

    Returns:
        (B, T', C').
    """
    dtype = product_dtype(x)
    num_frames = (x.shape[1] + 2 * padding - weight.shape[2]) // stride + 1
    kernel = _kernel_by_groups(weight.to(dtype), groups=groups, stride=stride)
    frames = _by_groups(
        x.to(dtype), groups=groups, stride=stride, before=padding, length=num_frames + kernel.shape[-1] - 1
    )
    y: Tensor = _Correlate.apply(frames, kernel)  # type: ignore[no-untyped-call]
    y = y.permute(1, 2, 0, 3).flatten(2)  # (G, B, T', o) -> (B, T', G * o)
    return y if bias is None else y + bias.to(dtype)


def grouped_weight_gradient(grad: Tensor, x: Tensor, *, kernel: int, padding: int, groups: int) -> Tensor:
    """The gradient of :func:`grouped_conv`'s weight at stride 1.

    Measured on 2 threads, 2 x 749 frames, 768 channels in 16 groups, K = 128: bf16 24 ms against 87 for oneDNN's own,
    fp32 88 against 120.

    Args:
        grad: (B, T', C'), of the result.
        x: (B, T, C), of the number format of ``grad``.
        kernel: K.
        padding: zero frames at both ends of ``x``.
        groups: groups of channels.

    Returns:
        (C', C / groups, K).
    """
    width = _whole_shifts(kernel)
    frames = _by_groups(x, groups=groups, stride=1, before=padding, length=grad.shape[1] + width - 1)
    of_kernel = _kernel_gradient(frames, _by_groups(grad, groups=groups, stride=1, before=0, length=grad.shape[1]))
    return of_kernel.flatten(0, 1)[..., :kernel]


class _Correlate(torch.autograd.Function):
    """``y[t] = sum_k w[k] x[t + k]`` in every group: (G, B, L, c), (G, o, c, K) -> (G, B, L - K + 1, o)."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, kernel: Tensor) -> Tensor:
        """Correlate."""
        ctx.save_for_backward(frames, kernel)
        with full_precision(frames.device):  # on CUDA autocast takes sums out of the number format of the products
            return _correlate(frames, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of frames and kernel."""
        grad, (frames, kernel) = gradients[0].contiguous(), ctx.saved_tensors
        of_frames = of_kernel = None
        if ctx.needs_input_grad[0]:
            reach = kernel.shape[-1] - 1
            of_frames = _correlate(F.pad(grad, (0, 0, reach, reach)), kernel.flip(-1).transpose(1, 2))
        if ctx.needs_input_grad[1]:
            of_kernel = _kernel_gradient(frames, grad)
        return of_frames, of_kernel


def _correlate(frames: Tensor, kernel: Tensor) -> Tensor:
    groups, rows, length, _ = frames.shape
    outputs, width = kernel.shape[1], kernel.shape[3]
    windows = _windows(frames, width)  # (G, B * n, K / S * c)
    taps = kernel.reshape(*kernel.shape[:3], -1, _SHIFTS).permute(0, 3, 2, 4, 1)  # (G, o, c, K) -> (G, K / S, c, S, o)
    shifted = torch.bmm(windows, taps.flatten(3, 4).flatten(1, 2)).view(groups, rows, -1, _SHIFTS, outputs)
    of_group, of_row, of_frame, of_shift, _ = shifted.stride()
    # The part of shift b for frame t lies at t + b.
    size = (groups, rows, length - width + 1, _SHIFTS, outputs)
    return shifted.as_strided(size, (of_group, of_row, of_frame, of_frame + of_shift, 1)).sum(3)


def _kernel_gradient(frames: Tensor, grad: Tensor) -> Tensor:
    """(G, B, L, c), (G, B, T', o) -> (G, o, c, K)."""
    groups, rows, num_frames, outputs = grad.shape
    width = frames.shape[2] - num_frames + 1
    windows = _windows(frames, width)
    padded = F.pad(grad, (0, 0, _SHIFTS - 1, _SHIFTS - 1))
    size = (groups, rows, num_frames + _SHIFTS - 1, _SHIFTS * outputs)
    shifted = padded.as_strided(size, (*padded.stride()[:2], outputs, 1)).flatten(1, 2)  # column S - 1 - b is shift b
    product = torch.bmm(shifted.transpose(1, 2), windows)  # (G, S * o, K / S * c)
    product = product.view(groups, _SHIFTS, outputs, width // _SHIFTS, -1).flip(1)
    return product.permute(0, 2, 4, 3, 1).flatten(3)


def _windows(frames: Tensor, width: int) -> Tensor:
    """Every S-th of ``width`` frames from each frame on: (G, B, L, c) -> (G, B * n, K / S * c), n = L - K + S."""
    groups, rows, length, channels = frames.shape
    of_group, of_row = frames.stride()[:2]
    size = (groups, rows, length - width + _SHIFTS, width // _SHIFTS, channels)
    windows = frames.as_strided(size, (of_group, of_row, channels, _SHIFTS * channels, 1))
    return windows.reshape(groups, size[1] * size[2], -1)


def _by_groups(x: Tensor, *, groups: int, stride: int, before: int, length: int) -> Tensor:
    """(B, T, C) -> (G, B, ``length``, ``stride`` * c), contiguous, from ``before`` zero frames on.

    A conv with a stride is one without it on frames that hold as many beside each other.
    """
    x = F.pad(x, (0, 0, before, length * stride - before - x.shape[1]))
    x = x.reshape(x.shape[0], length, stride, groups, -1)
    return x.permute(3, 0, 1, 2, 4).flatten(3).contiguous()


def _kernel_by_groups(weight: Tensor, *, groups: int, stride: int) -> Tensor:
    """(C', c, K) -> (G, o, ``stride`` * c, K / stride), with zeros up to whole shifts."""
    width = _whole_shifts(-(-weight.shape[2] // stride))
    weight = F.pad(weight, (0, width * stride - weight.shape[2]))
    weight = weight.reshape(*weight.shape[:2], width, stride).permute(0, 3, 1, 2)  # -> (C', stride, c, K / stride)
    return weight.reshape(groups, weight.shape[0] // groups, -1, width)


def _whole_shifts(kernel: int) -> int:
    return -(-kernel // _SHIFTS) * _SHIFTS
