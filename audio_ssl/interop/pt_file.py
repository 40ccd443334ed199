"""``torch.save`` files as data, never as code; and the TOML file beside them that holds what they cannot."""

from __future__ import annotations

import argparse
import os
import pickle
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.errors import CheckpointError
from audio_ssl.interop.directory import refuse_existing


def read_pt(path: Path) -> dict[str, Any]:
    """A ``torch.save`` dictionary, read as data: nothing in the file is run.

    Raises:
        CheckpointError: unreadable, not a dictionary, or with objects other than tensors and plain values.
    """
    try:
        # fairseq's older files keep their settings in a Namespace, which is as harmless as a dictionary.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} must hold tensors and plain values alone, but it holds other Python objects; reading them would "
            f"run its code, so it is not read. Save its state dict alone ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} must be a whole torch file: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a dictionary of tensors, got {type(content).__name__}")
    return content


def only_tensors(values: Mapping[str, Any], *, source: Path) -> dict[str, Tensor]:
    """The dictionary, known to hold tensors only.

    Raises:
        CheckpointError: naming what is no tensor.
    """
    strays = [name for name, value in values.items() if not isinstance(value, Tensor)]
    if strays:
        raise CheckpointError(f"{source} must hold tensors by name, but these are none: {', '.join(strays[:10])}")
    return dict(values)


def write_pt(path: Path, content: Mapping[str, Any]) -> None:
    """Write a ``torch.save`` file whole: beside its place, then moved there.

    Raises:
        CheckpointError: the place exists already or cannot be written.
    """
    refuse_existing(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(content), draft)
        draft.replace(path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} must be writable with room to spare: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def write_sidecar(path: Path, document: Mapping[str, Any]) -> None:
    """Write the model's document beside a ``.pt`` file, whose format has no place for settings and symbols."""
    import tomli_w

    try:
        path.with_suffix(".toml").write_text(tomli_w.dumps(dict(document)), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path.with_suffix('.toml')} must be writable: {error}") from error


def read_sidecar(path: Path) -> dict[str, Any]:
    """The document beside a ``.pt`` file; empty where there is none.

    Raises:
        CheckpointError: there is one, but it cannot be read.
    """
    sidecar = path.with_suffix(".toml")
    if not sidecar.exists():
        return {}
    try:
        return tomllib.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"{sidecar} must be a readable TOML file, or not be there: {error}") from error
