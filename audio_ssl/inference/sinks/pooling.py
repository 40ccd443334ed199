"""One vector an utterance: mean, or mean and standard deviation, over its valid frames, also when they come in windows.

Sums are in float64, joined by Chan's update (Chan, Golub, LeVeque 1979, eq. 2.1), which loses nothing where the mean is
far larger than the deviation. The deviation is that of the frames themselves (divided by T), 0 for a single frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError
from audio_ssl.inference.sinks.base import PlannedRow, ShardWriter, Sink
from audio_ssl.inference.stream import Piece

POOLS = ("mean", "mean+std")


class PoolingSink:
    """A sink of vectors in front of another. See :class:`audio_ssl.inference.sinks.base.Sink`.

    Args:
        sink: keeps the vectors; its planned rows have one frame.
        pool: one of :data:`POOLS`.

    Raises:
        ConfigError: no such pooling.
    """

    def __init__(self, sink: Sink, pool: str) -> None:
        if pool not in POOLS:
            raise ConfigError(f"--pool must be {' or '.join(POOLS)}, got {pool!r}")
        self._sink, self._pool = sink, pool

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        return _PoolingShard(self._sink.open_shard(name, rows), with_std=self._pool == "mean+std")

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        self._sink.finish(lines)


class _PoolingShard:
    def __init__(self, writer: ShardWriter, *, with_std: bool) -> None:
        self._writer, self._with_std = writer, with_std
        self._open: dict[str, _Moments] = {}
        self._dim = 0

    def take(self, utterance_id: str, piece: Piece) -> str | None:
        moments = self._open.setdefault(utterance_id, _Moments())
        moments.add(piece.frames)
        if not piece.is_last:
            return None
        vector = self._open.pop(utterance_id).vector(with_std=self._with_std)
        self._dim = vector.shape[-1]
        first = replace(piece.window, first_frame=0, keep_from=0, keep_to=1)
        one = replace(piece, window=first, is_windowed=False, total_frames=1, frames=vector[..., None, :])
        return self._writer.take(utterance_id, one)

    def drop(self, utterance_id: str) -> None:
        self._open.pop(utterance_id, None)
        self._writer.drop(utterance_id)

    def commit(self) -> dict[str, dict[str, Any]]:
        return {name: {**key, "dim": self._dim} for name, key in self._writer.commit().items()}

    def abandon(self) -> None:
        self._writer.abandon()


class _Moments:
    """Mean and deviation of frames that come in pieces."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: NDArray[np.float64] = np.zeros(())
        self._squares: NDArray[np.float64] = np.zeros(())  # of distances from the mean

    def add(self, frames: NDArray[np.float32]) -> None:
        """Count (..., t, D)."""
        count = frames.shape[-2]
        with np.errstate(invalid="ignore", over="ignore"):  # infinity stays, and is refused by the sink
            mean = frames.mean(axis=-2, dtype=np.float64)
            squares = np.square(frames - mean[..., None, :]).sum(axis=-2)
        total = self._count + count
        off = mean - self._mean
        self._squares = self._squares + squares + off**2 * (self._count * count / total)
        self._mean = self._mean + off * (count / total)
        self._count = total

    def vector(self, *, with_std: bool) -> NDArray[np.float32]:
        """(..., D) or (..., 2 D): mean, then deviation."""
        parts = [self._mean, np.sqrt(self._squares / self._count)] if with_std else [self._mean]
        return np.concatenate(parts, axis=-1).astype(np.float32)
