"""Made-up utterances that are put through a sink as a run does it: short ones first, a long one in windows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from audio_ssl.inference.sinks.base import PlannedRow, ShardWriter, Sink, open_sink
from audio_ssl.inference.stream import Piece
from audio_ssl.inference.windows import Window

DIM = 5
SEAMS = (0, 4, 9, 13)  # windows of the long one
ROWS = [
    PlannedRow(0, "u0", 7),
    PlannedRow(1, "too_short", 0),
    PlannedRow(2, "ann/day-2", 13),
    PlannedRow(3, "spoilt", 13),
    PlannedRow(4, "нет", 3),
    PlannedRow(5, "u5", 11),
    PlannedRow(6, "u6", 1),
]
GOOD = [row.id for row in ROWS if row.id not in ("too_short", "spoilt")]


def frames_of(row: PlannedRow, num_layers: int = 0, *, codes: bool = False) -> np.ndarray:
    shape = (*([num_layers] if num_layers else []), row.num_frames, DIM)
    generator = np.random.default_rng(row.row + 1)
    if codes:
        return generator.integers(0, 320, shape).astype(np.float32)
    return (3 * generator.standard_normal(shape)).astype(np.float32)


def whole(row: PlannedRow, frames: np.ndarray) -> Piece:
    return Piece(row.row, Window(0, 0, 0, 0, row.num_frames), True, False, row.num_frames, frames)


def windows(row: PlannedRow, frames: np.ndarray, seams: Sequence[int] = SEAMS) -> list[Piece]:
    return [
        Piece(row.row, Window(0, 0, a, a, b), b == seams[-1], True, row.num_frames, frames[..., a:b, :])
        for a, b in pairwise(seams)
    ]


def fill(writer: ShardWriter, rows: Sequence[PlannedRow], num_layers: int = 0, *, codes: bool = False) -> None:
    """By length, as batches come; the spoilt one stops in its second window."""
    for row in sorted(rows, key=lambda row: row.num_frames):
        frames = frames_of(row, num_layers, codes=codes)
        if row.num_frames == SEAMS[-1]:
            pieces = windows(row, frames)
            for piece in pieces[:2] if row.id == "spoilt" else pieces:
                assert writer.take(row.id, piece) is None
        elif row.num_frames:
            assert writer.take(row.id, whole(row, frames)) is None
    for row in rows:
        if row.id == "spoilt":
            writer.drop(row.id)


def settings_of(file_format: str, dtype: str, layers: Sequence[str] = (), pool: str | None = None) -> dict[str, Any]:
    return {
        "format": file_format, "dtype": dtype, "layers": list(layers) or None, "pool": pool,
        "hop_s": 0.02, "first_centre_s": 0.0125, "frame_rule": "frame t covers ...", "model_hash": "h1",
    }  # fmt: skip


def sink_for(folder: Path, settings: Mapping[str, Any], rows: Sequence[PlannedRow] = ROWS) -> Sink:
    folder.mkdir(parents=True, exist_ok=True)
    return open_sink(
        settings["format"], folder, dtype=settings["dtype"], all_rows=rows,
        layers=settings["layers"] or (), pool=settings["pool"], about=settings,
    )  # fmt: skip


def write_folder(folder: Path, settings: Mapping[str, Any], **kind: Any) -> dict[str, dict[str, Any]]:
    """Two shards, and the files beside them, as `audio-ssl extract` leaves them. Gives the sink's keys by id."""
    sink = sink_for(folder, settings)
    keys: dict[str, dict[str, Any]] = {}
    for name, rows in (("shard-00001", ROWS[5:]), ("shard-00000", ROWS[:5])):
        writer = sink.open_shard(name, rows)
        fill(writer, rows, len(settings["layers"] or ()), **kind)
        keys |= writer.commit()
    finish(folder, sink, settings, keys)
    return keys


def finish(folder: Path, sink: Sink, settings: Mapping[str, Any], keys: Mapping[str, Mapping[str, Any]]) -> None:
    lines = [{"id": row.id, "num_frames": row.num_frames, **keys[row.id]} for row in ROWS if row.id in keys]
    (folder / "embeddings.json").write_text(json.dumps(settings))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "index.jsonl").write_text(text, encoding="utf-8")
    sink.finish(lines)
