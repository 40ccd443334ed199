"""What torch's own operation computes, at less cost where nothing has to be kept for a backward pass."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gelu(x: Tensor) -> Tensor:
    """GELU of a tensor that nobody else reads: in place where no gradient will want it.

    Reference: 1606.08415, the exact form with the error function.
    """
    if x.requires_grad:
        return F.gelu(x)
    return cast(Tensor, torch.ops.aten.gelu_(x))


def product_dtype(x: Tensor) -> torch.dtype:
    """The number format in which a product with ``x`` is computed here: autocast's, or its own."""
    device = x.device.type
    if torch.amp.autocast_mode.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


class FrozenLinear(nn.Linear):
    """A linear layer for inference: on a CPU oneDNN multiplies by weights that it has laid out for itself once.

    Measured on 2 threads, 1498 frames, 768 to 3072: fp32 16 ms against 37 ms for ``nn.Linear`` (an AMD EPYC, whose
    float32 products torch leaves to MKL); in bf16 8.1 ms against 8.3, and the weights are not cast anew in each call.

    Args:
        source: whose weight and bias to share; they must not change afterwards.
    """

    def __init__(self, source: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias
        self._packed: dict[torch.dtype, tuple[Any, Tensor | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what oneDNN has laid out is opaque, and is made anew."""
        return {**self.__dict__, "_packed": {}}

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        dtype = product_dtype(x)
        if x.device.type != "cpu" or torch.is_grad_enabled() or not _has_onednn(dtype):
            return super().forward(x)
        if dtype not in self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().to(dtype))
            self._packed[dtype] = weight, None if self.bias is None else self.bias.detach().to(dtype)
        weight, bias = self._packed[dtype]
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], ""))


def freeze_linears(module: nn.Module) -> None:
    """Put :class:`FrozenLinear` in the place of every linear layer below ``module``; for inference only."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, FrozenLinear(child))


def _has_onednn(dtype: torch.dtype) -> bool:
    # These operations are what torch's own compiler emits for a CPU; a torch without them keeps to nn.Linear.
    ops = torch.ops.mkldnn
    is_there = hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")
    if not (is_there and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
