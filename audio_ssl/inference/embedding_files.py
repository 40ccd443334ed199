"""One ``.npy`` an utterance, whole or not there: written beside its place, then moved.

A long recording is filled in window by window through a memory map, so that its size does not matter.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ManifestError
from audio_ssl.inference.stream import Piece

Dtype = Literal["fp32", "fp16"]
DTYPES: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}


class EmbeddingFiles:
    """The files of an output folder.

    Args:
        folder: exists.
        dtype: of the files.
    """

    def __init__(self, folder: Path, dtype: Dtype) -> None:
        self._folder, self._dtype = folder, DTYPES[dtype]
        self._open: dict[str, NDArray[Any]] = {}  # drafts of long recordings, by file

    def take(self, file: str, piece: Piece) -> str | None:
        """Write a piece; the file takes its place with the last one.

        Args:
            file: relative to the folder.
            piece: the next one of its utterance.

        Returns:
            None, or why these frames cannot be kept; the file's draft is then gone.
        """
        with np.errstate(over="ignore"):  # said in words below
            frames = piece.frames.astype(self._dtype)
        if not np.isfinite(frames).all():
            self.drop(file)
            fits = np.isfinite(piece.frames).all()
            return "its values exceed float16; use --dtype fp32" if fits else "the model gives NaN or infinity for it"
        draft = self._draft(file)
        if not piece.is_windowed:
            try:
                with draft.open("wb") as stream:
                    np.save(stream, frames)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
        else:
            if file not in self._open:
                shape = (*frames.shape[:-2], piece.total_frames, frames.shape[-1])
                self._open[file] = _mapped(draft, shape, self._dtype)
            self._open[file][..., piece.window.keep_from : piece.window.keep_to, :] = frames
        if piece.is_last:
            mapped = self._open.pop(file, None)
            if isinstance(mapped, np.memmap):
                mapped.flush()
            draft.replace(self._folder / file)
        return None

    def drop(self, file: str) -> None:
        """Take back what was written of an utterance that will not be complete."""
        if self._open.pop(file, None) is not None:
            self._draft(file).unlink(missing_ok=True)

    def drop_all(self) -> None:
        """Take back every draft."""
        for file in list(self._open):
            self.drop(file)

    def _draft(self, file: str) -> Path:
        final = self._folder / file
        final.parent.mkdir(parents=True, exist_ok=True)
        if not final.parent.resolve().is_relative_to(self._folder.resolve()):
            raise ManifestError(f"{final} must lie in {self._folder}: a link leads out of it")
        return final.with_name(f".{final.name}.{os.getpid()}.tmp")


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """A new ``.npy`` of that shape as a memory map whose room on the disk is taken at once.

    Raises:
        OSError: there is no room; the file is gone.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # a write into the map that finds the disk full would kill the process (SIGBUS) without a word
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return mapped
