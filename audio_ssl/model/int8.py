"""Products of linear layers in 8-bit integers on a CPU: weights a channel, activations a frame at a time.

A frame has its own scale, taken from its own values when it comes ("dynamic"), so its result depends neither on padding
nor on the rows beside it, as torch's dynamic quantization does with its one scale for a whole batch.

Knows nothing of models; :class:`audio_ssl.model.kernels.FrozenLinear` asks whether it is on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

_WEIGHT_STEPS = 127
_LEAST_GELU, _LEAST_SILU = -0.17, -0.28
_OPS = ("qlinear_pointwise", "qlinear_prepack")
_is_on: ContextVar[bool] = ContextVar("int8_products", default=False)


@dataclass(frozen=True)
class InputRange:
    """How the values that come to a linear layer are laid over 0 to 255.

    Signed bytes would need no zero, but oneDNN multiplies unsigned ones alone fast.

    Attributes:
        zero: the byte that stands for zero.
        steps_above: bytes above it that the largest value of a frame takes; one is left free, for a bf16 factor may
            round it up by half a step.
        least: the lowest value there can be; None where values are as far below zero as above it.
    """

    zero: int
    steps_above: int
    least: float | None = None


SYMMETRIC = InputRange(128, 126)
AFTER_GELU = InputRange(32, 222, _LEAST_GELU)  # 1.8 times as fine: below zero there is next to nothing
AFTER_SILU = InputRange(48, 206, _LEAST_SILU)


@dataclass(frozen=True)
class Int8Weight:
    """A weight (out, in) for integer products.

    Attributes:
        data: in oneDNN's layout.
        scales: (out,) float32, of a step in each channel.
        zeros: (out,) int32.
    """

    data: Any
    scales: Tensor
    zeros: Tensor


@contextmanager
def int8_products() -> Iterator[None]:
    """Have frozen linear layers on the CPU multiply in integers, in this thread, where no gradient is wanted."""
    token = _is_on.set(True)
    try:
        yield
    finally:
        _is_on.reset(token)


def is_int8_on() -> bool:
    """Whether this thread is inside :func:`int8_products`."""
    return _is_on.get()


def missing_for_int8() -> str | None:
    """What this machine or this torch lacks for integer products, for people; None where nothing is."""
    if not all(hasattr(torch.ops.onednn, name) for name in _OPS):
        return f"torch {torch.__version__} has no oneDNN products of integers"
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    if has_vnni is None or not has_vnni():
        # without it sums of two products are cut off at 16 bits, and the result would be wrong in silence
        return "this processor has no AVX-512 VNNI instructions"
    return None


def quantize_weight(weight: Tensor) -> Int8Weight:
    """(out, in) float -> 127 steps a side in each channel, rounded to the nearest."""
    exact = weight.detach().float()
    scales = exact.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * _WEIGHT_STEPS) / _WEIGHT_STEPS
    steps = (exact / scales[:, None]).round().to(torch.int8)
    data = torch.ops.onednn.qlinear_prepack(steps.contiguous(), None)
    return Int8Weight(data, scales, torch.zeros(len(scales), dtype=torch.int32))


def quantize_frames(x: Tensor, spread: InputRange) -> tuple[Tensor, Tensor]:
    """Frames as bytes.

    Args:
        x: (N, in) float32 or bfloat16.
        spread: of its values.

    Returns:
        (N, in) uint8, and the size of a step in each frame (N, 1), of the dtype of ``x``.
    """
    largest = (x.abs() if spread.least is None else x).amax(dim=-1, keepdim=True)
    per_step = spread.steps_above / largest.clamp(min=1e-30)
    if spread.least is not None:
        per_step = per_step.clamp(max=-spread.zero / spread.least)
    # By way of signed bytes, to which torch casts many times as fast: theirs differ from the unsigned by a bit.
    steps = torch.mul(x, per_step)
    if spread.zero != 128:
        steps = steps.add_(spread.zero - 128)
    return steps.round_().to(torch.int8).view(torch.uint8).bitwise_xor_(128), per_step.reciprocal()


def int8_linear(x: Tensor, weight: Int8Weight, bias: Tensor | None, spread: InputRange = SYMMETRIC) -> Tensor:
    """(..., in) -> (..., out) of the dtype of ``x``, float32 or bfloat16."""
    frames, step = quantize_frames(x.reshape(-1, x.shape[-1]), spread)
    product = torch.ops.onednn.qlinear_pointwise(
        frames, 1.0, spread.zero, weight.data, weight.scales, weight.zeros, None, 1.0, 0, x.dtype, "none", [], ""
    )
    result = product.mul_(step) if bias is None else torch.addcmul(bias.to(x.dtype), product, step)
    return cast(Tensor, result.view(*x.shape[:-1], -1))
