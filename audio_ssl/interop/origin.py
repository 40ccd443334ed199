"""What a foreign checkpoint said beyond what a model of ours holds, kept beside an imported model for the way back.

A model directory that was imported holds ``origin/settings.json`` and, where its system has tensors that no model of
ours needs, ``origin/tensors.safetensors``. Nothing but a conversion back reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from audio_ssl.checkpoint import load_tensors, save_tensors, write_json
from audio_ssl.errors import CheckpointError

Family = Literal["wav2vec2", "hubert"]
_FOLDER, _SETTINGS, _TENSORS = "origin", "settings.json", "tensors.safetensors"


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
        system: the format that it was read from.
        family: the same encoder under two names; peers have a class for each.
        settings: the system's own, as they were.
        symbols: symbol of each row of its head in its order, special ones under our names; None without a head.
        tensors: what no model of ours needs, under the system's names.
    """

    system: str
    family: Family = "wav2vec2"
    settings: Mapping[str, Any] = field(default_factory=dict)
    symbols: Sequence[str] | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def write_origin(model_dir: Path, origin: Origin) -> None:
    """Write an origin into an existing model directory.

    Raises:
        OSError: it cannot be written.
    """
    folder = model_dir / _FOLDER
    folder.mkdir()
    symbols = None if origin.symbols is None else list(origin.symbols)
    document = {"system": origin.system, "family": origin.family, "symbols": symbols, "settings": origin.settings}
    write_json(folder / _SETTINGS, json.loads(json.dumps(document, default=str)))
    if origin.tensors:
        save_tensors(folder / _TENSORS, origin.tensors)


def read_origin(model_dir: Path) -> Origin | None:
    """The origin of an imported model; None for a model of our own.

    Raises:
        CheckpointError: there is one, but it cannot be read.
    """
    path = model_dir / _FOLDER / _SETTINGS
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        tensors_path = path.with_name(_TENSORS)
        return Origin(
            system=str(document["system"]),
            family="hubert" if document["family"] == "hubert" else "wav2vec2",
            settings=_sections(document["settings"]),
            symbols=None if document["symbols"] is None else [_string(symbol) for symbol in document["symbols"]],
            tensors=load_tensors(tensors_path) if tensors_path.exists() else {},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} must be what `audio-ssl convert` wrote, but it cannot be read ({error!r}); remove the folder "
            f"{path.parent} to convert without it"
        ) from error


def _sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    odd = [key for key, value in settings.items() if not isinstance(value, dict | str | None)]
    if odd:
        raise TypeError(f"settings.{odd[0]} must be a section")
    return dict(settings)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"symbols must be strings, got {value!r:.80}")
    return value
