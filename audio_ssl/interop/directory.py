"""What every converter shares: the result that it reports, and foreign models written as checked model directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audio_ssl.checkpoint import load_strict, with_prefix
from audio_ssl.config import ModelConfig, Wav2Vec2Config, validate_config
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.settings import infer_model, infer_objective, kind_of
from audio_ssl.interop.symbols import are_lowercase, arrange_head, our_symbols
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, encoder_document, pretraining_document, save_model_dir
from audio_ssl.objective.registry import build_objective

_MASK = "encoder.mask_embedding"


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        path: file or directory written.
        kind: ``pretraining``, ``ctc`` or ``encoder``.
        num_tensors: tensors written.
        dropped: names that the target has no place for.
        filled: names that the source lacked, written as zeros.
    """

    path: Path
    kind: str
    num_tensors: int
    dropped: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """A foreign model under our names.

    Attributes:
        source: its file, for messages.
        tensors: by our names.
        model: what its configuration says of the encoder; inferred from shapes where it says nothing.
        objective: the same for the pretext task.
        symbols: symbol of each row of its head, special ones under our names; None where it has no list.
    """

    source: Path
    tensors: dict[str, Tensor]
    model: Mapping[str, Any]
    objective: Mapping[str, Any]
    symbols: Sequence[str] | None = None


def write_foreign(foreign: Foreign, out: Path, *, overrides: Mapping[str, Any]) -> Conversion:
    """Build the modules of a foreign model, load it strictly, and write our model directory.

    Args:
        foreign: the model.
        out: a directory that does not exist yet.
        overrides: values of ``ModelConfig`` that win over the foreign configuration and over what shapes tell.

    Raises:
        CheckpointError: tensors missing, left over or misshapen, or no symbols for a head.
        ConfigError: the resulting settings are not valid.
    """
    refuse_existing(out)
    tensors, kind, filled = dict(foreign.tensors), kind_of(foreign.tensors), ()
    values = {**infer_model(tensors, source=str(foreign.source)), **foreign.model, **overrides}
    model = validate_config(ModelConfig, values, source=f"settings of {foreign.source}")
    if _MASK not in tensors:
        tensors[_MASK], filled = torch.zeros(model.dim), (_MASK,)  # type: ignore[assignment]
    modules: dict[str, nn.Module] = {"encoder": build_encoder(model)}
    document = encoder_document(model)
    if kind == "pretraining":
        settings = {**infer_objective(tensors), **foreign.objective}
        objective = validate_config(Wav2Vec2Config, settings, source=f"settings of {foreign.source}")
        modules["objective"] = build_objective(objective, latent_dim=model.conv_dims[-1], dim=model.dim)
        document = pretraining_document(model, objective)
    elif kind == "ctc":
        symbols = _settle_head(foreign, tensors)
        modules["head"] = nn.Linear(model.dim, len(symbols))
        document = ctc_document(model, symbols=symbols, lowercase=are_lowercase(symbols))
    load_strict(nn.ModuleDict(modules), tensors, source=foreign.source)
    save_model_dir(out, document, modules)
    return Conversion(out, kind, len(tensors), filled=filled)


def _settle_head(foreign: Foreign, tensors: dict[str, Tensor]) -> list[str]:
    """Order the head's rows our way, in place; give their symbols."""
    num_rows = tensors["head.weight"].shape[0]
    if foreign.symbols is None or len(foreign.symbols) != num_rows:
        found = "none" if foreign.symbols is None else f"{len(foreign.symbols)}"
        raise CheckpointError(
            f"{foreign.source} must come with the {num_rows} symbols of its head, got {found}; put its vocabulary "
            "beside it (vocab.json, dict.ltr.txt, or the .toml that `audio-ssl convert` writes)"
        )
    symbols = our_symbols(foreign.symbols)
    head = arrange_head(with_prefix(tensors, "head."), have=foreign.symbols, want=symbols)
    tensors.update({f"head.{k}": v for k, v in head.items()})
    return symbols


def refuse_existing(out: Path) -> None:
    """Keep what is there.

    Raises:
        CheckpointError: ``out`` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} must not exist yet; remove it or choose another name")
