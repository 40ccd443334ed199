"""Model directories: finding, writing and reading them, strictly (``docs/checkpoint_format.md``).

Knows the kinds of model and which modules each holds; the format itself lives in :mod:`audio_ssl.checkpoint`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from audio_ssl.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_strict,
    load_tensors,
    read_document,
    replaced_directory,
    save_model,
    with_prefix,
)
from audio_ssl.config import ModelConfig, TextRules, Wav2Vec2Config, validate_config
from audio_ssl.config.section import Section
from audio_ssl.errors import CheckpointError
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.lora import merged

PARTS_OF_KIND: dict[str, tuple[str, ...]] = {
    "pretraining": ("encoder", "objective"),
    "ctc": ("encoder", "head"),  # and `condition` in a self-conditioned recogniser
    "encoder": ("encoder",),  # imported from a system that keeps nothing else
}


@dataclass(frozen=True)
class ModelFiles:
    """What a model directory holds.

    Attributes:
        path: the directory itself (never the run folder that it was found in).
        document: the sections of its ``config.toml``.
        tensors: every tensor by its full name (``encoder.``, ``objective.``, ``head.``), on the CPU.
        weights: the files that they were read from.
    """

    path: Path
    document: dict[str, Any]
    tensors: dict[str, Tensor]
    weights: tuple[Path, ...]

    @property
    def kind(self) -> str:
        """``pretraining``, ``ctc`` or ``encoder``."""
        return str(self.document["kind"])

    @property
    def model(self) -> ModelConfig:
        """The encoder's settings."""
        return validate_config(ModelConfig, self.document["model"], source=f"{self.path / CONFIG_FILE} [model]")


def resolve_model_dir(path: Path | str) -> Path:
    """The model directory that a MODEL argument means.

    Args:
        path: a model directory, a training checkpoint, or a run folder (its ``model/`` if there, else its best
            checkpoint, else its latest).

    Raises:
        CheckpointError: none of these.
    """
    path = Path(path)
    candidates = [path, path / "model"]
    candidates += [path / "checkpoints" / name for name in _named_checkpoints(path / "checkpoints")]
    for candidate in candidates:
        if (candidate / WEIGHTS_FILE).is_file() and (candidate / CONFIG_FILE).is_file():
            return candidate
    raise CheckpointError(
        f"{path} must be a model directory ({CONFIG_FILE} with {WEIGHTS_FILE}), a checkpoint or a run folder, a "
        f"transformers directory (config.json with its weights), or a .pt file of torchaudio, fairseq or fairseq2, but "
        f"{_what_lacks(path)}"
    )


def _what_lacks(path: Path) -> str:
    if not path.is_dir():
        return "it is not a directory"
    weights = sorted(found.name for pattern in ("*.safetensors", "pytorch_model*.bin") for found in path.glob(pattern))
    if weights:
        return f"it holds {weights[0]} without the settings of its model; copy them too"
    if (path / CONFIG_FILE).is_file():
        return f"it holds {CONFIG_FILE} without its weights; copy them too"
    files = sorted(found.name for found in path.glob("*.pt"))
    return f"there is no model in it{f' (give {files[0]} itself?)' if files else ''}"


def _named_checkpoints(folder: Path) -> list[str]:
    names = []
    for pointer in ("best.json", "latest.json"):
        try:
            name = str(json.loads((folder / pointer).read_text(encoding="utf-8"))["name"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not there, or half of a dead run: the other pointer may still name a model
        if Path(name).name == name:
            names.append(name)
    return names


def pretraining_document(model: ModelConfig, objective: Wav2Vec2Config) -> dict[str, Any]:
    """The ``config.toml`` sections of a pre-training model."""
    return {"kind": "pretraining", "model": _plain(model), "objective": _plain(objective)}


def ctc_document(model: ModelConfig, *, symbols: Sequence[str], rules: TextRules | None = None) -> dict[str, Any]:
    """The ``config.toml`` sections of a recogniser; row i of its head scores ``symbols[i]``, and 0 is the blank."""
    text = _plain(rules or TextRules())
    return {"kind": "ctc", "model": _plain(model), "ctc": {"symbols": list(symbols), "text": text}}


def with_conditions(document: Mapping[str, Any], blocks: Sequence[int]) -> dict[str, Any]:
    """A recogniser's document, with the blocks that are told what its head makes of their output, if there are any."""
    return {**document, "ctc": {**document["ctc"], "conditioned_after": list(blocks)}} if blocks else dict(document)


def conditioned_after(document: Mapping[str, Any]) -> tuple[int, ...]:
    """The blocks of a recogniser that are told what its head makes of their output; none in a plain one."""
    return tuple(document.get("ctc", {}).get("conditioned_after", ()))


def encoder_document(model: ModelConfig) -> dict[str, Any]:
    """The ``config.toml`` sections of an encoder alone."""
    return {"kind": "encoder", "model": _plain(model)}


def _plain(config: Section) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Tensors of modules under their part's name: ``{"encoder": encoder}`` gives ``encoder.…``."""
    return {f"{part}.{k}": v for part, module in modules.items() for k, v in module.state_dict().items()}


def write_model(directory: Path, document: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> None:
    """Write a model into an existing directory, beside what else a checkpoint holds.

    Args:
        directory: existing, usually from :func:`audio_ssl.checkpoint.replaced_directory`.
        document: from :func:`pretraining_document`, :func:`ctc_document` or :func:`encoder_document`.
        modules: ``encoder`` and, by kind, ``objective`` or ``head`` (with ``condition`` where it is self-conditioned).
    """
    parts = (*PARTS_OF_KIND[document["kind"]], *(["condition"] if conditioned_after(document) else []))
    if set(modules) != set(parts):
        raise ValueError(f"a {document['kind']} model must have the parts {parts}, got {tuple(modules)}")
    save_model(directory, document=document, tensors=module_tensors(modules))


def save_model_dir(directory: Path, document: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> None:
    """Write a model directory whole, replacing one of that name; see :func:`write_model`.

    Raises:
        CheckpointError: the place cannot be written; what was there is intact.
    """
    with replaced_directory(directory) as draft:
        write_model(draft, document, modules)


def read_model_dir(path: Path | str) -> ModelFiles:
    """Read settings and tensors, without building a module; a checkpoint's low-rank additions are merged.

    Raises:
        CheckpointError: not a model, or of an unknown kind.
    """
    directory = resolve_model_dir(path)
    document = read_document(directory)
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in PARTS_OF_KIND or "model" not in document:
        raise CheckpointError(
            f"{directory / CONFIG_FILE} must have a [model] section and a kind out of "
            f"{', '.join(PARTS_OF_KIND)}; got kind {kind!r}"
        )
    document, tensors = merged(document, load_tensors(directory / WEIGHTS_FILE))
    return ModelFiles(directory, document, tensors, (directory / WEIGHTS_FILE,))


def encoder_from(files: ModelFiles) -> Encoder:
    """The encoder of any kind of model, in eval mode on the CPU.

    Raises:
        CheckpointError: tensors are missing, left over or misshapen.
        ConfigError: its ``[model]`` section is not valid.
    """
    encoder = build_encoder(files.model)
    load_strict(encoder, with_prefix(files.tensors, "encoder."), source=files.path)
    return encoder.eval()


def ctc_from(files: ModelFiles) -> CTCModel:
    """A recogniser in eval mode on the CPU; ``files.document["ctc"]["symbols"]`` names its head's rows.

    Raises:
        CheckpointError: not a recogniser, or tensors are missing, left over or misshapen.
        ConfigError: its ``[model]`` section is not valid.
    """
    if files.kind != "ctc" or not files.document.get("ctc", {}).get("symbols"):
        raise CheckpointError(
            f"{files.path} must be a recogniser with its symbols, it is a {files.kind} model; make one with "
            "`audio-ssl finetune`"
        )
    model = CTCModel(
        build_encoder(files.model),
        len(files.document["ctc"]["symbols"]),
        conditioned_after=conditioned_after(files.document),
    )
    load_strict(model, files.tensors, source=files.path)
    return model.eval()
