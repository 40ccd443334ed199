"""One file for a shard, laid out in the order of its rows before the first frame is there, then filled in place.

A format gives the layout. Where utterances were dropped, the file is laid out anew without them and copied over, a few
MiB at a time; so what is read never holds gaps, and the same input gives the same bytes however it was batched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_ssl.inference.sinks.base import PlannedRow
from audio_ssl.inference.sinks.drafts import Drafts, copy_range, take_room, write_at
from audio_ssl.inference.sinks.numbers import Encoded
from audio_ssl.inference.sinks.writer import Form, PieceWriter

SCALE_BYTES = 4


@dataclass(frozen=True)
class Run:
    """Where one layer of an utterance lies: bytes from the start of the file.

    Attributes:
        values: of its frames, one after another.
        scales: of their float32 scales; None where there are none.
    """

    values: int
    scales: int | None = None


@dataclass(frozen=True)
class Layout:
    """Of a file.

    Attributes:
        num_bytes: of the whole file.
        literals: (offset, bytes) of headers.
        runs: by id, one run a layer.
    """

    num_bytes: int
    literals: Sequence[tuple[int, bytes]]
    runs: Mapping[str, Sequence[Run]]


LayOut = Callable[[Sequence[PlannedRow], Form, int], Layout]
"""Rows, form and dimension to a layout."""


def lay_out_bare(rows: Sequence[PlannedRow], form: Form, dim: int, *, start: int = 0) -> Layout:
    """Scales of all rows (so that they are aligned), then values of all rows; no header."""
    places: dict[str, list[Run]] = {}
    scales, values = start, start
    if form.dtype == "int8":
        values += SCALE_BYTES * form.num_runs * sum(row.num_frames for row in rows)
    for row in rows:
        for _ in range(form.num_runs):
            places.setdefault(row.id, []).append(Run(values, scales if form.dtype == "int8" else None))
            values += row.num_frames * form.frame_bytes(dim)
            scales += row.num_frames * SCALE_BYTES
    return Layout(values, (), places)


class ShardFile(PieceWriter):
    """A writer of one file a shard; a format fills in ``_finish``.

    Args:
        folder: of the embeddings.
        name: of the shard.
        rows: of the shard.
        form: of the folder.
        lay_out: of the format.
    """

    def __init__(
        self, folder: Path, name: str, rows: Sequence[PlannedRow], *, form: Form, lay_out: LayOut = lay_out_bare
    ) -> None:
        super().__init__(rows, form)
        self._name, self._lay_out, self._dim = name, lay_out, 0
        self._drafts = Drafts(folder, name)
        self._layout: Layout | None = None
        self._descriptor: int | None = None

    def abandon(self) -> None:
        """See :class:`~audio_ssl.inference.sinks.base.ShardWriter`."""
        self._close()
        self._drafts.clear()

    def _store(self, row: PlannedRow, encoded: Encoded, first: int) -> None:
        layout, descriptor = self._opened(encoded.values.shape[-1])
        num_runs, frame_bytes = self._form.num_runs, self._form.frame_bytes(self._dim)
        values = encoded.values.reshape(num_runs, -1, self._dim)
        scales = None if encoded.scales is None else encoded.scales.reshape(num_runs, -1)
        for layer, run in enumerate(layout.runs[row.id]):
            write_at(descriptor, run.values + first * frame_bytes, values[layer])
            if scales is not None and run.scales is not None:
                write_at(descriptor, run.scales + first * SCALE_BYTES, scales[layer])

    def _forget(self, row: PlannedRow) -> None:
        """Nothing to do: in the end the file is laid out without it."""

    def _publish(self, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
        try:
            if not kept or self._layout is None:
                return {}
            draft, layout = self._drafts.path("data"), self._layout
            if len(kept) < len(self._rows):
                draft, layout = self._without_gaps(kept)
            return self._finish(draft, layout, kept)
        finally:
            self.abandon()

    def _finish(self, draft: Path, layout: Layout, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
        """Publish the file and say where its rows are."""
        raise NotImplementedError

    def _opened(self, dim: int) -> tuple[Layout, int]:
        if self._layout is None or self._descriptor is None:
            self._dim = dim
            self._layout = self._lay_out(list(self._rows.values()), self._form, dim)
            self._descriptor = _started(self._drafts.path("data"), self._layout)
        return self._layout, self._descriptor

    def _without_gaps(self, kept: Sequence[PlannedRow]) -> tuple[Path, Layout]:
        assert self._layout is not None
        assert self._descriptor is not None
        draft, layout = self._drafts.path("kept"), self._lay_out(kept, self._form, self._dim)
        target = _started(draft, layout)
        try:
            for row in kept:
                for old, new in zip(self._layout.runs[row.id], layout.runs[row.id], strict=True):
                    size = row.num_frames * self._form.frame_bytes(self._dim)
                    copy_range(self._descriptor, target, start=old.values, to=new.values, num_bytes=size)
                    if old.scales is not None and new.scales is not None:
                        size = row.num_frames * SCALE_BYTES
                        copy_range(self._descriptor, target, start=old.scales, to=new.scales, num_bytes=size)
        finally:
            os.close(target)
        return draft, layout

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _started(draft: Path, layout: Layout) -> int:
    """An open file of the layout's size with its headers."""
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        take_room(descriptor, layout.num_bytes)
        for offset, data in layout.literals:
            write_at(descriptor, offset, data)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
