"""The file format of models and training states: safetensors and TOML/JSON in a directory that a person can read.

Everything is written beside its place and moved there whole, so a reader sees the old or the new, never a half.
Loading runs no code from the file (no pickle). This module knows no model.

Layout of a model directory (``docs/checkpoint_format.md``)::

    config.toml         format_version, kind, and the sections that rebuild the modules
    model.safetensors   every tensor by name, prefixes `encoder.`, `objective.`, `head.`
    sentencepiece.model a value of a section that is bytes; its file and SHA-256 stand in the section
    state/              only in training checkpoints: what a resumed run needs beyond the weights
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_ssl.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT_VERSION = 1
CONFIG_FILE = "config.toml"
WEIGHTS_FILE = "model.safetensors"


@contextmanager
def replaced_directory(final: Path, *, owner: str | None = None) -> Iterator[Path]:
    """Give a fresh directory beside ``final``; on success it takes that place, on failure nothing has changed.

    Args:
        final: the place.
        owner: of the draft's name (:func:`draft_of`), where several processes write into one; None: this process.

    Raises:
        CheckpointError: the place cannot be written (read-only, disk full); what was there is intact.
    """
    draft = draft_of(final, owner or str(os.getpid()))
    retired = draft.with_suffix(".old")
    try:
        draft.mkdir(parents=True, exist_ok=owner is not None)  # another of the owners may have been first
        yield draft
        _sync_tree(draft)
        if final.exists():
            final.rename(retired)
        draft.rename(final)
        _sync_path(final.parent)
    except OSError as error:
        raise CheckpointError(
            f"{final} must be writable with room to spare: {error}. Earlier checkpoints are intact; free space or "
            "choose another folder (run.dir), then start again with --resume auto"
        ) from error
    finally:
        if retired.exists() and not final.exists():
            retired.rename(final)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def draft_of(final: Path, owner: str) -> Path:
    """Where ``owner`` writes what is to be ``final``; :func:`remove_drafts` knows its form."""
    return final.with_name(f".{final.name}.{owner}.tmp")


def save_model(directory: Path, *, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``config.toml`` and ``model.safetensors`` into an existing directory (see :func:`replaced_directory`).

    Args:
        directory: an existing directory.
        document: TOML-able sections, a value that is bytes going to a file of its own; ``format_version`` is added.
        tensors: name to tensor on any device; stored contiguous, in their own dtype.
    """
    import tomli_w

    sections = write_files(directory, document)
    text = tomli_w.dumps({"format_version": FORMAT_VERSION, **sections})
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
    save_tensors(directory / WEIGHTS_FILE, tensors)


def write_files(directory: Path, document: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Write the values of a document that are bytes, each to ``<prefix><key>.model`` in an existing directory.

    Returns:
        The document with name and SHA-256 of each such file in the place of its bytes.

    Raises:
        OSError: a file cannot be written.
    """
    plain: dict[str, Any] = {}
    for key, value in document.items():
        plain[key] = value
        if isinstance(value, Mapping):
            plain[key] = write_files(directory, value, prefix=prefix)
        elif isinstance(value, bytes):
            name = f"{prefix}{key}.model"
            (directory / name).write_bytes(value)
            plain[key] = {"file": name, "sha256": hashlib.sha256(value).hexdigest()}
    return plain


def read_files(directory: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`write_files`.

    Raises:
        CheckpointError: a file is missing or another one than was written, or named elsewhere.
    """
    whole: dict[str, Any] = {}
    for key, value in document.items():
        whole[key] = value
        if isinstance(value, Mapping):
            is_file = value.keys() == {"file", "sha256"}
            whole[key] = _read_file(directory, value) if is_file else read_files(directory, value)
    return whole


def _read_file(directory: Path, entry: Mapping[str, Any]) -> bytes:
    name = str(entry["file"])
    if Path(name).name != name:
        raise CheckpointError(f"{directory} must name files of its own, got {name!r}; copy it again")
    try:
        content = (directory / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{directory} must hold {name}, which its settings name: {error}; copy it too") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise CheckpointError(
            f"{directory / name} must be the file that the model was made with (SHA-256 {entry['sha256']}), it has "
            f"{found}; copy it again"
        )
    return content


def read_document(directory: Path) -> dict[str, Any]:
    """The sections of ``config.toml``.

    Raises:
        CheckpointError: missing, unreadable, of a newer format than this version reads, or a file that it names is
            not the one.
    """
    path = directory / CONFIG_FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(
            f"{directory} must be a model directory with a readable {CONFIG_FILE}: {error}"
        ) from error
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version must be {FORMAT_VERSION}, got {version!r}; "
            "it was written by another version of audio_ssl (or is not a model's config.toml)"
        )
    return read_files(directory, document)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors; equal storage shared by two names is written twice.

    Raises:
        OSError: the file cannot be written (disk full, read-only).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    own = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        save_file(own, path, metadata={"format": "pt"})
    except SafetensorError as error:  # what the library makes of a failed write
        raise OSError(str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file onto the CPU.

    Raises:
        CheckpointError: missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} must be a whole safetensors file, but it cannot be read as one ({error}). It is damaged or "
            "something else: copy or download it again"
        ) from error


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix``, under the rest of their name."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, source: Path | str) -> None:
    """Copy tensors into a module; names and shapes must match exactly.

    Raises:
        CheckpointError: listing every missing, unexpected and misshapen tensor by name; the module is unchanged.
    """
    own = module.state_dict()
    faults = [f"missing: {name}" for name in sorted(own.keys() - tensors.keys())]
    faults += [f"unexpected: {name}" for name in sorted(tensors.keys() - own.keys())]
    faults += [
        f"shape of {name} must be {tuple(own[name].shape)}, got {tuple(tensors[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:20])
        more = f"\n  - and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise CheckpointError(f"{source} must hold exactly the tensors of this model:\n{shown}{more}")
    module.load_state_dict(dict(tensors), strict=True)


def remove_drafts(directory: Path) -> None:
    """Remove what a killed process left half-written in ``directory``; only for who owns the folder's lock.

    What it had moved aside to put something newer in its place comes back, where the newer one never came.
    """
    for retired in directory.glob(".*.old"):
        final = retired.with_name(retired.name[1:].rsplit(".", 2)[0])
        if not final.exists():
            retired.rename(final)
    for pattern in (".*.tmp", ".*.old"):
        for path in directory.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def remove_whole(directory: Path) -> None:
    """Remove a directory so that no reader sees a part of it; what stays is left to :func:`remove_drafts`."""
    retired = draft_of(directory, str(os.getpid()))
    with suppress(OSError):
        directory.rename(retired)
        shutil.rmtree(retired)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole: beside its place, then moved there.

    Raises:
        OSError: it cannot be written; what was there is intact.
    """
    draft = draft_of(path, str(os.getpid()))
    try:
        draft.write_text(text, encoding="utf-8")
        _sync_path(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _sync_tree(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        _sync_path(path)


def _sync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
