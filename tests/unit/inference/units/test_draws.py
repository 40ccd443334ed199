"""Pieces and draws: every frame in one piece, draws from many places, batches that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest

from audio_ssl.inference.units.draws import Pieces, cut, mixed_batches, read_all, stretches


class Numbered:
    """Frames whose two numbers are utterance and frame."""

    def __init__(self, num_frames: list[int]) -> None:
        self.num_frames, self.dim = np.array(num_frames), 2

    def read(self, row: int, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= self.num_frames[row]
        return np.stack([np.full(stop - start, row), np.arange(start, stop)], axis=1).astype(np.float32)


def every_frame(frames: Numbered) -> list[tuple[float, float]]:
    return [(float(row), float(t)) for row, count in enumerate(frames.num_frames) for t in range(count)]


@pytest.mark.parametrize("lengths", [[7], [1, 1, 1], [13, 0, 4001, 1], [9000] * 3])
def test_each_frame_is_in_one_piece(lengths: list[int]) -> None:
    frames = Numbered(lengths)
    pieces = cut(frames.num_frames)
    assert sorted(map(tuple, read_all(frames, pieces).tolist())) == every_frame(frames)
    assert pieces.length.min() > 0


def test_long_corpora_have_pieces_of_ten_seconds_and_short_ones_shorter() -> None:
    assert cut(np.array([3_600_000])).length.tolist() == [500] * 7200
    assert cut(np.array([40_000])).length.tolist() == [20] * 2000


def test_the_first_pieces_are_cut_to_a_number_of_frames() -> None:
    pieces = Pieces(np.array([0, 1, 2]), np.array([5, 0, 3]), np.array([4, 2, 6]))
    within = pieces.within(9)
    assert (within.row.tolist(), within.start.tolist(), within.length.tolist()) == ([0, 1, 2], [5, 0, 3], [4, 2, 3])
    assert pieces.within(6).length.tolist() == [4, 2]
    assert pieces.within(100).total == 12


def test_few_frames_come_from_many_places() -> None:
    pieces = cut(np.full(40, 50_000))  # 4000 pieces of 500
    drawn = stretches(pieces, 10_000, np.random.default_rng(0))
    assert drawn.total == 10_000
    assert len(drawn) == 400
    assert len(set(drawn.row.tolist())) == 40
    assert len(set((drawn.start % 500).tolist())) > 100  # not the starts of pieces alone, where silence is
    assert (drawn.start % 500 + drawn.length <= 500).all()
    whole = stretches(pieces, 10**9, np.random.default_rng(0))
    assert whole.total == pieces.total


@pytest.mark.parametrize(("batch", "buffer"), [(5, 20), (7, 20), (50, 1000)])
def test_batches_lose_and_double_nothing(batch: int, buffer: int) -> None:
    frames = Numbered([37, 1, 59])
    pieces, read = cut(frames.num_frames), list[int]()
    found = mixed_batches(
        frames, pieces, np.random.default_rng(0), batch=batch, buffer=buffer, on_read=read.append
    )  # fmt: skip
    batches = [part.copy() for part in found]
    assert sorted(map(tuple, np.concatenate(batches).tolist())) == every_frame(frames)
    assert sum(read) == 97
    assert max(map(len, batches)) == min(batch, 97)


def test_a_batch_is_mixed() -> None:
    frames = Numbered([1000] * 10)
    first = next(
        mixed_batches(frames, cut(frames.num_frames), np.random.default_rng(0), batch=100, buffer=10_000, on_read=id)
    )
    assert len(set(first[:, 0].tolist())) == 10
