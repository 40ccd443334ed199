"""The tensors that a document asks for, by name and shape, beside those that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor, nn

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.errors import CheckpointError
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import conditioned_after, module_tensors
from audio_ssl.objective.registry import build_objective

_MAX_FRAME_SAMPLES = 1_000_000  # what one frame sees; a minute at 16 kHz


def refuse_absurd(model: ModelConfig, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Stop before building or running what a typo in settings asks for.

    Raises:
        CheckpointError: more layers than there are tensors, or frames that see more than a minute of sound.
    """
    if max(model.num_layers, len(model.conv_dims)) > len(tensors):
        found = f"{len(tensors)} tensors{', such as ' * bool(tensors)}{', '.join(list(tensors)[:3])}"
        raise CheckpointError(
            f"{source} must hold the tensors of {len(model.conv_dims)} conv layers and {model.num_layers} blocks, as "
            f"its settings say, but it holds {found}; correct the settings"
        )
    if model.geometry.receptive_field_samples > _MAX_FRAME_SAMPLES:
        raise CheckpointError(
            f"{source}: a frame must see at most {_MAX_FRAME_SAMPLES} samples, but with conv_kernels "
            f"{model.conv_kernels} and conv_strides {model.conv_strides} it sees "
            f"{model.geometry.receptive_field_samples}; correct these settings"
        )


def expected_shapes(document: Mapping[str, Any], *, source: Path) -> dict[str, Size]:
    """Shape of every tensor of the model that a document describes, by our names; no memory is taken for them.

    Raises:
        CheckpointError: sizes beyond what any memory holds, or that do not go together.
    """
    model = ModelConfig(**document["model"])
    try:
        with torch.device("meta"):
            modules: dict[str, nn.Module] = {"encoder": build_encoder(model)}
            if document["kind"] == "pretraining":
                objective = Wav2Vec2Config(**document["objective"])
                modules["objective"] = build_objective(objective, latent_dim=model.latent_dim, dim=model.dim)
            elif document["kind"] == "ctc":
                num_symbols = len(document["ctc"]["symbols"])
                modules["head"] = nn.Linear(model.dim, num_symbols)
                if conditioned_after(document):
                    modules["condition"] = nn.Linear(num_symbols, model.dim)
    except (RuntimeError, ValueError) as error:
        must = "fits into memory" if isinstance(error, RuntimeError) else "can be built"
        raise CheckpointError(
            f"{source}: the settings must describe a model that {must}, but {str(error).splitlines()[0]}; correct them"
        ) from error
    return {name: tensor.shape for name, tensor in module_tensors(modules).items()}


def compare_shapes(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Size], *, name_there: Callable[[str], str] = str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What does not fit.

    Args:
        tensors: by our names.
        shapes: of every tensor that must be there, by our names.
        name_there: gives the name that the user knows, from ours.

    Returns:
        Names of missing tensors, and of misshapen ones with both shapes.
    """
    missing = tuple(name_there(name) for name in shapes if name not in tensors)
    misshapen = []
    for name, tensor in tensors.items():
        if name not in shapes:
            misshapen.append(f"{name_there(name)} must not be there: the settings have no such layer or bias")
        elif tensor.shape != shapes[name]:
            misshapen.append(f"{name_there(name)} must be {tuple(shapes[name])}, got {tuple(tensor.shape)}")
        elif not tensor.is_floating_point():
            misshapen.append(f"{name_there(name)} must be floating point, got {tensor.dtype}")
    return missing, tuple(misshapen)
