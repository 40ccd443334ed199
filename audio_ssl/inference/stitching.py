"""Windows of a recording to one run of log-probabilities, and that to passages that are decoded one by one.

Two windows overlap, and their frames are joined where both are surest that nothing is said, in the middle half of the
overlap: a seam through a word may double or lose a letter. A long run is then cut into passages between words. Of a
recording, one passage and two batches of windows are held, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.text import BLANK, Vocabulary
from audio_ssl.inference.source import Refusal
from audio_ssl.inference.stream import Frames, Piece

MAX_PASSAGE_FRAMES = 6000
"""Longer recordings are decoded in passages; two minutes at the usual hop."""
_SEAM_REACH = 5  # frames on each side of a seam that should be quiet: a tenth of a second
_CUT_REACH = 12  # the same of a cut between passages: a quarter


@dataclass(frozen=True)
class Passage:
    """A part of an utterance that is decoded on its own; most utterances are one passage.

    Attributes:
        row: the utterance.
        first_frame: index in the utterance of the passage's frame 0.
        log_probs: (T, A) float32.
        is_last: whether the utterance ends with it.
    """

    row: int
    first_frame: int
    log_probs: Frames
    is_last: bool

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its utterance."""
        return self.is_last and not self.first_frame


def passages_of(
    pieces: Iterable[Piece | Refusal],
    vocabulary: Vocabulary,
    *,
    max_frames: int | None = MAX_PASSAGE_FRAMES,
    begin: Mapping[int, int] | None = None,
) -> Iterator[Passage | Refusal]:
    """Passages of utterances whose windows come in order, overlaps included.

    Args:
        pieces: of a :class:`~audio_ssl.inference.stream.Stream` that keeps overlaps.
        vocabulary: names the columns.
        max_frames: of a passage; None for whole utterances.
        begin: first frame that is wanted, of rows that are not wanted from their first.

    Yields:
        The passages of each row, in order; and refusals as they come.
    """
    held: dict[int, _Recording] = {}
    for piece in pieces:
        if isinstance(piece, Refusal):
            held.pop(-1 if piece.row is None else piece.row, None)
            yield piece
            continue
        if piece.row not in held:
            held[piece.row] = _Recording(piece.row, vocabulary, max_frames, (begin or {}).get(piece.row, 0))
        yield from held[piece.row].add(piece)
        if piece.is_last:
            del held[piece.row]


class _Recording:
    """An utterance on its way: frames that may still be cut or replaced.

    Args:
        row: which.
        vocabulary: names the columns.
        max_frames: of a passage.
        start: the first frame that is wanted.
    """

    def __init__(self, row: int, vocabulary: Vocabulary, max_frames: int | None, start: int) -> None:
        self._row, self._vocabulary, self._max, self._start = row, vocabulary, max_frames, start
        self._parts: list[Frames] = []  # neighbours; joined only when a passage is made
        self._first = 0  # frame of the recording that the first part begins with
        self._stop = 0  # one past the last
        self._seam: tuple[int, int, int] | None = None  # earliest, middle and latest frame of the seam to come

    def add(self, piece: Piece) -> Iterator[Passage]:
        """Take the next window; gives the passages that no later one can change."""
        frames, first = piece.frames, piece.window.first_frame
        if self._seam is None:
            self._first = first
        else:
            seam = self._best_seam(frames, first)
            self._cut_back(seam)
            frames, first = frames[seam - first :], seam
        self._parts.append(frames)
        self._stop = first + len(frames)
        # the overlap with the next window lies evenly around the frame where this one's kept frames end
        middle = piece.window.keep_to
        reach = (self._stop - middle) // 2
        self._seam = middle - reach, middle, middle + reach
        self._forget_before_start()
        yield from self._passages(is_last=piece.is_last)

    def _best_seam(self, frames: Frames, first: int) -> int:
        """Where the frames so far and those of the next window are to meet: the surest pause nearest to the middle."""
        assert self._seam is not None
        low, middle, high = self._seam
        if low == high:
            return middle
        both = smoothed(
            quiet(self._slice(low, high), self._vocabulary)
            + quiet(frames[low - first : high - first], self._vocabulary),
            _SEAM_REACH,
        )
        best = np.flatnonzero(both >= both.max() - 1e-3)
        return low + int(best[np.abs(best + low - middle).argmin()])

    def _passages(self, *, is_last: bool) -> Iterator[Passage]:
        settled = self._stop if is_last else (self._seam or (0,))[0]
        while self._max is not None and settled - self._first > self._max and self._first >= self._start:
            run = self._slice(self._first, self._first + self._max)
            cut = self._first + best_cut(run, self._vocabulary)
            yield Passage(self._row, self._first, self._slice(self._first, cut).copy(), is_last=False)
            self._parts, self._first = [self._slice(cut, self._stop)], cut
        if is_last:
            yield Passage(self._row, self._first, self._slice(self._first, self._stop), is_last=True)

    def _forget_before_start(self) -> None:
        assert self._seam is not None
        first = min(self._start, self._seam[0])
        if first > self._first:
            self._parts, self._first = [self._slice(first, self._stop)], first

    def _slice(self, first: int, stop: int) -> Frames:
        """Frames of the recording by their number there."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0][first - self._first : stop - self._first]

    def _cut_back(self, stop: int) -> None:
        self._parts, self._stop = [self._slice(self._first, stop)], stop


def best_cut(log_probs: Frames, vocabulary: Vocabulary) -> int:
    """Where to cut a run of frames between words: in its second half.

    Where words have a separator, where that is surest; otherwise, and among such places, where it is quiet for longest.

    Args:
        log_probs: (T, A) float32, T >= 2.
        vocabulary: names the columns.

    Returns:
        The frame that the next passage begins with, T / 2 to T - 1.
    """
    score = smoothed(quiet(log_probs, vocabulary), _CUT_REACH)
    if vocabulary.separator is not None:
        score = score + log_probs[:, vocabulary.separator]
    half = max(len(log_probs) // 2, 1)
    return half + int(score[half:].argmax())


def quiet(log_probs: Frames, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """(T, A) -> (T,): log-probability that a frame is no part of a symbol: blank, or between words."""
    blank = log_probs[:, BLANK].astype(np.float64)
    return blank if vocabulary.separator is None else np.logaddexp(blank, log_probs[:, vocabulary.separator])


def smoothed(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """(T,) means over ``reach`` neighbours on each side; at the ends, over those that are there."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means
