"""Which frames are read when: short pieces of utterances in seeded orders, so that a batch hears many voices.

Pure arithmetic on lengths, and reading; knows nothing of clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PIECE_FRAMES = 500  # 10 s at 50 Hz: what is read at once
PIECES_OF_SMALL, LEAST_FRAMES = 2000, 10  # a small corpus has shorter pieces, to have as many
STRETCH_FRAMES = 25  # of a piece, where few frames are to come from many places


class Frames(Protocol):
    """Frames of a corpus."""

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """(N,) frames of each utterance."""

    @property
    def dim(self) -> int:
        """D."""

    def read(self, row: int, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, D) frames of an utterance."""


@dataclass(frozen=True)
class Pieces:
    """Stretches of utterances.

    Attributes:
        row: (P,) int64, the utterance.
        start: (P,) int64, its first frame.
        length: (P,) int64 frames, > 0.
    """

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def total(self) -> int:
        """Frames of all."""
        return int(self.length.sum())

    def take(self, numbers: NDArray[np.int64]) -> Pieces:
        """Some of them, in the order of ``numbers``."""
        return Pieces(self.row[numbers], self.start[numbers], self.length[numbers])

    def within(self, num_frames: int) -> Pieces:
        """The first ones, the last of them shortened, with ``num_frames`` frames together (or all there are)."""
        before = np.cumsum(self.length) - self.length
        count = int(np.searchsorted(before, num_frames))
        length = np.minimum(self.length, num_frames - before)[:count]
        return Pieces(self.row[:count], self.start[:count], length)


def cut(num_frames: NDArray[np.int64]) -> Pieces:
    """Cut a corpus into pieces of nearly equal length; each frame is in one."""
    longest = int(np.clip(num_frames.sum() // PIECES_OF_SMALL, LEAST_FRAMES, PIECE_FRAMES))
    counts = -(-num_frames // longest)
    row = np.repeat(np.arange(len(num_frames)), counts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * longest
    return Pieces(row, start, np.minimum(longest, num_frames[row] - start))


def stretches(pieces: Pieces, num_frames: int, generator: np.random.Generator) -> Pieces:
    """About ``num_frames`` frames from as many places as can be, at random; all there are where that is not more."""
    stretch = STRETCH_FRAMES
    while np.minimum(pieces.length, stretch).sum() < num_frames and stretch < pieces.length.max():
        stretch *= 2
    drawn = pieces.take(generator.permutation(len(pieces)))
    length = np.minimum(drawn.length, stretch)
    start = drawn.start + generator.integers(0, drawn.length - length + 1)
    return Pieces(drawn.row, start, length).within(num_frames)


def read_all(frames: Frames, pieces: Pieces) -> NDArray[np.float32]:
    """The frames of some pieces, one after another: (sum of lengths, D)."""
    held = np.empty((pieces.total, frames.dim), dtype=np.float32)
    filled = 0
    for part in read_each(frames, pieces):
        held[filled : filled + len(part)] = part
        filled += len(part)
    return held


def read_each(frames: Frames, pieces: Pieces) -> Iterator[NDArray[np.float32]]:
    """The frames of each piece."""
    for row, start, length in zip(pieces.row.tolist(), pieces.start.tolist(), pieces.length.tolist(), strict=True):
        yield frames.read(row, start, start + length)


def mixed_batches(
    frames: Frames,
    pieces: Pieces,
    generator: np.random.Generator,
    *,
    batch: int,
    buffer: int,
    on_read: Callable[[int], None],
) -> Iterator[NDArray[np.float32]]:
    """All frames of ``pieces`` in batches, mixed within a buffer.

    Args:
        frames: where they are read.
        pieces: in their order.
        generator: of the mixing.
        batch: frames in a batch; the last of a buffer may have fewer.
        buffer: frames that are mixed; this many are held.
        on_read: called with the number of frames that were read.

    Yields:
        (n, D) float32, which must be used before the next is asked for.
    """
    room = min(buffer, pieces.total)
    held = np.empty((room, frames.dim), dtype=np.float32)
    places, filled = generator.permutation(room), 0
    for piece in read_each(frames, pieces):
        part = piece
        on_read(len(part))
        while len(part):
            num = min(len(part), room - filled)
            held[places[filled : filled + num]] = part[:num]
            part, filled = part[num:], filled + num
            if filled == room:
                for first in range(0, room, batch):
                    yield held[first : first + batch]
                places, filled = generator.permutation(room), 0
    rest = np.sort(places[:filled])
    for first in range(0, filled, batch):
        yield held[rest[first : first + batch]]
