"""A pre-trained encoder made ready to be fine-tuned: its shape, its dropouts, and what is put into it to learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from audio_ssl.checkpoint import load_strict, with_prefix
from audio_ssl.config import AdaptConfig, FinetuneConfig, ModelConfig
from audio_ssl.errors import ConfigError
from audio_ssl.model.adapter import Adapter
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.files import ModelFiles
from audio_ssl.model.lora import LoRALinear, add_lora, lora_document
from audio_ssl.train.learning import require_blocks


def starting_encoder(config: FinetuneConfig, files: ModelFiles | None) -> tuple[Encoder, ModelConfig]:
    """The loaded or the fresh encoder, with the dropouts that fine-tuning asks for, and its settings.

    Args:
        config: the whole run.
        files: the model to start from, as ``init_from`` says; None for a fresh encoder.

    Raises:
        CheckpointError: tensors of ``files`` do not fit.
        ConfigError: settings that this encoder does not fit.
    """
    shape = config.model if files is None else files.model
    assert shape is not None  # FinetuneConfig checks that one of the two is given
    changes: dict[str, Any] = config.dropouts.model_dump(exclude_none=True)
    if config.adapt.adapter_dim:
        changes["adapter_dim"] = _adapter_dim(config.adapt, shape, files)
    shape = shape.model_copy(update=changes)
    require_blocks(config.ctc, shape.num_layers)
    encoder = build_encoder(shape)
    if files is not None:
        _load(encoder, files)
    put_in(encoder, config.adapt)
    return encoder, shape


def of_training(document: Mapping[str, Any], config: AdaptConfig) -> dict[str, Any]:
    """The document of a checkpoint, whose weights are not merged yet."""
    if not config.lora_rank:
        return dict(document)
    return {
        **document,
        "lora": lora_document(config.lora_targets, rank=config.lora_rank, alpha=config.lora_alpha),
    }


def _adapter_dim(config: AdaptConfig, shape: ModelConfig, files: ModelFiles | None) -> int:
    if shape.adapter_dim not in (0, config.adapter_dim):
        raise ConfigError(
            f"adapt.adapter_dim must be {shape.adapter_dim}, got {config.adapter_dim}: {files and files.path} comes "
            "with adapters of that width; give it to go on with them, or start from a model without"
        )
    return config.adapter_dim


def _load(encoder: Encoder, files: ModelFiles) -> None:
    """Every tensor must be there but those of adapters that are new."""
    found = with_prefix(files.tensors, "encoder.")
    if not files.model.adapter_dim:
        found |= {name: tensor for name, tensor in encoder.state_dict().items() if ".adapter." in name}
    load_strict(encoder, found, source=files.path)


def put_in(encoder: Encoder, config: AdaptConfig) -> None:
    """Add what is to learn, and freeze everything else; nothing where ``config`` adds nothing."""
    if not config.freezes_encoder:
        return
    encoder.requires_grad_(requires_grad=False)
    if config.lora_rank:
        add_lora(encoder, config.lora_targets, rank=config.lora_rank, scale=config.lora_alpha / config.lora_rank)
    for part in encoder.modules():
        for parameter in _learning(part, config):
            parameter.requires_grad = True


def _learning(part: nn.Module, config: AdaptConfig) -> list[nn.Parameter]:
    if isinstance(part, LoRALinear):
        return [part.lora_down, part.lora_up]
    return list(part.parameters()) if isinstance(part, Adapter) and config.adapter_dim else []
