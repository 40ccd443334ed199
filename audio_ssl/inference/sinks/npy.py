"""One ``.npy`` an utterance, in sub-folders where its id has slashes.

A frame in int8 is a record of its ``scale`` and its ``values``: one file holds both, and a memory map gives either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.inference.output import file_name
from audio_ssl.inference.sinks.base import PlannedRow, ShardWriter
from audio_ssl.inference.sinks.drafts import Drafts, npy_header, take_room, write_at
from audio_ssl.inference.sinks.numbers import STORED, Encoded, decode
from audio_ssl.inference.sinks.writer import Form, PieceWriter, check_ids


class NpySink:
    """See :class:`audio_ssl.inference.sinks.base.Sink`.

    Args:
        folder: exists.
        form: of what is written.
        all_rows: whose ids are checked.

    Raises:
        ManifestError: ids that are no file names.
    """

    def __init__(self, folder: Path, form: Form, all_rows: Sequence[PlannedRow]) -> None:
        check_ids((row.id for row in all_rows), embedding_file)
        self._folder, self._form = folder, form

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        return _NpyShard(self._folder, name, rows, form=self._form)

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""


class _NpyShard(PieceWriter):
    def __init__(self, folder: Path, name: str, rows: Sequence[PlannedRow], *, form: Form) -> None:
        super().__init__(rows, form)
        self._drafts = Drafts(folder, name)
        self._heads: dict[str, int] = {}  # bytes of the header, of each draft by id

    def abandon(self) -> None:
        self._drafts.clear()

    def _store(self, row: PlannedRow, encoded: Encoded, first: int) -> None:
        dim, num_runs = encoded.values.shape[-1], self._form.num_runs
        frames = _records(encoded).reshape(num_runs, -1)
        frame_bytes = frames.dtype.itemsize
        is_new, is_whole = row.id not in self._heads, frames.shape[1] == row.num_frames
        flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if is_new else 0)
        descriptor = os.open(self._draft(row), flags, 0o666)
        try:
            if is_new:
                head = self._head(row, dim)
                self._heads[row.id] = len(head)
                if not is_whole:
                    take_room(descriptor, len(head) + num_runs * row.num_frames * frame_bytes)
                write_at(descriptor, 0, head)
            for layer, run in enumerate(frames):
                place = self._heads[row.id] + (layer * row.num_frames + first) * frame_bytes
                write_at(descriptor, place, run)
        finally:
            os.close(descriptor)

    def _forget(self, row: PlannedRow) -> None:
        if self._heads.pop(row.id, None) is not None:
            self._draft(row).unlink(missing_ok=True)

    def _publish(self, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
        self._drafts.publish([(self._draft(row), embedding_file(row.id)) for row in kept])
        self._drafts.clear()
        return {row.id: {"file": embedding_file(row.id)} for row in kept}

    def _draft(self, row: PlannedRow) -> Path:
        return self._drafts.path(f"{row.row}.npy")

    def _head(self, row: PlannedRow, dim: int) -> bytes:
        shape, dtype = self._form.shape(row.num_frames, dim), STORED[self._form.dtype]
        if self._form.dtype == "int8":
            return npy_header(shape[:-1], _record(dim))
        return npy_header(shape, dtype)


class NpyReader:
    """See :class:`audio_ssl.inference.sinks.formats.Reader`."""

    def __init__(self, folder: Path, form: Form) -> None:
        self._folder, self._form = folder, form

    def read(self, line: Mapping[str, Any]) -> NDArray[Any]:
        """See :class:`audio_ssl.inference.sinks.formats.Reader`."""
        stored: NDArray[Any] = np.load(self._folder / line["file"], mmap_mode="r", allow_pickle=False)
        if self._form.dtype == "int8":
            return decode(Encoded(stored["values"], stored["scale"]), "int8")
        return decode(Encoded(stored), self._form.dtype)


def embedding_file(utterance_id: str) -> str:
    """Path of an utterance's file, relative to the folder; slashes of the id make sub-folders.

    Raises:
        ManifestError: the id would lead out of the folder or is no file name.
    """
    return file_name(utterance_id, ".npy", instead=", or use --format matrix")


def _record(dim: int) -> np.dtype[Any]:
    return np.dtype([("scale", "<f4"), ("values", "i1", (dim,))])


def _records(encoded: Encoded) -> NDArray[Any]:
    """(..., T) items of a whole frame each."""
    dim = encoded.values.shape[-1]
    if encoded.scales is None:
        values = np.ascontiguousarray(encoded.values)
        return values.view(np.dtype((np.void, dim * values.dtype.itemsize)))[..., 0]
    records = np.empty(encoded.scales.shape, _record(dim))
    records["scale"], records["values"] = encoded.scales, encoded.values
    return records
