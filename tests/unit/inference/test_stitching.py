"""Windows joined and cut: seams in pauses, passages between words, the same from any frame on, for pieces too."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audio_ssl.inference.stitching import Passage, best_cut, passages_of, smoothed
from audio_ssl.inference.stream import Piece
from audio_ssl.inference.windows import Window

BLANK, SPACE, A, B = range(4)
WIDTH, STEP = 40, 30  # of windows, in frames: 10 overlap, and seams lie in the middle 4


@dataclass(frozen=True)
class Words:
    """All that is asked of a vocabulary here."""

    separator: int | None = SPACE


def frames_of(symbols: Sequence[int], *, sure: float = -0.05) -> np.ndarray:
    log_probs = np.full((len(symbols), 4), -5.0, dtype=np.float32)
    log_probs[np.arange(len(symbols)), symbols] = sure
    return log_probs


def windows_of(truth: np.ndarray, *, begin: int = 0, spoil: int = 0) -> Iterator[Piece]:
    """Windows of a recording; of each one, ``spoil`` frames at inner edges are noise."""
    total = len(truth)
    starts = [*range(0, total - WIDTH, STEP), total - WIDTH]
    seams = [(left + WIDTH + right) // 2 for left, right in itertools.pairwise(starts)]
    for i, start in enumerate(starts):
        if start + WIDTH <= begin:
            continue
        frames = truth[start : start + WIDTH].copy()
        if spoil and i:
            frames[:spoil] = frames_of([A, B] * spoil)[:spoil]
        if spoil and i < len(seams):
            frames[-spoil:] = frames_of([B, A] * spoil)[:spoil]
        window = Window(start * 320, WIDTH * 320, start, seams[i - 1] if i else 0, [*seams, total][i])
        yield Piece(0, window, i == len(seams), True, total, frames)


def passages(pieces: Iterator[Piece], vocabulary: Any = Words(), **settings: Any) -> list[Passage]:
    found = list(passages_of(pieces, vocabulary, **settings))
    assert all(isinstance(passage, Passage) for passage in found)
    return found  # type: ignore[return-value]


def recording(num_words: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    symbols: list[int] = []
    for _ in range(num_words):
        symbols += [*rng.choice([A, B, BLANK], size=int(rng.integers(2, 6))), BLANK, SPACE, BLANK]
    return symbols


def test_windows_are_joined_to_the_whole() -> None:
    truth = frames_of(recording(60))
    (whole,) = passages(windows_of(truth, spoil=3), max_frames=None)
    np.testing.assert_array_equal(whole.log_probs, truth)
    assert (whole.first_frame, whole.is_last, whole.is_whole) == (0, True, True)


def test_seams_lie_in_pauses() -> None:
    # Two windows of 40 frames share frames 20 to 39. The right one hears all a frame late: in the middle of the
    # overlap, the b on frame 29, which it hears on frame 30, would be read twice.
    symbols = [A, BLANK, B, BLANK] * 7 + [BLANK, B, *[BLANK] * 6] + [A, BLANK, B, BLANK] * 6
    truth = frames_of(symbols)
    left = Piece(0, Window(0, 12_800, 0, 0, 30), False, True, 60, truth[:40])
    late = np.concatenate([truth[20:21], truth[20:59]])
    right = Piece(0, Window(6_400, 12_800, 20, 30, 60), True, True, 60, late)
    (whole,) = passages(iter([left, right]), max_frames=None)
    read = [int(s) for s in whole.log_probs.argmax(axis=-1) if s != BLANK]
    assert read == [s for s in symbols[:59] if s != BLANK]


def test_passages_are_cut_at_separators_and_tile_the_recording() -> None:
    truth = frames_of(recording(80, seed=1))
    found = passages(windows_of(truth, spoil=3), max_frames=50)
    assert len(found) > 5
    np.testing.assert_array_equal(np.concatenate([p.log_probs for p in found]), truth)
    assert [p.first_frame for p in found] == np.cumsum([0, *(len(p.log_probs) for p in found[:-1])]).tolist()
    assert all(p.log_probs[0].argmax() == SPACE for p in found[1:])
    assert all(25 <= len(p.log_probs) <= 50 for p in found[:-1])
    assert [p.is_last for p in found] == [False] * (len(found) - 1) + [True]


def test_from_any_passage_on_all_is_the_same() -> None:
    truth = frames_of(recording(80, seed=2))
    found = passages(windows_of(truth, spoil=3), max_frames=50)
    for number, passage in enumerate(found):
        begin = passage.first_frame
        rest = passages(windows_of(truth, begin=begin, spoil=3), max_frames=50, begin={0: begin})
        assert [p.first_frame for p in rest] == [p.first_frame for p in found[number:]]
        for again, first in zip(rest, found[number:], strict=True):
            np.testing.assert_array_equal(again.log_probs, first.log_probs)


def test_without_a_separator_the_longest_pause_is_cut() -> None:
    symbols = [A, BLANK] * 20 + [BLANK] * 9 + [B, BLANK] * 20
    assert 40 <= best_cut(frames_of(symbols), Words(None)) <= 49  # type: ignore[arg-type]
    # where there is one, but nobody says it, too
    assert 40 <= best_cut(frames_of(symbols), Words()) <= 49  # type: ignore[arg-type]


def test_means_at_the_ends_are_of_what_is_there() -> None:
    np.testing.assert_allclose(smoothed(np.array([1.0, 2.0, 3.0, 10.0]), 1), [1.5, 2.0, 5.0, 6.5])


def test_a_passage_is_held_not_the_recording() -> None:
    truth = frames_of(recording(8_000))
    tracemalloc.start()
    for passage in passages_of(windows_of(truth), Words(), max_frames=200):  # type: ignore[arg-type]
        assert isinstance(passage, Passage)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < truth.nbytes / 4  # most of it the list of windows
