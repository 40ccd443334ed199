"""The units of a fit as a folder: ``units.safetensors`` (centroids) and ``units.json`` (what they are units of).

Nothing of it is a pickle, and the two files know each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from audio_ssl.errors import CheckpointError, ConfigError
from audio_ssl.inference.units.nearest import Nearest
from audio_ssl.inference.units.stored import ORIGIN

CENTROIDS_FILE = "units.safetensors"
DOCUMENT_FILE = "units.json"
TENSOR = "centroids"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Units:
    """Centroids and what they are centroids of.

    Attributes:
        centroids: (K, D) float32.
        document: as in ``units.json``.
        path: the folder; for messages.
    """

    centroids: NDArray[np.float32]
    document: Mapping[str, Any]
    path: Path

    @property
    def num_units(self) -> int:
        """K."""
        return len(self.centroids)

    @property
    def origin(self) -> dict[str, Any]:
        """Which frames they are of; see :data:`audio_ssl.inference.units.stored.ORIGIN`."""
        return {key: self.document[key] for key in ORIGIN}

    @property
    def hash(self) -> str:
        """16 hex digits that name the centroids."""
        return centroids_hash(self.centroids)

    def check_origin(self, origin: Mapping[str, Any], *, whose: str) -> None:
        """Check that frames are of the same model and layer.

        Raises:
            ConfigError: they are not; every difference is named.
        """
        faults = [
            f"{key} is {origin[key]!r}, that of the units is {self.document[key]!r}"
            for key in ORIGIN if origin[key] != self.document[key]
        ]  # fmt: skip
        if faults:
            raise ConfigError(f"{whose} must give the frames that {self.path} was fitted on: {'; '.join(faults)}")

    def nearest(self, device: torch.device | None = None) -> Nearest:
        """What labels frames (T, D) with units (T,)."""
        return Nearest(self.centroids, device)


def centroids_hash(centroids: NDArray[np.float32]) -> str:
    """See :attr:`Units.hash`."""
    return hashlib.blake2b(np.ascontiguousarray(centroids).tobytes(), digest_size=8).hexdigest()


def save_units(folder: Path, centroids: NDArray[np.float32], document: Mapping[str, Any]) -> Units:
    """Write units beside their place, then move them there.

    Args:
        folder: absent or empty.
        centroids: (K, D) float32.
        document: JSON-able; ``version``, ``num_units``, ``dim`` and the hash are added.

    Raises:
        ConfigError: the place cannot be written; nothing was changed.
    """
    num_units, dim = centroids.shape
    head = {"version": FORMAT_VERSION, "num_units": num_units, "dim": dim, "hash": centroids_hash(centroids)}
    full = {**head, **document}
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        draft.mkdir(parents=True)
        save_file({TENSOR: np.ascontiguousarray(centroids)}, draft / CENTROIDS_FILE)
        (draft / DOCUMENT_FILE).write_text(json.dumps(full, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        for path in (*draft.iterdir(), draft):
            _flush(path)
        draft.replace(folder)
        _flush(folder.parent)
    except OSError as error:
        raise ConfigError(f"{folder} must be writable with room to spare: {error}; choose another place") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Units(centroids, full, folder)


def load_units(folder: Path) -> Units:
    """Read units.

    Raises:
        CheckpointError: no units there, or files that do not belong together.
    """
    for name in (DOCUMENT_FILE, CENTROIDS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} must be a folder that `audio-ssl units fit` wrote; it has no {name}"
                + ("; a k-means model of scikit-learn is a pickle, which is not read" if folder.is_file() else "")
            )
    document = read_document(folder)
    try:
        centroids = load_file(folder / CENTROIDS_FILE)[TENSOR]
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder / CENTROIDS_FILE} must hold the tensor {TENSOR!r}: {error}") from error
    shape = (document["num_units"], document["dim"])
    if centroids.dtype != np.float32 or centroids.shape != shape or not np.isfinite(centroids).all():
        raise CheckpointError(
            f"{folder / CENTROIDS_FILE} must hold finite float32 centroids of shape {shape}, as {DOCUMENT_FILE} says; "
            f"it holds {centroids.dtype} of shape {centroids.shape}"
        )
    if centroids_hash(centroids) != document["hash"]:
        raise CheckpointError(f"{folder}: {CENTROIDS_FILE} must be the one of {DOCUMENT_FILE} beside it; fit again")
    return Units(centroids, document, folder)


def read_document(folder: Path) -> dict[str, Any]:
    """``units.json`` of a folder.

    Raises:
        CheckpointError: it is not what ``units fit`` writes.
    """
    path = folder / DOCUMENT_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("version", "num_units", "dim", "hash", "fit", *ORIGIN) if key not in document]
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} must be as `audio-ssl units fit` wrote it, it is not ({error})") from error
    if missing:
        raise CheckpointError(f"{path} must be as `audio-ssl units fit` wrote it; it lacks {', '.join(missing)}")
    if document["version"] != FORMAT_VERSION:
        raise CheckpointError(f"{path}: version must be {FORMAT_VERSION}, got {document['version']!r}")
    return dict(document)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
