"""Which rows are done together: consecutive ones, whose frames are in place as a whole or not at all.

A pure function of lengths and settings, so that every rank, and the next run, cuts alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from audio_ssl.inference.rows import Rows
from audio_ssl.inference.sinks.base import PlannedRow

MAX_SHARD_S = 3600.0  # what a kill may lose where frames take little room
MAX_SHARD_ROWS = 10_000  # whose index lines are held


@dataclass(frozen=True)
class Shard:
    """Rows ``first`` to ``stop - 1`` of the manifest."""

    first: int
    stop: int

    @property
    def rows(self) -> slice:
        """Its part of an array with an entry a row."""
        return slice(self.first, self.stop)

    @property
    def name(self) -> str:
        """Of its lock."""
        return f"{self.first:08d}-{self.stop:08d}"


def cut(num_bytes: NDArray[np.floating[Any]], seconds: NDArray[np.float64], *, shard_bytes: float) -> list[Shard]:
    """Cut rows into shards of about one size, which is the largest that all limits allow.

    A row is never divided: one that is larger than a shard is one of its own, with the few rows around it.

    Args:
        num_bytes: (N,) output of each row.
        seconds: (N,) audio of each row.
        shard_bytes: of a shard, about.

    Returns:
        Shards that cover all rows once, in order.
    """
    if not len(num_bytes):
        return []
    cost = np.maximum(np.maximum(num_bytes / shard_bytes, seconds / MAX_SHARD_S), 1 / MAX_SHARD_ROWS)
    ends = np.cumsum(cost)
    size = ends[-1] / np.ceil(ends[-1])
    number = np.floor((ends - cost / 2) / size)
    firsts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist()]
    return [Shard(first, stop) for first, stop in zip(firsts, [*firsts[1:], len(cost)], strict=True)]


def name_of(rows: Rows, chosen: Sequence[int]) -> str:
    """The name of these rows' data and part: the same rows, tried again, have the same one, and only they have it."""
    digest = hashlib.blake2b(digest_size=6)
    for row in chosen:
        digest.update(repr(sorted(rows.identity(row).items())).encode("utf-8", "surrogateescape"))
    return f"{chosen[0]:08d}-{digest.hexdigest()}"


class PlannedRows(Sequence[PlannedRow]):
    """The rows of a manifest as formats see them, made when they are asked for: there may be millions.

    Args:
        rows: of the manifest.
        num_frames: (N,) frames of each.
    """

    def __init__(self, rows: Rows, num_frames: NDArray[np.int64]) -> None:
        self._rows, self._num_frames = rows, num_frames

    def __len__(self) -> int:
        return len(self._num_frames)

    @overload
    def __getitem__(self, row: int) -> PlannedRow: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[PlannedRow]: ...
    def __getitem__(self, row: int | slice) -> PlannedRow | Sequence[PlannedRow]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        place = range(len(self))[row]
        return PlannedRow(place, self._rows.id(place), int(self._num_frames[place]))
