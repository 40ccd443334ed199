"""Low-rank additions to frozen linear layers, and models with them merged into plain ones.

Reference: LoRA (2106.09685).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.errors import CheckpointError
from audio_ssl.model.encoder import Encoder

DOWN, UP = "lora_down", "lora_up"
# Setting to the linear layers of a block.
LAYERS: dict[str, tuple[str, ...]] = {
    "query": ("attention.query",),
    "key": ("attention.key",),
    "value": ("attention.value",),
    "output": ("attention.output",),
    "feed_forward": ("feed_forward.inner", "feed_forward.output"),
}


class LoRALinear(nn.Linear):
    """A linear layer with weight W + scale * up @ down; names of weight and bias stay.

    It begins as the layer that it was: ``up`` starts at zero.

    Args:
        source: whose weight and bias to take over.
        rank: of the addition.
        scale: the paper's alpha / rank.
    """

    def __init__(self, source: nn.Linear, *, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias
        self.lora_down = nn.Parameter(source.weight.new_empty(rank, source.in_features))
        self.lora_up = nn.Parameter(source.weight.new_zeros(source.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))  # as its authors' library draws it
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_down), self.lora_up)


def add_lora(encoder: Encoder, targets: Sequence[str], *, rank: int, scale: float) -> None:
    """Put :class:`LoRALinear` in the place of linear layers of every transformer block.

    Args:
        encoder: changed in place.
        targets: keys of :data:`LAYERS`.
        rank: of each addition.
        scale: of each addition.
    """
    for block in encoder.context_network.blocks:
        for name in (layer for target in targets for layer in LAYERS[target]):
            parent, _, leaf = name.rpartition(".")
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            setattr(block.get_submodule(parent), leaf, LoRALinear(linear, rank=rank, scale=scale))


def is_lora(name: str) -> bool:
    """Whether a tensor of this name is half of an addition."""
    return name.endswith((f".{DOWN}", f".{UP}"))


def lora_document(targets: Sequence[str], *, rank: int, alpha: float) -> dict[str, Any]:
    """The ``[lora]`` section of a training checkpoint's ``config.toml``."""
    return {"rank": rank, "alpha": alpha, "targets": list(targets)}


def merged(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model without additions that computes what the one with them does, but for the rounding of a sum.

    Args:
        document: with a section ``lora`` where the model has additions.
        tensors: by full name.

    Returns:
        The document without that section, and plain weights; both as they are where there is nothing to merge.

    Raises:
        CheckpointError: the section, or the additions, are not what training wrote.
    """
    if "lora" not in document:
        return dict(document), dict(tensors)
    try:
        scale = document["lora"]["alpha"] / document["lora"]["rank"]
        return {key: value for key, value in document.items() if key != "lora"}, _merged(tensors, scale)
    except (KeyError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise CheckpointError(
            "a checkpoint with low-rank additions must have the rank and alpha of its [lora] section, and both halves "
            f"of each addition in the shapes of its layer, but {type(error).__name__}: {error}; copy it again"
        ) from error


def _merged(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    plain = {name: tensor for name, tensor in tensors.items() if not is_lora(name)}
    for name in tensors:
        layer, _, half = name.rpartition(".")
        if half == UP:
            addition = tensors[name].float() @ tensors[f"{layer}.{DOWN}"].float()  # (out, r) (r, in) -> (out, in)
            weight = plain[f"{layer}.weight"]
            plain[f"{layer}.weight"] = torch.add(weight.float(), addition, alpha=scale).to(weight.dtype)
    return plain
