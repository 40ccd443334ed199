"""What the writers of all formats share: frames become stored numbers, refusals are told, the error is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from audio_ssl.errors import ManifestError
from audio_ssl.inference.sinks.base import PlannedRow
from audio_ssl.inference.sinks.numbers import INEXACT, STORED, Encoded, Error, encode
from audio_ssl.inference.stream import Piece

_FAULTS_SHOWN = 5


@dataclass(frozen=True)
class Form:
    """What all utterances of a folder have in common.

    Attributes:
        dtype: a key of :data:`~audio_ssl.inference.sinks.numbers.STORED`.
        is_pooled: whether an utterance is one vector; its files then have no axis of frames.
        layers: names of the layers on axis 0; empty where there is no such axis.
    """

    dtype: str
    is_pooled: bool = False
    layers: tuple[str, ...] = ()

    @property
    def num_runs(self) -> int:
        """Matrices an utterance: its layers."""
        return max(len(self.layers), 1)

    def frame_bytes(self, dim: int) -> int:
        """Bytes of a frame of one layer, without its scale."""
        return dim * STORED[self.dtype].itemsize

    def shape(self, num_frames: int, dim: int) -> tuple[int, ...]:
        """Of an utterance in a file: (L, T, D), without L for one layer, without T for pooled vectors."""
        layers = (len(self.layers),) if self.layers else ()
        return (*layers, dim) if self.is_pooled else (*layers, num_frames, dim)


class PieceWriter:
    """A shard writer less its files; a format fills in ``_store``, ``_forget`` and ``_publish``.

    Args:
        rows: of the shard.
        form: of the folder.
    """

    def __init__(self, rows: Sequence[PlannedRow], form: Form) -> None:
        # what is too short for a frame never comes
        self._rows = {row.id: row for row in rows if row.num_frames > 0}
        self._form = form
        self._errors: dict[str, Error] = {}
        self._complete: set[str] = set()
        self._dropped: dict[str, str] = {}

    def take(self, utterance_id: str, piece: Piece) -> str | None:
        """See :class:`~audio_ssl.inference.sinks.base.ShardWriter`."""
        if utterance_id in self._dropped:  # a later window of an utterance that is not kept
            return self._dropped[utterance_id]
        row, form = self._rows[utterance_id], self._form
        frames = piece.frames
        assert piece.total_frames == row.num_frames, (utterance_id, piece.total_frames, row.num_frames)
        assert frames.ndim == 2 + bool(form.layers), (utterance_id, frames.shape, form.layers)
        encoded = encode(frames, form.dtype)
        if isinstance(encoded, str):
            self.drop(utterance_id)
            self._dropped[utterance_id] = encoded
            return encoded
        if form.dtype in INEXACT:
            self._errors.setdefault(utterance_id, Error()).add(frames, encoded, form.dtype)
        self._store(row, encoded, piece.window.keep_from)
        if piece.is_last:
            self._complete.add(utterance_id)
        return None

    def drop(self, utterance_id: str) -> None:
        """See :class:`~audio_ssl.inference.sinks.base.ShardWriter`."""
        self._errors.pop(utterance_id, None)
        self._complete.discard(utterance_id)
        self._dropped[utterance_id] = "it was taken back"
        if utterance_id in self._rows:
            self._forget(self._rows[utterance_id])

    def commit(self) -> dict[str, dict[str, Any]]:
        """See :class:`~audio_ssl.inference.sinks.base.ShardWriter`."""
        keys = self._publish([row for name, row in self._rows.items() if name in self._complete])
        for name in keys.keys() & self._errors.keys():
            keys[name]["error_percent"] = float(f"{self._errors[name].percent:.4g}")
        return keys

    def abandon(self) -> None:
        """See :class:`~audio_ssl.inference.sinks.base.ShardWriter`."""
        raise NotImplementedError

    def _store(self, row: PlannedRow, encoded: Encoded, first: int) -> None:
        """Write frames from ``first`` on, (..., t, D)."""
        raise NotImplementedError

    def _forget(self, row: PlannedRow) -> None:
        """Take back what was written of an utterance."""
        raise NotImplementedError

    def _publish(self, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
        """Put the complete ones in place and say where they are."""
        raise NotImplementedError


def check_ids(ids: Iterable[str], check: Callable[[str], object]) -> None:
    """Refuse ids that a format cannot have, the first five by name.

    Args:
        ids: of all utterances.
        check: raises ManifestError for one that cannot be.

    Raises:
        ManifestError: there are some.
    """
    shown, num_faults = list[str](), 0
    for name in ids:
        try:
            check(name)
        except ManifestError as error:
            num_faults += 1
            shown += [str(error)] if num_faults <= _FAULTS_SHOWN else []
    if num_faults:
        more = f"\n  and {num_faults - _FAULTS_SHOWN} more" if num_faults > _FAULTS_SHOWN else ""
        raise ManifestError("\n  ".join(shown) + more)
