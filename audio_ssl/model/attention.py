"""Multi-head self-attention, with kernels of its own for the CPU.

Knows nothing of residuals, norms or positions.

Reference: Attention is all you need (1706.03762) section 3.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from audio_ssl.model.dropout import Droppings, draw_seed, keep_factor
from audio_ssl.precision import full_precision

_CHUNK = 4 << 20  # attention weights that are in work at a time: 8 MB in bf16, so that they stay in the cache


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: D.
        num_heads: H, must divide D.
        dropout: rate on the attention weights.
    """

    def __init__(self, dim: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.query = bert_linear(dim, dim)
        self.key = bert_linear(dim, dim)
        self.value = bert_linear(dim, dim)
        self.output = bert_linear(dim, dim)
        self.num_heads = num_heads
        self.dropout = dropout

    def forward(self, x: Tensor, attends: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: (B, T, D).
            attends: (B, 1, 1, T) bool, True on frames that may be attended to; None for all.
        """
        query, key, value = (self._split_heads(linear(x)) for linear in (self.query, self.key, self.value))
        rate = self.dropout if self.training else 0.0
        if x.device.type == "cpu":
            context = attend_on_cpu(query, key, value, attends=attends, rate=rate)
        else:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=attends, dropout_p=rate)
        merged = context.transpose(1, 2).flatten(2)  # (B, H, T, D/H) -> (B, T, D)
        return self.output(merged)  # type: ignore[no-any-return]

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, T, D) -> (B, H, T, D/H)


def bert_linear(in_dim: int, out_dim: int) -> nn.Linear:
    """A linear layer initialised as BERT's: weights normal with deviation 0.02, bias zero."""
    linear = nn.Linear(in_dim, out_dim)
    nn.init.normal_(linear.weight, mean=0.0, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


def attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, *, attends: Tensor | None, rate: float) -> Tensor:
    """Scaled dot-product attention, what ``F.scaled_dot_product_attention`` gives, by a few heads at a time.

    Measured on 2 threads, 2 x 749 frames, 12 heads, bf16, forward: 10.4 ms against 27.0 ms for torch's fused kernel;
    1 x 2999 frames 67 against 189. In fp32 torch's is the faster one, so it stays where there is nothing to train.

    Args:
        query: (B, H, T, D/H) float.
        key: as ``query``.
        value: as ``query``.
        attends: (B, 1, 1, T) bool, True on frames that may be attended to; None for all.
        rate: of dropout on the attention weights.

    Returns:
        (B, H, T, D/H), in memory as (B, T, H, D/H).
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        result: Tensor = _Attention.apply(query, key, value, attends, rate)  # type: ignore[no-untyped-call]
        return result
    if rate == 0 and query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attends)
    factors = _by_heads(query, key, value, rate=rate)
    return _by_frames(_attend(factors, padding=_Padding.of(attends, query), rate=rate), query)


class _Attention(torch.autograd.Function):
    """Attention that keeps one number a weight for its backward pass: the weight, negative where dropout took it.

    The same in torch's operations keeps weights, mask and their product (docs/decisions/0010).
    """

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd passes by position
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, attends: Tensor | None, rate: float
    ) -> Tensor:
        """Attend."""
        factors = _by_heads(query, key, value, rate=rate)
        signed = query.new_empty(factors.query.shape[0], query.shape[2], key.shape[2])  # (N, T, T)
        padding = _Padding.of(attends, query)
        context = _by_frames(_attend(factors, padding=padding, rate=rate, signed=signed), query)
        ctx.save_for_backward(*factors, signed, context)
        ctx.rate = rate
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, signed, context = ctx.saved_tensors
        shape = context.shape
        grad, context = (x.reshape(query.shape) for x in (gradients[0], context))  # (B, H, T, D/H) -> (N, T, D/H)
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))
        # A softmax's gradient wants the sum over a row of weights times their gradients, which is that of output
        # times its gradient: FlashAttention (2205.14135), appendix B.2.
        wide = torch.promote_types(grad.dtype, torch.float32)
        row_sums = (grad.to(wide) * context.to(wide)).sum(-1, keepdim=True).to(grad.dtype)  # (N, T, 1)
        for part in _parts(signed.shape):
            weights = signed[part].abs()
            left = signed[part].relu()  # by dropout
            torch.bmm(left.transpose(1, 2), grad[part], out=of_value[part])
            of_scores = grad[part] @ value[part].transpose(1, 2)
            of_scores.mul_(left).addcmul_(weights, row_sums[part], value=-1)
            torch.bmm(of_scores, key[part], out=of_query[part])
            torch.bmm(of_scores.transpose(1, 2), query[part], out=of_key[part])
        for gradient in (of_query, of_key):
            gradient.mul_(query.shape[-1] ** -0.5)
        of_value.mul_(keep_factor(ctx.rate))
        return of_query.view(shape), of_key.view(shape), of_value.view(shape), None, None


class _Factors(NamedTuple):
    """Query, key, and value times what dropout's mean wants: (N, T, D/H) each, N the heads of all rows."""

    query: Tensor
    key: Tensor
    value: Tensor


def _by_heads(query: Tensor, key: Tensor, value: Tensor, *, rate: float) -> _Factors:
    """Each head's frames beside each other in memory, as oneDNN would copy them for every product."""
    laid_out = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value)]
    for place, x in zip(laid_out, (query, key, value), strict=True):
        place.copy_(x)  # half of what a product by a number takes across heads
    if rate > 0:
        laid_out[2].mul_(keep_factor(rate))
    return _Factors(*(x.flatten(0, 1) for x in laid_out))


def _by_frames(context: Tensor, query: Tensor) -> Tensor:
    """(N, T, D/H) -> (B, H, T, D/H), in memory as (B, T, H, D/H): what is kept is what the next layer keeps, too."""
    return context.view(query.shape).transpose(1, 2).contiguous().transpose(1, 2)


class _Padding(NamedTuple):
    """Frames that no frame may attend to, of each head: (N, 1, T) bool, and N columns before which there is none.

    Padding stands at the end, and batches of like lengths hold little of it: a mask over all scores would cost more
    than their softmax (6 x 500 frames, 12 heads, bf16, one thread: 3.7 ms against 3.1 in a call).
    """

    is_hidden: Tensor
    starts: list[int]

    @classmethod
    def of(cls, attends: Tensor | None, query: Tensor) -> _Padding | None:
        """Of :func:`attend_on_cpu`'s ``attends``."""
        if attends is None:
            return None
        starts = attends[:, 0, 0].long().cumprod(dim=-1).sum(dim=-1)  # (B, T) -> (B,)
        is_hidden, starts = (x.repeat_interleave(query.shape[1], dim=0) for x in (~attends[:, 0], starts))
        return cls(is_hidden, starts.tolist())

    def hide(self, scores: Tensor, part: slice) -> None:
        """Give the scores (n, T, T) of some heads no weight where there is padding, in place."""
        start = min(self.starts[part])
        if start < scores.shape[-1]:
            scores[..., start:].masked_fill_(self.is_hidden[part, :, start:], -torch.inf)


def _attend(factors: _Factors, *, padding: _Padding | None, rate: float, signed: Tensor | None = None) -> Tensor:
    """Context (N, T, D/H); the weights go to ``signed`` (N, T, T), negative where dropout took them."""
    query, key, value = factors
    context = torch.empty_like(query)
    droppings = Droppings(rate, draw_seed()) if rate > 0 else None
    shape = torch.Size((*query.shape[:2], key.shape[1]))
    parts = _parts(shape)
    # Where nothing is kept, scores of every part take the same memory, which the cache still holds.
    room = query.new_empty(parts[0].stop, *shape[1:]) if signed is None else signed
    with full_precision(query.device):  # the precision is that of the factors
        for part in parts:
            place = room[: part.stop - part.start] if signed is None else room[part]
            scores = place.baddbmm_(query[part], key[part].transpose(1, 2), beta=0, alpha=query.shape[-1] ** -0.5)
            if padding is not None:
                padding.hide(scores, part)
            weights = torch.softmax(scores, dim=-1, out=scores)
            left = weights if droppings is None else droppings.mark(weights).relu()
            torch.bmm(left, value[part], out=context[part])
    return context


def _parts(shape: torch.Size) -> list[slice]:
    """Of the heads of all rows, in scores of ``shape`` (N, T, T): as many as :data:`_CHUNK` bears, at least one."""
    total, frames, width = shape
    at_once = max(1, _CHUNK // max(1, frames * width))
    at_once = -(-total // -(-total // at_once))  # equal parts, for every shape of product costs a kernel
    return [slice(start, min(start + at_once, total)) for start in range(0, total, at_once)]
