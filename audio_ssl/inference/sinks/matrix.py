"""The whole corpus as one matrix: ``frames.npy`` (T of all, D) and ``offsets.npy`` (N, 2), to be memory-mapped.

Row n of the manifest has the frames from ``offsets[n, 0]`` up to ``offsets[n, 1]``; both are equal where there is no
result. Several layers give ``frames.npy`` (L, T of all, D), and int8 adds ``scales.npy`` of float32 without D.
Every place is known beforehand, so processes write side by side; the room on the disk is taken at the start.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.sinks.base import PlannedRow, ShardWriter
from audio_ssl.inference.sinks.drafts import Drafts, npy_header, take_room, write_at
from audio_ssl.inference.sinks.numbers import STORED, Encoded, decode
from audio_ssl.inference.sinks.writer import Form, PieceWriter

FRAMES_FILE, SCALES_FILE, OFFSETS_FILE = "frames.npy", "scales.npy", "offsets.npy"
_LOCK_FILE = ".matrix.lock"


class MatrixSink:
    """See :class:`audio_ssl.inference.sinks.base.Sink`.

    Args:
        folder: exists.
        form: of what is written.
        all_rows: of the manifest, in its order.

    Raises:
        ManifestError: the matrix there was laid out for other rows.
    """

    def __init__(self, folder: Path, form: Form, all_rows: Sequence[PlannedRow]) -> None:
        self._folder, self.form = folder, form
        ends = np.cumsum([row.num_frames for row in all_rows], dtype=np.int64)
        self.firsts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        self.num_frames = int(ends[-1]) if len(ends) else 0
        if (folder / OFFSETS_FILE).is_file():
            self._check_offsets()

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:  # noqa: ARG002 - the protocol's
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        return _MatrixShard(self, self._folder, rows)

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""

    def prepare(self, dim: int) -> None:
        """Make the files where they are not there yet; one process does, the others wait.

        Raises:
            ConfigError: there is no room for them.
            ManifestError: they were laid out otherwise.
        """
        with (self._folder / _LOCK_FILE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self._folder / FRAMES_FILE).is_file():
                self._check_offsets()
                self._check_frames(dim)
            else:
                self._make(dim)

    def _make(self, dim: int) -> None:
        layers = (len(self.form.layers),) if self.form.layers else ()
        shapes = {FRAMES_FILE: ((*layers, self.num_frames, dim), STORED[self.form.dtype])}
        if self.form.dtype == "int8":
            shapes[SCALES_FILE] = ((*layers, self.num_frames), np.dtype("<f4"))
        drafts = Drafts(self._folder, "matrix")
        try:
            offsets = np.stack([self.firsts, self.firsts], axis=1)
            np.save(drafts.path(OFFSETS_FILE), offsets)
            for file, (shape, dtype) in shapes.items():
                head = npy_header(shape, dtype)
                self._make_file(drafts.path(file), head, len(head) + int(np.prod(shape)) * dtype.itemsize)
            # the frames last: where they are, all is there
            drafts.publish([(drafts.path(file), file) for file in (OFFSETS_FILE, *reversed(shapes))])
        finally:
            drafts.clear()

    def _make_file(self, draft: Path, head: bytes, num_bytes: int) -> None:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            take_room(descriptor, num_bytes)
            write_at(descriptor, 0, head)
        except OSError as error:
            free = os.statvfs(self._folder)
            raise ConfigError(
                f"{self._folder} must have room for {num_bytes / 2**30:.1f} GiB, the matrix of {self.num_frames} "
                f"frames, it has {free.f_bavail * free.f_frsize / 2**30:.1f} GiB: {error}. Free space, choose another "
                "folder, or --dtype fp16 or int8"
            ) from error
        finally:
            os.close(descriptor)

    def _check_offsets(self) -> None:
        there = _mapped(self._folder / OFFSETS_FILE)
        if there.shape != (len(self.firsts), 2) or (there[:, 0] != self.firsts).any():
            raise ManifestError(
                f"{self._folder / OFFSETS_FILE} must be laid out for this input of {len(self.firsts)} utterances, it "
                f"is for {len(there)}, or for other lengths: a matrix cannot grow. Choose another folder, or another "
                "--format"
            )

    def _check_frames(self, dim: int) -> None:
        there, form = _mapped(self._folder / FRAMES_FILE), self.form
        layers = (len(form.layers),) if form.layers else ()
        wanted = (*layers, self.num_frames, dim)
        if there.shape != wanted or there.dtype != STORED[form.dtype]:
            raise ManifestError(
                f"{self._folder / FRAMES_FILE} must be {wanted} of {STORED[form.dtype]}, it is {there.shape} of "
                f"{there.dtype}. Choose another folder, or remove this one"
            )


class _MatrixShard(PieceWriter):
    def __init__(self, sink: MatrixSink, folder: Path, rows: Sequence[PlannedRow]) -> None:
        super().__init__(rows, sink.form)
        self._sink, self._folder, self._planned = sink, folder, rows
        self._open: dict[str, tuple[int, int]] = {}  # descriptor and bytes of the header, by file

    def abandon(self) -> None:
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _store(self, row: PlannedRow, encoded: Encoded, first: int) -> None:
        num_runs, dim = self._form.num_runs, encoded.values.shape[-1]
        if not self._open:
            self._sink.prepare(dim)
            self._open_files()
        first += int(self._sink.firsts[row.row])
        self._write(FRAMES_FILE, encoded.values.reshape(num_runs, -1, dim), first)
        if encoded.scales is not None:
            self._write(SCALES_FILE, encoded.scales.reshape(num_runs, -1), first)

    def _forget(self, row: PlannedRow) -> None:
        """Its place stays, and its offsets say that there is nothing."""

    def _publish(self, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
        try:
            if not self._open:
                return {}
            for file in (FRAMES_FILE, SCALES_FILE):
                if file in self._open:
                    os.fsync(self._open[file][0])
            self._write_offsets({row.row for row in kept})
        finally:
            self.abandon()
        return {row.id: {"file": FRAMES_FILE, "first_frame": int(self._sink.firsts[row.row])} for row in kept}

    def _write_offsets(self, kept: set[int]) -> None:
        descriptor, head = self._open[OFFSETS_FILE]
        for row in self._planned:
            first = int(self._sink.firsts[row.row])
            stop = first + row.num_frames if row.row in kept else first
            write_at(descriptor, head + 16 * row.row, np.array([first, stop], dtype="<i8"))
        os.fsync(descriptor)

    def _open_files(self) -> None:
        files = [FRAMES_FILE, OFFSETS_FILE] + ([SCALES_FILE] if self._form.dtype == "int8" else [])
        for file in files:
            head = _mapped(self._folder / file).offset
            self._open[file] = (os.open(self._folder / file, os.O_WRONLY), head)

    def _write(self, file: str, runs: NDArray[Any], first: int) -> None:
        descriptor, head = self._open[file]
        frame_bytes = int(np.prod(runs.shape[2:])) * runs.dtype.itemsize
        for layer, run in enumerate(runs):
            write_at(descriptor, head + (layer * self._sink.num_frames + first) * frame_bytes, run)


class MatrixReader:
    """See :class:`audio_ssl.inference.sinks.formats.Reader`."""

    def __init__(self, folder: Path, form: Form) -> None:
        self._form = form
        self._frames = _mapped(folder / FRAMES_FILE)
        self._scales = _mapped(folder / SCALES_FILE) if form.dtype == "int8" else None

    def read(self, line: Mapping[str, Any]) -> NDArray[Any]:
        """See :class:`audio_ssl.inference.sinks.formats.Reader`."""
        first = line["first_frame"]
        here = slice(first, first + (1 if self._form.is_pooled else line["num_frames"]))
        scales = None if self._scales is None else self._scales[..., here]
        frames = decode(Encoded(self._frames[..., here, :], scales), self._form.dtype)
        return frames[..., 0, :] if self._form.is_pooled else frames


def _mapped(path: Path) -> np.memmap[Any, Any]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    assert isinstance(mapped, np.memmap)
    return mapped
