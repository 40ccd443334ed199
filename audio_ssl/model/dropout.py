"""Dropout whose mask costs a CPU little: fifteen random bits an element, from a quick generator, and nothing to keep.

torch draws one number an element from a sequential Mersenne twister there: 100 ms a layer for the attention weights of
2 x 15 s in the base model, a sixth of its whole step. Here the bits become a sign by integer operations on whole
vectors (a comparison that gives booleans, which then become floats, takes 20 times as long), and a mask that the
backward pass wants again is drawn again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 15
_SIGN_BIT = -0x8000
_ONE_IN_BF16 = 0x3F80


class Dropout(nn.Module):
    """Zero each element with chance ``rate`` in training, and scale the others to keep the mean.

    Args:
        rate: from 0 to below 1; on a CPU rounded to a multiple of 2**-15.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, to the same."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        result: Tensor = _Dropout.apply(x, self.rate, draw_seed())  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"rate={self.rate}"


class _Dropout(torch.autograd.Function):
    """Dropout that keeps its seed for the backward pass, not its mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, seed: int) -> Tensor:
        """Zero and scale."""
        ctx.rate, ctx.seed = rate, seed
        return _drop(x, rate, seed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The same of the gradient."""
        return _drop(gradients[0], ctx.rate, ctx.seed), None, None


def _drop(x: Tensor, rate: float, seed: int) -> Tensor:
    is_kept = Droppings(rate, seed).signs(x.shape).bitwise_right_shift_(15).bitwise_not_()  # all bits or none
    kept = is_kept.bitwise_and_(_ONE_IN_BF16).view(torch.bfloat16).to(x.dtype)  # 1 or 0
    return (x * kept).mul_(keep_factor(rate))


class Droppings:
    """A stream that says which elements go; on the CPU only.

    Args:
        rate: chance that an element goes.
        seed: of the stream; see :func:`draw_seed`.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._threshold = _threshold(rate)
        self._generator = np.random.SFC64(seed)

    def signs(self, shape: torch.Size) -> Tensor:
        """The next elements: int16 of ``shape``, negative where one goes."""
        count = shape.numel()
        words = self._generator.random_raw((count + 3) // 4)
        bits = torch.from_numpy(words.view(np.int16))[:count].view(shape)  # uniform from -2**15 to 2**15 - 1
        return bits.bitwise_right_shift_(1).sub_(self._threshold - _LEVELS // 2)

    def mark(self, weights: Tensor) -> Tensor:
        """Turn the sign of those that go, in place; ``weights`` must not be negative."""
        signs = self.signs(weights.shape)
        if weights.dtype == torch.bfloat16:
            weights.view(torch.int16).bitwise_or_(signs.bitwise_and_(_SIGN_BIT))
            return weights
        return weights.copysign_(signs.to(weights.dtype))


def draw_seed() -> int:
    """A seed for a mask, from torch's default CPU generator: one draw, whatever the mask's size."""
    return int(torch.empty((), dtype=torch.int64).random_())


def keep_factor(rate: float) -> float:
    """What the elements that stay are multiplied by, to keep the mean."""
    return _LEVELS / (_LEVELS - _threshold(rate))


def _threshold(rate: float) -> int:
    return min(round(rate * _LEVELS), _LEVELS - 1)
