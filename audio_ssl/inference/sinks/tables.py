"""A table a shard, ``.parquet`` or ``.arrow`` (the IPC file format, memory-mapped): for pandas, datasets, DuckDB.

Columns: ``id``; ``first_frame`` and ``num_frames`` of the row; ``frames``, a list of fixed-size lists of D numbers; for
int8 also ``scales``, a number a frame. Several layers have a column each: ``frames_6``, ``frames_9``. A pooled
utterance has one fixed-size list, ``vector``. An utterance of more than 64 MiB has several rows, one after another,
so that neither writer nor reader holds it whole; ``first_frame`` tells them apart.

Frames wait in a draft, for they come by length and one that is dropped may be half there; the table is in the order
of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from audio_ssl.inference.sinks.base import PlannedRow, ShardWriter
from audio_ssl.inference.sinks.numbers import STORED, Encoded, decode
from audio_ssl.inference.sinks.shard_file import SCALE_BYTES, Layout, ShardFile
from audio_ssl.inference.sinks.writer import Form

BATCH_BYTES = 16 << 20
"""Rows are written (a row group, a record batch) and read together up to about this size."""
ROW_BYTES = 64 << 20
"""An utterance above this size has several rows."""
_FILES_OPEN = 32


class TableSink:
    """See :class:`audio_ssl.inference.sinks.base.Sink`.

    Args:
        folder: exists.
        form: of what is written.
        kind: ``parquet`` or ``arrow``.
        about: what the files say of themselves, under ``audio_ssl`` in the metadata of the schema.
    """

    def __init__(self, folder: Path, form: Form, kind: str, *, about: Mapping[str, Any] | None = None) -> None:
        self._folder, self._form, self._kind = folder, form, kind
        self._metadata = {"audio_ssl": json.dumps(dict(about or {}), ensure_ascii=False)}

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        return _TableShard(self._folder, name, rows, form=self._form, kind=self._kind, metadata=self._metadata)

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""


@dataclass(frozen=True)
class _Part:
    """A row of a table: some frames of an utterance."""

    row: PlannedRow
    first: int
    num_frames: int


class _TableShard(ShardFile):
    def __init__(
        self, folder: Path, name: str, rows: Sequence[PlannedRow], *, form: Form, kind: str, metadata: dict[str, str]
    ) -> None:
        super().__init__(folder, name, rows, form=form)
        self._kind, self._metadata = kind, metadata

    def _finish(self, draft: Path, layout: Layout, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
        file = f"{self._name}.{self._kind}"
        table, schema = self._drafts.path(file), _schema(self._form, self._dim, self._metadata)
        data = np.memmap(draft, dtype=np.uint8, mode="r")
        keys: dict[str, dict[str, Any]] = {}
        num_rows = 0
        with _table_writer(table, schema, kind=self._kind, form=self._form) as writer:
            for batch in _batches(kept, self._form, self._dim):
                columns = _Columns(data, layout, form=self._form, dim=self._dim)
                writer.write_batch(pa.record_batch(columns.of(batch), schema=schema))
                for part in batch:
                    key = keys.setdefault(part.row.id, {"file": file, "first_row": num_rows, "num_rows": 0})
                    key["num_rows"] += 1
                    num_rows += 1
        self._drafts.publish([(table, file)])
        return keys


@dataclass(frozen=True)
class _Columns:
    """Turns a draft into columns.

    Attributes:
        data: the draft, mapped.
        layout: of it.
        form: of the folder.
        dim: D.
    """

    data: NDArray[np.uint8]
    layout: Layout
    form: Form
    dim: int

    def of(self, batch: Sequence[_Part]) -> list[pa.Array]:
        """The columns of some rows, in the order of the schema."""
        columns = [
            pa.array([part.row.id for part in batch], pa.string()),
            pa.array([part.first for part in batch], pa.int64()),
            pa.array([part.num_frames for part in batch], pa.int64()),
        ]
        ends = np.cumsum([0, *(part.num_frames for part in batch)]).astype(np.int32)
        for layer in range(self.form.num_runs):
            values = np.concatenate([self._values(part, layer) for part in batch])
            frames = pa.FixedSizeListArray.from_arrays(pa.array(values), self.dim)
            columns.append(frames if self.form.is_pooled else pa.ListArray.from_arrays(pa.array(ends), frames))
            if self.form.dtype == "int8":
                scales = pa.array(np.concatenate([self._scales(part, layer) for part in batch]))
                columns.append(scales if self.form.is_pooled else pa.ListArray.from_arrays(pa.array(ends), scales))
        return columns

    def _values(self, part: _Part, layer: int) -> NDArray[Any]:
        frame_bytes = self.form.frame_bytes(self.dim)
        start = self.layout.runs[part.row.id][layer].values + part.first * frame_bytes
        return self.data[start : start + part.num_frames * frame_bytes].view(STORED[self.form.dtype])

    def _scales(self, part: _Part, layer: int) -> NDArray[Any]:
        start = self.layout.runs[part.row.id][layer].scales
        assert start is not None
        start += part.first * SCALE_BYTES
        return self.data[start : start + part.num_frames * SCALE_BYTES].view("<f4")


def _batches(rows: Sequence[PlannedRow], form: Form, dim: int) -> Iterator[list[_Part]]:
    """Rows that are written together; a part of a divided utterance goes alone."""
    frame_bytes = form.num_runs * (form.frame_bytes(dim) + (SCALE_BYTES if form.dtype == "int8" else 0))
    most = max(ROW_BYTES // frame_bytes, 1)
    batch: list[_Part] = []
    size = 0
    for row in rows:
        for first in range(0, row.num_frames, most):
            part = _Part(row, first, min(most, row.num_frames - first))
            if batch and size + part.num_frames * frame_bytes > BATCH_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += part.num_frames * frame_bytes
    if batch:
        yield batch


def _schema(form: Form, dim: int, metadata: dict[str, str]) -> pa.Schema:
    fields = [pa.field("id", pa.string()), pa.field("first_frame", pa.int64()), pa.field("num_frames", pa.int64())]
    vector = pa.list_(pa.from_numpy_dtype(STORED[form.dtype]), dim)
    for frames, scales in _names(form):
        fields.append(pa.field(frames, vector if form.is_pooled else pa.list_(vector)))
        if form.dtype == "int8":
            fields.append(pa.field(scales, pa.float32() if form.is_pooled else pa.list_(pa.float32())))
    return pa.schema(fields, metadata=metadata)


def _names(form: Form) -> list[tuple[str, str]]:
    """Columns of values and of scales, of each layer."""
    stem = ("vector", "scale") if form.is_pooled else ("frames", "scales")
    if not form.layers:
        return [stem]
    return [(f"{stem[0]}_{layer}", f"{stem[1]}_{layer}") for layer in form.layers]


def _table_writer(path: Path, schema: pa.Schema, *, kind: str, form: Form) -> Any:
    if kind == "arrow":
        return pa.ipc.new_file(str(path), schema)
    from pyarrow.parquet import ParquetWriter

    # Numbers of a network have neither repetitions nor useful bounds. But Parquet's plain int8 takes four bytes; the
    # at most 255 of them in a dictionary take one, and so do codes.
    inside = ".list.element" if form.is_pooled else ".list.element.list.element"
    repeated = [name + inside for name, _ in _names(form)] if form.dtype in ("int8", "int32") else []
    return ParquetWriter(
        str(path), schema, compression="none", use_dictionary=["id", *repeated], write_statistics=["id"]
    )


class TableReader:
    """See :class:`audio_ssl.inference.sinks.formats.Reader`."""

    def __init__(self, folder: Path, form: Form, kind: str) -> None:
        self._folder, self._form, self._kind = folder, form, kind
        self._opened = lru_cache(_FILES_OPEN)(self._open)
        self._batch = lru_cache(1)(self._read_batch)  # neighbours lie together

    def read(self, line: Mapping[str, Any]) -> NDArray[Any]:
        """See :class:`audio_ssl.inference.sinks.formats.Reader`."""
        first = line["first_row"]
        parts = [self._row(line["file"], row) for row in range(first, first + line["num_rows"])]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)

    def _row(self, file: str, row: int) -> NDArray[Any]:
        starts = self._opened(file)[1]
        number = int(np.searchsorted(starts, row, side="right")) - 1
        batch, row = self._batch(file, number), row - int(starts[number])
        layers = [self._frames(batch, names, row) for names in _names(self._form)]
        return np.stack(layers) if self._form.layers else layers[0]

    def _frames(self, batch: pa.RecordBatch, names: tuple[str, str], row: int) -> NDArray[Any]:
        frames = batch.column(names[0]).slice(row, 1)
        frames = frames if self._form.is_pooled else frames.flatten()
        dim = frames.type.list_size
        values = frames.flatten().to_numpy().reshape(-1, dim)
        scales = None
        if self._form.dtype == "int8":
            scales = batch.column(names[1]).slice(row, 1)
            scales = (scales if self._form.is_pooled else scales.flatten()).to_numpy()
        decoded = decode(Encoded(values, scales), self._form.dtype)
        return decoded[0] if self._form.is_pooled else decoded

    def _open(self, file: str) -> tuple[Any, NDArray[np.int64]]:
        """A table, and the number of the first row of each of its batches."""
        source = pa.memory_map(str(self._folder / file))
        if self._kind == "arrow":
            table = pa.ipc.open_file(source)
            counts = [table.get_batch(i).num_rows for i in range(table.num_record_batches)]
        else:
            from pyarrow.parquet import ParquetFile

            table = ParquetFile(source)
            counts = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        return table, np.cumsum([0, *counts])

    def _read_batch(self, file: str, number: int) -> pa.RecordBatch:
        table = self._opened(file)[0]
        if self._kind == "arrow":
            return table.get_batch(number)
        return table.read_row_group(number, use_threads=False).combine_chunks().to_batches()[0]
