"""What torch's own operation computes, at less cost where nothing has to be kept for a backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.model.int8 import SYMMETRIC, InputRange, int8_linear, is_int8_on, quantize_weight


def gelu(x: Tensor) -> Tensor:
    """GELU of a tensor that nobody else reads: in place where no gradient will want it.

    A forward hook that keeps the tensor then finds it changed; it must copy, or run with gradients on.

    Reference: 1606.08415, the exact form with the error function.
    """
    if x.requires_grad:
        return F.gelu(x)
    return cast(Tensor, torch.ops.aten.gelu_(x))


def is_traced() -> bool:
    """Whether a graph is being taken for other runtimes: it must hold torch's plain operations alone, for any length.

    Kernels of this project's own and what depends on the numbers of a batch keep away then.
    """
    return torch.compiler.is_exporting()


def product_dtype(x: Tensor) -> torch.dtype:
    """The number format in which a product with ``x`` is computed here: autocast's, or its own."""
    device = x.device.type
    if torch.amp.autocast_mode.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


@dataclass(frozen=True)
class _Packed:
    """A weight in oneDNN's layout, the bias, and the state of both when they were taken."""

    weight: Any
    bias: Tensor | None
    state: tuple[object, object]


class Packing(dict[torch.dtype, _Packed]):
    """A weight and its bias as oneDNN wants them for products in each number format; copies start empty."""

    def __reduce__(self) -> tuple[type[Packing], tuple[()]]:
        """For copies: what oneDNN has laid out is opaque, and is made anew."""
        return Packing, ()

    def take(
        self, dtype: torch.dtype, weight: Tensor, bias: Tensor | None, lay_out: Callable[[Tensor], Any]
    ) -> _Packed:
        """Those of ``dtype``, made where there are none yet or the tensors, which must be kept elsewhere, have changed.

        Args:
            dtype: of the product.
            weight: as its module holds it.
            bias: likewise.
            lay_out: casts a weight and puts it into a layout.
        """
        packed, state = self.get(dtype), (_state(weight), _state(bias))
        if packed is None or packed.state != state:
            of_bias = torch.float32 if dtype == torch.int8 else dtype
            cast_bias = None if bias is None else bias.detach().to(of_bias)
            packed = _Packed(lay_out(weight.detach()), cast_bias, state)
            self[dtype] = packed
        return packed


def _state(tensor: Tensor | None) -> object:
    """What tells whether a tensor has changed; one made in inference mode does not count its changes."""
    return None if tensor is None else (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)


class FrozenLinear(nn.Linear):
    """A linear layer for inference: on a CPU oneDNN multiplies by weights that it has laid out for itself once.

    Measured on 2 threads of an AMD EPYC, and nowhere else, 1498 frames, 768 to 3072: fp32 16 ms against 37 ms for
    ``nn.Linear`` (torch leaves float32 products to MKL there); in bf16 8.1 ms against 8.3, and the weights are not
    cast anew in each call. Costs a second copy of the weights, in the number format of the products. Weights that
    change are laid out again; where gradients are on it is a plain linear layer.

    Args:
        source: whose weight and bias to share.
        spread: of the values that come to it, for products in integers; None where it has no part in these.
    """

    def __init__(self, source: nn.Linear, spread: InputRange | None = SYMMETRIC) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias
        self._packed, self._spread = Packing(), spread

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        dtype = product_dtype(x)
        if x.device.type != "cpu" or torch.is_grad_enabled() or not has_onednn(dtype):
            return super().forward(x)
        if self._spread is not None and is_int8_on():
            quantized = self._packed.take(torch.int8, self.weight, self.bias, quantize_weight)
            return int8_linear(x.to(dtype), quantized.weight, quantized.bias, self._spread)
        lay_out = torch.ops.mkldnn._reorder_linear_weight
        packed = self._packed.take(dtype, self.weight, self.bias, lambda weight: lay_out(weight.to(dtype)))
        product = torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed.weight, packed.bias, "none", [], "")
        return cast(Tensor, product)


def freeze_linears(module: nn.Module) -> None:
    """Put :class:`FrozenLinear` in the place of every linear layer below ``module``; for inference only.

    A module may say in ``input_ranges`` what comes to which of its linear layers; see :class:`FrozenLinear`.
    """
    for parent in list(module.modules()):
        spreads = getattr(parent, "input_ranges", {})
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, FrozenLinear(child, spreads.get(name, SYMMETRIC)))


def forget_layouts(module: nn.Module, dtype: torch.dtype) -> None:
    """Give back what the layers below ``module`` have laid out for products in ``dtype``; it is made anew if asked for.

    Not while another thread computes with it.
    """
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Packing):
                value.pop(dtype, None)


def thaw_linears(module: nn.Module) -> None:
    """Put plain linear layers back, with the same weights."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FrozenLinear):
                plain = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None, device="meta")
                plain.weight, plain.bias = child.weight, child.bias
                setattr(parent, name, plain)


_ONEDNN = ("_linear_pointwise", "_reorder_linear_weight", "_convolution_pointwise", "_reorder_convolution_weight")


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's operations on weights that are laid out, for products in ``dtype``."""
    # These operations are what torch's own compiler emits for a CPU; a torch without them keeps to its plain ones.
    is_there = all(hasattr(torch.ops.mkldnn, name) for name in _ONEDNN)
    is_on = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()  # type: ignore[no-untyped-call]
    if not (is_there and is_on):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
