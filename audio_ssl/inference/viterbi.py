"""The best path of a known label sequence through hours of frames: exact, in memory that stays small.

Knows numbers only. The lattice of an hour has 10^10 cells and more. Of its columns one in a thousand is kept; on the
way back the cells between two of them are computed again, few of them, for the path can only have come from nearby.

Reference: Viterbi over the CTC lattice (Graves et al. 2006); keeping some columns is the scheme of Grice, Hughey and
Speck, "Reduced space sequence alignment" (1997).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK_FRAMES = 1024
_NEVER = -np.inf


def best_spans(
    log_probs: NDArray[np.float64], labels: Sequence[int], *, blank: int, block_frames: int = BLOCK_FRAMES
) -> list[tuple[int, int]]:
    """Frames of each label on the best path.

    Args:
        log_probs: (T, A) float64.
        labels: one or more, without blanks, no more than T frames can hold.
        blank: its index.
        block_frames: frames between two columns that are kept.

    Returns:
        First frame and one past the last, of each label.
    """
    states = _States(labels, blank)
    columns, last = _columns(log_probs, states, block_frames)
    # the path ends on the last label, or on the blank behind it
    state = states.came_from(states.size - 1, last)
    firsts, stops = [0] * len(labels), [0] * len(labels)
    for number in range(len(columns) - 1, -1, -1):
        begin, column = number * block_frames, columns[number]
        path = _way_back(log_probs[begin : begin + block_frames], states, column, state)
        for frame in range(len(path) - 1, -1, -1):
            if path[frame] % 2:
                firsts[path[frame] // 2] = begin + frame
                stops[path[frame] // 2] = stops[path[frame] // 2] or begin + frame + 1
        state = states.came_from(path[0], column)
    return list(zip(firsts, stops, strict=True))


class _States:
    """Blank, first label, blank, second label ... blank.

    Args:
        labels: of the text.
        blank: its index.
    """

    def __init__(self, labels: Sequence[int], blank: int) -> None:
        self.size = 2 * len(labels) + 1
        self.symbols = np.full(self.size, blank, dtype=np.int64)
        self.symbols[1::2] = labels
        # a label may follow another one without a blank between them, unless both are the same
        self.may_skip = np.zeros(self.size, dtype=np.bool_)
        self.may_skip[3::2] = self.symbols[3::2] != self.symbols[1:-2:2]

    def step(self, before: NDArray[np.float64], first: int, emitted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of a stretch of states.

        Args:
            before: (N + 2,), one frame earlier, of states ``first`` - 2 to ``first`` + N - 1.
            first: of the stretch.
            emitted: (A,) log-probabilities of the frame.

        Returns:
            (N,)
        """
        own = slice(first, first + len(before) - 2)
        scores = np.maximum(before[2:], before[1:-1])
        np.maximum(scores, before[:-2], out=scores, where=self.may_skip[own])
        scores += emitted[self.symbols[own]]
        return scores

    def came_from(self, state: int, before: NDArray[np.float64], *, low: int = 0) -> int:
        """The state one frame before ``state`` on its best path; the later one where two are equally good.

        Args:
            state: which.
            before: scores one frame earlier, from state ``low`` on.
            low: see there.
        """
        ways = [state, state - 1, state - 2][: 3 if self.may_skip[state] else 2]
        return max((way for way in ways if way >= low), key=lambda way: (before[way - low], way))


def _columns(
    log_probs: NDArray[np.float64], states: _States, block_frames: int
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """(S,) scores before the first frame of each block, and those of the end."""
    total, size, columns = len(log_probs), states.size, []
    scores = np.full(size + 2, _NEVER)  # two states before the first make the edge like the middle
    scores[2] = 0.0
    for frame in range(total):
        if frame % block_frames == 0:
            columns.append(scores[2:].copy())
        # what has been reached, and can still reach the end
        low, high = max(size - 2 * (total - frame), 0), min(2 * frame + 2, size)
        scores[low + 2 : high + 2] = states.step(scores[low : high + 2], low, log_probs[frame])
        scores[2 : low + 2] = _NEVER
    return columns, scores[2:]


def _way_back(log_probs: NDArray[np.float64], states: _States, column: NDArray[np.float64], state: int) -> list[int]:
    """The states of the best path through a block that ends in ``state``."""
    num_frames = len(log_probs)
    low = max(state - 2 * num_frames, 0)
    scores = np.full((num_frames + 1, state - low + 3), _NEVER)
    scores[0, 2:] = column[low : state + 1]
    for frame in range(num_frames):
        scores[frame + 1, 2:] = states.step(scores[frame], low, log_probs[frame])
    path = [state]
    for frame in range(num_frames - 1, 0, -1):
        path.append(states.came_from(path[-1], scores[frame, 2:], low=low))
    return path[::-1]
