"""Multi-head self-attention, with kernels of its own for the CPU.

Knows nothing of residuals, norms or positions.

Reference: Attention is all you need (1706.03762) section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    return _attend(query * query.shape[-1] ** -0.5, key, value * keep_factor(rate), attends=attends, rate=rate)


class _Attention(torch.autograd.Function):
    """Attention that keeps one number a weight for its backward pass: the weight, negative where dropout took it.

    The same in torch's operations keeps weights, mask and their product (docs/decisions/0010).
    """

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd passes by position
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, attends: Tensor | None, rate: float
    ) -> Tensor:
        """Attend."""
        query, value = query * query.shape[-1] ** -0.5, value * keep_factor(rate)
        signed = query.new_empty(*query.shape[:3], key.shape[2])  # (B, H, T, T)
        context = _attend(query, key, value, attends=attends, rate=rate, signed=signed)
        ctx.save_for_backward(query, key, value, signed, context)
        ctx.rate = rate
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, signed, context = ctx.saved_tensors
        grad = gradients[0]
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))
        # A softmax's gradient wants the sum over a row of weights times their gradients, which is that of output
        # times its gradient: FlashAttention (2205.14135), appendix B.2.
        wide = torch.promote_types(grad.dtype, torch.float32)
        row_sums = (grad.to(wide) * context.to(wide)).sum(-1, keepdim=True).to(grad.dtype)  # (B, H, T, 1)
        for part in _parts(signed.shape):
            weights = signed[part].abs()
            left = signed[part].relu()  # by dropout
            of_value[part] = left.transpose(1, 2) @ grad[part]
            of_scores = (
                (grad[part] @ value[part].transpose(1, 2)).mul_(left).addcmul_(weights, row_sums[part], value=-1)
            )
            of_query[part] = of_scores @ key[part]
            of_key[part] = of_scores.transpose(1, 2) @ query[part]
        return of_query.mul_(query.shape[-1] ** -0.5), of_key, of_value.mul_(keep_factor(ctx.rate)), None, None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, attends: Tensor | None, rate: float, signed: Tensor | None = None
) -> Tensor:
    """Context of scaled queries and values; the weights go to ``signed``, negative where dropout took them."""
    batch, heads, frames, head_dim = query.shape
    context = query.new_empty(batch, frames, heads, head_dim).transpose(1, 2)
    droppings = Droppings(rate, draw_seed()) if rate > 0 else None
    with full_precision(query.device):  # the precision is that of the factors
        for part in _parts(torch.Size((batch, heads, frames, key.shape[2]))):
            scores = query[part] @ key[part].transpose(1, 2)  # (H', T, D/H) -> (H', T, T)
            if attends is not None:
                scores.masked_fill_(~attends[part[0]], -torch.inf)
            weights = torch.softmax(scores, dim=-1, out=scores if signed is None else signed[part])
            left = weights if droppings is None else droppings.mark(weights).relu()
            context[part] = left @ value[part]
    return context


def _parts(shape: torch.Size) -> Iterator[tuple[int, slice]]:
    """Indices into (B, H, T, T): a row, and as many of its heads as :data:`_CHUNK` bears, at least one."""
    batch, heads, frames, width = shape
    at_once = max(1, min(heads, _CHUNK // max(1, frames * width)))
    at_once = -(-heads // -(-heads // at_once))  # equal parts, for every shape of product costs a kernel
    for row in range(batch):
        for head in range(0, heads, at_once):
            yield row, slice(head, head + at_once)
