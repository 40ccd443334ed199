"""Kaldi's archives: ``SHARD.ark`` of binary float matrices, and ``feats.scp`` that says where each one lies.

Several layers: an archive has an entry ``ID-LAYER`` for each, and ``feats_LAYER.scp`` has the bare ids, as
recipes join on them. Pooled vectors are float vectors, in ``vectors.scp``. Paths in an scp are absolute, as Kaldi's own
scripts write them, for recipes run anywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.sinks.base import PlannedRow, ShardWriter
from audio_ssl.inference.sinks.drafts import Drafts
from audio_ssl.inference.sinks.shard_file import Layout, Run, ShardFile
from audio_ssl.inference.sinks.writer import Form, check_ids

# kaldi-io: "\0B" says binary; "FM " and two counts, or "FV " and one, each count after its size in bytes
_MATRIX = struct.Struct("<2s3sbibi")
_VECTOR = struct.Struct("<2s3sbi")


class KaldiSink:
    """See :class:`audio_ssl.inference.sinks.base.Sink`.

    Args:
        folder: exists.
        form: of what is written.
        all_rows: whose ids are checked.

    Raises:
        ManifestError: ids that cannot be keys.
        ConfigError: a folder whose name cannot stand in an scp.
    """

    def __init__(self, folder: Path, form: Form, all_rows: Sequence[PlannedRow]) -> None:
        check_ids((row.id for row in all_rows), _check_id)
        self._folder, self._form = folder, form
        if "\n" in str(folder.resolve()):
            raise ConfigError(f"OUT must have no line break in its path for --format kaldi, got {str(folder)!r}")

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        return _KaldiShard(self._folder, name, rows, form=self._form, lay_out=_lay_out)

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the scp files, sorted by the bytes of their keys as Kaldi wants them."""
        stem = "vectors" if self._form.is_pooled else "feats"
        keys = ("id", "file", "ark_offsets")
        ordered = sorted(({key: line[key] for key in keys} for line in lines), key=lambda line: line["id"].encode())
        folder, drafts = self._folder.resolve(), Drafts(self._folder, stem)
        for layer in range(self._form.num_runs):
            name = f"{stem}_{self._form.layers[layer]}" if self._form.layers else stem
            entries = (f"{line['id']} {folder / line['file']}:{line['ark_offsets'][layer]}\n" for line in ordered)
            scp, text = self._folder / f"{name}.scp", "".join(entries)
            if not scp.is_file() or scp.read_text(encoding="utf-8") != text:
                drafts.path(scp.name).write_text(text, encoding="utf-8")
                drafts.publish([(drafts.path(scp.name), scp.name)])
        drafts.clear()


class _KaldiShard(ShardFile):
    def _finish(self, draft: Path, layout: Layout, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
        file = f"{self._name}.ark"
        self._drafts.publish([(draft, file)])
        head = _head(self._form).size
        return {
            row.id: {"file": file, "ark_offsets": [run.values - head for run in layout.runs[row.id]]} for row in kept
        }


class KaldiReader:
    """See :class:`audio_ssl.inference.sinks.formats.Reader`."""

    def __init__(self, folder: Path, form: Form) -> None:
        self._folder, self._form = folder, form

    def read(self, line: Mapping[str, Any]) -> NDArray[Any]:
        """See :class:`audio_ssl.inference.sinks.formats.Reader`."""
        with (self._folder / line["file"]).open("rb") as ark:
            layers = []
            for offset in line["ark_offsets"]:
                ark.seek(offset)
                head = _head(self._form)
                binary, kind, *counts = head.unpack(ark.read(head.size))
                shape = counts[1::2]
                if (binary, kind) != (b"\0B", _kind(self._form)):
                    raise ValueError(f"no {_kind(self._form)!r} stands at byte {offset}")
                layers.append(np.frombuffer(ark.read(4 * int(np.prod(shape))), dtype="<f4").reshape(shape))
        return np.stack(layers) if self._form.layers else layers[0]


def _lay_out(rows: Sequence[PlannedRow], form: Form, dim: int) -> Layout:
    literals: list[tuple[int, bytes]] = []
    runs: dict[str, list[Run]] = {}
    end = 0
    for row in rows:
        for layer in range(form.num_runs):
            key = f"{row.id}-{form.layers[layer]} " if form.layers else f"{row.id} "
            counts = (4, dim) if form.is_pooled else (4, row.num_frames, 4, dim)
            entry = key.encode() + _head(form).pack(b"\0B", _kind(form), *counts)
            literals.append((end, entry))
            runs.setdefault(row.id, []).append(Run(end + len(entry)))
            end += len(entry) + row.num_frames * form.frame_bytes(dim)
    return Layout(end, literals, runs)


def _head(form: Form) -> struct.Struct:
    return _VECTOR if form.is_pooled else _MATRIX


def _kind(form: Form) -> bytes:
    return b"FV " if form.is_pooled else b"FM "


def _check_id(name: str) -> None:
    if not name or any(c.isspace() for c in name):
        raise ManifestError(
            f"id {name!r} must be usable as a key of Kaldi (no white space); change the id in the manifest, or use "
            "--format matrix"
        )
