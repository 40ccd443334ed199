"""One rank's shards, one after another: frames into a format, then a part that says what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from audio_ssl.errors import AudioError
from audio_ssl.inference.folder import OutputFolder
from audio_ssl.inference.index import FolderIndex
from audio_ssl.inference.rows import Rows
from audio_ssl.inference.shards import PlannedRows, Shard, name_of
from audio_ssl.inference.sinks.base import ShardWriter, Sink
from audio_ssl.inference.sinks.numbers import ErrorSummary
from audio_ssl.inference.source import ManifestSource, Refusal
from audio_ssl.inference.stream import Piece, Stream
from audio_ssl.inference.window_error import WindowError, worst_of

NUM_KEPT = 100  # refusals that a tally names; the folder has them all


@dataclass
class Tally:
    """What was done so far.

    Attributes:
        num_written: utterances whose shard is in place.
        num_present: utterances that were there.
        num_frames: of those that were written.
        audio_s: of those that were written.
        num_refused: without a result.
        refused: the first of them.
        errors: of what was written in fewer bits than the model computes in.
        window_error: the worst of the recordings that were cut and measured; None where none was.
    """

    num_written: int = 0
    num_present: int = 0
    num_frames: int = 0
    audio_s: float = 0.0
    num_refused: int = 0
    refused: list[Refusal] = field(default_factory=list)
    errors: ErrorSummary = field(default_factory=ErrorSummary)
    window_error: WindowError | None = None

    def refuse(self, refused: Sequence[Refusal]) -> None:
        """Count these."""
        self.num_refused += len(refused)
        self.refused += refused[: NUM_KEPT - len(self.refused)]


@dataclass(frozen=True)
class ShardWork:
    """What a rank needs to do its shards.

    Attributes:
        folder: entered.
        index: of the folder.
        sink: of the folder.
        source: the input.
        rows: the same.
        planned: the same.
        stream: the model at work on it.
        constants: what every index line says.
        strict: stop at the first utterance without a result.
        on_progress: called with seconds of audio.
        tally: grows.
    """

    folder: OutputFolder
    index: FolderIndex
    sink: Sink
    source: ManifestSource
    rows: Rows
    planned: PlannedRows
    stream: Stream
    constants: Mapping[str, Any]
    strict: bool
    on_progress: Callable[[float], None]
    tally: Tally = field(default_factory=Tally)

    def do(self, shards: Sequence[Shard]) -> list[Shard]:
        """Do what is left of these shards; those that another process holds are tried again at the end.

        Returns:
            Those that another process still holds.

        Raises:
            AudioError: in strict mode, the first utterance without a result; what came before it is kept.
        """
        busy = [shard for shard in shards if not self._do(shard)]
        return [shard for shard in busy if not self._do(shard)]

    def _do(self, shard: Shard) -> bool:
        if self.index.is_done[shard.rows].all():
            self._count_present(shard)
            return True
        with self.folder.locked(shard.name) as is_ours:
            if is_ours:
                self.index.refresh()  # another process may have done it since
                self._count_present(shard)
                left = shard.first + np.flatnonzero(~self.index.is_done[shard.rows])
                if len(left):
                    self._fill(left.tolist())
            return is_ours

    def _count_present(self, shard: Shard) -> None:
        present = shard.first + np.flatnonzero(self.index.is_done[shard.rows])
        self.tally.num_present += len(present)
        self.on_progress(sum(map(self.source.seconds, present.tolist())))

    def _fill(self, rows: list[int]) -> None:
        planned, name = [self.planned[row] for row in rows], name_of(self.rows, rows)
        writer = self.sink.open_shard(name, planned)
        shard = _Filling(writer, self.source, {row.row: row.id for row in planned})
        try:
            for piece in self.stream.run(rows):
                row = shard.take(piece)
                if row is not None:
                    self.on_progress(self.source.seconds(row))
                if self.strict and shard.refused:
                    break
            keys = writer.commit() if shard.done else {}
        except BaseException:
            writer.abandon()
            raise
        if not shard.done:
            writer.abandon()
        self.index.write_part(name, (self._line(row, shard, keys) for row in sorted(shard.done | shard.refused)))
        self._count(shard, keys)
        if self.strict and shard.refused:
            raise stopped(next(iter(shard.refused.values())))

    def _line(self, row: int, shard: _Filling, keys: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        if row in shard.refused:
            refusal = shard.refused[row]
            return {"id": refusal.id, "path": refusal.path, "reason": refusal.reason}
        identity = self.rows.identity(row)
        return {**identity, **shard.done[row], **keys[identity["id"]], **self.constants}

    def _count(self, shard: _Filling, keys: Mapping[str, Mapping[str, Any]]) -> None:
        self.tally.num_written += len(shard.done)
        self.tally.num_frames += sum(done["num_frames"] for done in shard.done.values())
        self.tally.audio_s += sum(map(self.source.seconds, shard.done))
        self.tally.refuse(list(shard.refused.values()))
        self.tally.window_error = worst_of([self.tally.window_error, *shard.window_errors])
        for key in keys.values():
            if "error_percent" in key:
                self.tally.errors.add(key["error_percent"])


class _Filling:
    """A shard on its way: what is complete, and what will not be."""

    def __init__(self, writer: ShardWriter, source: ManifestSource, ids: Mapping[int, str]) -> None:
        self._writer, self._source, self._ids = writer, source, ids
        self.done: dict[int, dict[str, Any]] = {}  # index keys by row
        self.refused: dict[int, Refusal] = {}
        self.window_errors: list[WindowError | None] = []

    def take(self, piece: Piece | Refusal) -> int | None:
        """Keep a piece; gives the row that is complete with it, if one is."""
        if isinstance(piece, Refusal):
            assert piece.row is not None  # only files that never became rows have none
            self._refuse(piece.row, piece)
        elif piece.row not in self.refused:  # the windows behind one that cannot be kept still come
            reason = self._writer.take(self._ids[piece.row], piece)
            if reason is not None:
                name, path = self._source.name(piece.row)
                self._refuse(piece.row, Refusal(name, path, reason, piece.row))
            elif piece.is_last:
                layers = {"num_layers": piece.frames.shape[0]} if piece.frames.ndim == 3 else {}
                self.done[piece.row] = {
                    "num_frames": piece.total_frames, "dim": piece.frames.shape[-1], **layers,
                    "windowed": piece.is_windowed,
                }  # fmt: skip
                if piece.is_windowed:
                    self.done[piece.row]["window_error"] = piece.window_error and piece.window_error.as_document()
                    self.window_errors.append(piece.window_error)
                return piece.row
        return None

    def _refuse(self, row: int, refusal: Refusal) -> None:
        self._writer.drop(self._ids[row])
        self.refused[row] = refusal


def stopped(refusal: Refusal) -> AudioError:
    """What ends a strict run."""
    return AudioError(f"{refusal.id} ({refusal.path}): {refusal.reason} (--strict stops here)")
