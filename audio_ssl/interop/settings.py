"""Settings that tensors tell by their shapes, for checkpoints that come without a configuration.

What shapes cannot tell is taken from the published models: 64 channels a head, hop 320, and pre-norm blocks on a
normalised waveform wherever the convs have layer norm. The caller's overrides win.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.errors import CheckpointError
from audio_ssl.model.files import ModelFiles, conditioned_after

FIXED_EPS = 1e-5  # of every norm in torchaudio, fairseq and fairseq2
# Settings that shapes do not tell.
GUESSED = ("num_heads", "norm_order", "normalize_waveform", "conv_strides")
_CONV = "encoder.feature_encoder.layers.{}.conv.weight"
_DIRECTION = "encoder.context_network.positional.conv.parametrizations.weight.original1"
_HEAD_DIM = 64


def require_fixed_eps(eps: float, *, path: Path, system: str) -> None:
    """Refuse a model for a system whose norms all have one variance epsilon, where the model has another.

    Raises:
        CheckpointError: its numbers would differ there.
    """
    if eps != FIXED_EPS:
        raise CheckpointError(
            f"{path}: layer_norm_eps must be {FIXED_EPS} for {system}, got {eps}: it has no such setting, so the model "
            "would give other numbers there. Of the formats, transformers can hold it"
        )


def require_known_parts(files: ModelFiles, *, system: str) -> None:
    """Refuse a model with a part that no other system's model has.

    Raises:
        CheckpointError: a mel front end, a context network at a fraction of the frame rate, blocks with a convolution,
            adapters, or blocks that are told what a recogniser's head makes of them.
    """
    model, faults = files.model, []
    if model.front_end != "conv":
        faults.append(f"front_end must be 'conv', got {model.front_end!r}")
    if model.context_stride != 1:
        faults.append(f"context_stride must be 1, got {model.context_stride}")
    if model.block_conv_kernel:
        faults.append(f"block_conv_kernel must be 0, got {model.block_conv_kernel}")
    if model.adapter_dim and system != "transformers":
        faults.append(f"adapter_dim must be 0, got {model.adapter_dim}")
    elif model.adapter_dim and (model.norm_order, model.layer_norm_eps) != ("pre", FIXED_EPS):
        faults.append(
            f"with adapter_dim {model.adapter_dim} norm_order must be 'pre' and layer_norm_eps {FIXED_EPS}, got "
            f"{model.norm_order!r} and {model.layer_norm_eps}"
        )
    if blocks := conditioned_after(files.document):
        faults.append(f"ctc.conditioned_after must be empty, got {list(blocks)}")
    if faults:
        raise CheckpointError(
            f"{files.path}: {' and '.join(faults)} for {system}: its model has no such part. Models like this one "
            "stay in our own format, which `audio_ssl.load` and every command read"
        )


def require_projection(latent_dim: int, dim: int, *, path: Path, system: str) -> None:
    """Refuse a model whose latents are as wide as its frames for a system that has no projection between them then.

    Raises:
        CheckpointError: a part of the model would have no place there.
    """
    if latent_dim == dim:
        raise CheckpointError(
            f"{path}: the last of conv_dims must differ from dim for {system}, got {dim} for both: its model has no "
            "feature projection then, and ours has one. transformers and torchaudio can hold it"
        )


def require_context_of_all(tensors: Mapping[str, Tensor], *, path: Path, system: str) -> None:
    """Refuse a pre-training model with a decoder for a system whose pre-training models have none.

    Raises:
        CheckpointError: a part of the model would have no place there, and what is left would not go on training.
    """
    if any(name.startswith("objective.decoder.") for name in tensors):
        raise CheckpointError(
            f'{path}: objective.encode must be "all" for {system}, got "visible": its pre-training models have no '
            "decoder, and their transformer sees masked frames. Fine-tune it here first (a recogniser fits every "
            "format), or convert to torchaudio, which takes the encoder and keeps the rest beside it"
        )


def infer_model(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Values for ``ModelConfig`` from tensors under our names.

    Raises:
        KeyError: a tensor that says a width is missing or has too few dimensions.
    """
    try:
        return _infer_model(tensors)
    except (IndexError, ZeroDivisionError):
        raise KeyError("a tensor that tells a width has too few dimensions, or none of its length") from None


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
    """Values for ``Wav2Vec2Config`` from tensors under our names; empty where those that tell are not there."""
    codebook, target = tensors.get("objective.quantizer.codebook"), tensors.get("objective.target_projection.weight")
    if codebook is None or target is None or codebook.dim() != 3 or target.dim() != 2 or not codebook.shape[2]:
        return {}
    num_groups = max(1, target.shape[1] // codebook.shape[2])  # (1, G * V, d / G) and (f, d)
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
    """How many layers there are, whatever numbers stand in their names."""
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})
