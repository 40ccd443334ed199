"""What stands beside a ``.pt`` file of a format without settings: our document as TOML, and tensors without a place."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.checkpoint import load_tensors, read_files, write_files
from audio_ssl.errors import CheckpointError


def own_sections(document: Mapping[str, Any], *, source: Path) -> dict[str, dict[str, Any]]:
    """The sections ``model``, ``objective`` and ``ctc`` of a document of ours that anyone may have edited.

    Returns:
        All three by name, empty where the document lacks them.

    Raises:
        CheckpointError: something else than a section stands there.
    """
    sections = {key: document.get(key, {}) for key in ("model", "objective", "ctc")}
    for key, found in sections.items():
        if not isinstance(found, dict):
            raise CheckpointError(
                f"{source}: {key} must be a section of settings, got {found!r:.80}; remove or correct it"
            )
    return sections


def write_sidecar(path: Path, document: Mapping[str, Any]) -> None:
    """Write the model's document beside a ``.pt`` file, whose format has no place for settings and symbols.

    Raises:
        OSError: it cannot be written.
    """
    import tomli_w

    plain = write_files(path.parent, document, prefix=f"{path.stem}.")
    path.with_suffix(".toml").write_text(tomli_w.dumps(plain), encoding="utf-8")


def read_sidecar(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of the document beside a ``.pt`` file (:func:`own_sections`); empty where there is none.

    Raises:
        CheckpointError: there is one, but it cannot be read.
    """
    sidecar = path.with_suffix(".toml")
    if not sidecar.exists():
        return own_sections({}, source=sidecar)
    try:
        document = tomllib.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"{sidecar} must be a readable TOML file, or not be there: {error}") from error
    return own_sections(read_files(sidecar.parent, document), source=sidecar)


def rest_path(path: Path) -> Path:
    """Where the tensors stand that a ``.pt`` file has no place for."""
    return path.with_suffix(".rest.safetensors")


def read_rest(path: Path) -> dict[str, Tensor]:
    """Tensors that the ``.pt`` file has no place for, under our names; empty where there is no such file.

    Raises:
        CheckpointError: there is one, but it cannot be read.
    """
    return load_tensors(rest_path(path)) if rest_path(path).exists() else {}
