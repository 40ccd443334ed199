"""One ``.npy`` an utterance.

A long recording is filled in window by window through a memory map, so that its size does not matter.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.sinks.base import DRAFTS_FOLDER, PlannedRow, ShardWriter, draft_folder
from audio_ssl.inference.stream import Piece

DTYPES: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
FLUSHES_AT_ONCE = 16  # of many small files: a disk's journal takes those that wait together in one go


class NpySink:
    """See :class:`audio_ssl.inference.sinks.base.Sink`.

    Args:
        folder: exists.
        dtype: of the files.
        all_rows: whose ids are checked.

    Raises:
        ConfigError: no such dtype.
        ManifestError: ids that are no file names.
    """

    def __init__(self, folder: Path, dtype: str, all_rows: Iterable[PlannedRow]) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"--dtype must be {' or '.join(DTYPES)} with --format npy, got {dtype!r}")
        _check_ids(row.id for row in all_rows)
        self._folder, self._dtype = folder, DTYPES[dtype]

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:  # noqa: ARG002 - the protocol's
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        return _NpyShard(self._folder, draft_folder(self._folder, name), self._dtype)


class _NpyShard:
    def __init__(self, folder: Path, drafts: Path, dtype: type[np.floating[Any]]) -> None:
        self._folder, self._drafts, self._dtype = folder, drafts, dtype
        self._open: dict[str, NDArray[Any]] = {}  # long recordings that are not complete, by id
        self._complete: dict[str, str] = {}  # id to file
        self._folders: set[Path] = set()  # that were looked at

    def take(self, utterance_id: str, piece: Piece) -> str | None:
        with np.errstate(over="ignore"):  # said in words below
            frames = piece.frames.astype(self._dtype)
        if not np.isfinite(frames).all():
            self.drop(utterance_id)
            fits = np.isfinite(piece.frames).all()
            return "its values exceed float16; use --dtype fp32" if fits else "the model gives NaN or infinity for it"
        file = embedding_file(utterance_id)
        if not piece.is_windowed:
            np.save(self._draft(file), frames)
        else:
            if utterance_id not in self._open:
                shape = (*frames.shape[:-2], piece.total_frames, frames.shape[-1])
                self._open[utterance_id] = _mapped(self._draft(file), shape, self._dtype)
            self._open[utterance_id][..., piece.window.keep_from : piece.window.keep_to, :] = frames
        if piece.is_last:
            mapped = self._open.pop(utterance_id, None)
            if isinstance(mapped, np.memmap):
                mapped.flush()
            self._complete[utterance_id] = file
        return None

    def drop(self, utterance_id: str) -> None:
        is_here = self._open.pop(utterance_id, None) is not None or self._complete.pop(utterance_id, None) is not None
        if is_here:
            self._draft(embedding_file(utterance_id)).unlink(missing_ok=True)

    def commit(self) -> dict[str, dict[str, Any]]:
        for name in list(self._open):
            self.drop(name)
        drafts = [self._drafts / file for file in self._complete.values()]
        with ThreadPoolExecutor(FLUSHES_AT_ONCE, thread_name_prefix="flush") as pool:
            list(pool.map(flush, drafts))
        for draft, file in zip(drafts, self._complete.values(), strict=True):
            final = self._folder / file
            final.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(final)
        for parent in {(self._folder / file).parent for file in self._complete.values()}:
            flush(parent)
        shutil.rmtree(self._drafts)
        return {name: {"file": file} for name, file in self._complete.items()}

    def abandon(self) -> None:
        self._open.clear()
        shutil.rmtree(self._drafts, ignore_errors=True)

    def _draft(self, file: str) -> Path:
        draft, parent = self._drafts / file, (self._folder / file).parent
        if parent not in self._folders:
            if not parent.resolve().is_relative_to(self._folder.resolve()):
                raise ManifestError(f"{self._folder / file} must lie in {self._folder}: a link leads out of it")
            draft.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(parent)
        return draft


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def embedding_file(utterance_id: str) -> str:
    """Path of an utterance's file, relative to the folder; slashes of the id make sub-folders.

    Raises:
        ManifestError: the id would lead out of the folder or is no file name.
    """
    parts = utterance_id.split("/")
    is_odd = any(part in ("", ".", "..") or len(f"{part}.npy".encode()) > 255 for part in parts)
    if is_odd or parts[0] == DRAFTS_FOLDER or any(ord(c) < 32 or c in "\\\x7f" for c in utterance_id):
        raise ManifestError(
            f"id {utterance_id!r} must be usable as a file name below the output folder (no empty, '.' or '..' part, "
            f"none in {DRAFTS_FOLDER}, no control character or backslash, at most 251 bytes a part); change the id in "
            "the manifest"
        )
    return f"{utterance_id}.npy"


def _check_ids(ids: Iterable[str]) -> None:
    shown, num_faults = list[str](), 0
    for name in ids:
        try:
            embedding_file(name)
        except ManifestError as error:
            num_faults += 1
            shown += [str(error)] if num_faults <= 5 else []
    if num_faults:
        more = f"\n  and {num_faults - 5} more" if num_faults > 5 else ""
        raise ManifestError("\n  ".join(shown) + more)


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """A new ``.npy`` of that shape as a memory map whose room on the disk is taken at once.

    Raises:
        OSError: there is no room.
    """
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # a write into the map that finds the disk full would kill the process (SIGBUS) without a word
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return mapped
