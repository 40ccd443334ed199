"""Settings that tensors tell by their shapes, for checkpoints that come without a configuration.

What shapes cannot tell is taken from the published models: 64 channels a head, hop 320, and pre-norm blocks on a
normalised waveform wherever the convs have layer norm. The caller's overrides win.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from audio_ssl.errors import CheckpointError

_CONV = "encoder.feature_encoder.layers.{}.conv.weight"
_DIRECTION = "encoder.context_network.positional.conv.parametrizations.weight.original1"
_HEAD_DIM = 64


def infer_model(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Any]:
    """Values for ``ModelConfig`` from tensors under our names.

    Raises:
        CheckpointError: a tensor that says a width is missing.
    """
    try:
        return _infer_model(tensors)
    except KeyError as error:
        raise CheckpointError(f"{source} must hold the tensors of a wav2vec 2.0 model; missing: {error}") from None


def _infer_model(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    convs = [tensors[_CONV.format(i)] for i in range(_count(tensors, "encoder.feature_encoder.layers."))]
    if not convs:
        raise KeyError(_CONV.format(0))
    dim = tensors["encoder.feature_projection.projection.weight"].shape[0]
    has_layer_norm = "encoder.feature_encoder.layers.1.norm.weight" in tensors
    return {
        "conv_dims": [conv.shape[0] for conv in convs],
        "conv_kernels": [conv.shape[2] for conv in convs],
        "conv_strides": [5] + [2] * (len(convs) - 1),
        "conv_bias": _CONV.format(0).replace("weight", "bias") in tensors,
        "feature_norm": "layer" if has_layer_norm else "group",
        "norm_order": "pre" if has_layer_norm else "post",
        "normalize_waveform": has_layer_norm,
        "dim": dim,
        "num_layers": _count(tensors, "encoder.context_network.blocks."),
        "num_heads": max(1, dim // _HEAD_DIM),
        "ffn_dim": tensors["encoder.context_network.blocks.0.feed_forward.inner.weight"].shape[0],
        "pos_conv_kernel": tensors[_DIRECTION].shape[2],
        "pos_conv_groups": dim // tensors[_DIRECTION].shape[1],
    }


def infer_objective(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Values for ``Wav2Vec2Config`` from tensors under our names, the objective's included."""
    codebook, target = tensors["objective.quantizer.codebook"], tensors["objective.target_projection.weight"]
    num_groups = target.shape[1] // codebook.shape[2]  # (1, G * V, d / G) and (f, d)
    return {
        "num_groups": num_groups,
        "num_entries": codebook.shape[1] // num_groups,
        "code_dim": target.shape[1],
        "target_dim": target.shape[0],
    }


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """``pretraining``, ``ctc`` or ``encoder``, from names of ours."""
    if any(name.startswith("head.") for name in tensors):
        return "ctc"
    return "pretraining" if any(name.startswith("objective.") for name in tensors) else "encoder"


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix)}
    return max(numbers, default=-1) + 1
