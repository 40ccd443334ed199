"""Small random models on disk, in every format, as a user has them; ways to edit them and to look at a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from checkpoints import SYSTEMS, place, save_ours
from peers import random_config
from torch import Tensor

from audio_ssl.checkpoint import load_tensors, save_tensors
from audio_ssl.interop.convert import convert

FORMATS = ("audio_ssl", *SYSTEMS)
Break = Callable[[Path], object]


def write_ours(model: Path, kind: str, *, seed: int = 3) -> Path:
    """A model directory of ours: ``ctc``, ``pretraining`` or ``encoder``; odd seeds normalise waveforms."""
    save_ours(model, random_config(seed).model_copy(update={"normalize_waveform": seed % 2 == 1}), kind)
    return model


def write_all(folder: Path, kind: str, **options: int) -> dict[str, Path]:
    """The same model in every format, each in a folder of its own; the path is what a user names as MODEL."""
    models = {"audio_ssl": write_ours(folder / "audio_ssl" / "model", kind, **options)}
    for system in SYSTEMS:
        models[system] = place(folder / system, system)
        convert(models["audio_ssl"], models[system], to=system, check=False)
    return models


def weights_of(model: Path) -> Path:
    """The file with the tensors of one of these models."""
    return model / "model.safetensors" if model.is_dir() else model


def edit_tensors(model: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change a model's tensors in place, by the names that its own system has for them."""
    path = weights_of(model)
    if path.suffix == ".safetensors":
        tensors = load_tensors(path)
        edit(tensors)
        save_tensors(path, tensors)
    else:
        content = torch.load(path, weights_only=True)
        edit(content.get("model", content))
        torch.save(content, path)


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder, hidden or not, and a hash of what files hold."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def beside(model: Path, name: str) -> Path:
    return (model if model.is_dir() else model.parent) / name


def write(name: str, data: str | bytes, model: Path) -> None:
    beside(model, name).parent.mkdir(exist_ok=True)
    beside(model, name).write_bytes(data if isinstance(data, bytes) else data.encode())


def remove(name: str, model: Path) -> None:
    beside(model, name).unlink()


def edit_json(name: str, model: Path, /, **values: object) -> None:
    path = beside(model, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_text(name: str, old: str, new: str, model: Path) -> None:
    text = beside(model, name).read_text()
    assert old in text
    write(name, text.replace(old, new, 1), model)


def keep(share: float, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
