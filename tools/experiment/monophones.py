"""When each phone of a recording is said, from the order of its phones alone: monophone models from a flat start.

Every phone, and silence, has three states from left to right; a state is a mixture of Gaussians with diagonal
covariance over MFCC with slopes. Frames are shared out evenly first, then models and the best path take turns while
mixtures grow. Words may have silence between them. This is the first step of HTK's and Kaldi's recipes (Young et al.,
The HTK Book, section 3.2; transitions are all alike here, for with three states a phone they hardly matter).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from audio_ssl.inference.decoding.compiling import compiled

SILENCE = "SIL"
STATES = 3  # of a phone
GAUSSIANS = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8)  # of a state, in each round
QUIET_SHARE = 0.12  # of a recording at either end, in the flat start
_MOST_FRAMES = 10_000  # of a state that its mixture is fitted to
_ITERATIONS = 10  # of a mixture in a round
_LEAST_VARIANCE = 0.05  # of features with unit variance
_NEVER = -1e30

Words = Sequence[Sequence[str]]  # phones of each word
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Phone:
    """A stretch of frames, ``end`` not included."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Path:
    """States that a recording may go through, in their order.

    Attributes:
        states: (N,) number of each.
        phones: (N,) which phone of the path each belongs to.
        names: of these phones.
        may_skip: (N,) int64, 1 where a path may come from before the silence that ends there.
    """

    states: Ints
    phones: Ints
    names: tuple[str, ...]
    may_skip: Ints

    @classmethod
    def of(cls, words: Words, numbers: dict[str, int]) -> Path:
        """Silence, words with silence between them that may be missing, silence."""
        names = [SILENCE]
        for word in words:
            names += [*word, SILENCE]
        phones = np.repeat(np.arange(len(names)), STATES)
        states = np.array([STATES * numbers[name] + k for name in names for k in range(STATES)])
        may_skip = np.zeros(len(states), np.int64)
        for number, name in enumerate(names[:-1]):
            if name == SILENCE:
                may_skip[STATES * (number + 1)] = 1
        return cls(states, phones, tuple(names), may_skip)

    def flat(self, num_frames: int) -> Ints:
        """(T,) states where every phone lasts as long, with silence at both ends and nowhere else."""
        quiet = int(num_frames * QUIET_SHARE)
        spoken = [n for n, phone in enumerate(self.phones) if self.names[phone] != SILENCE]
        ends = _evenly(np.arange(STATES), quiet), _evenly(np.arange(len(self.phones) - STATES, len(self.phones)), quiet)
        return np.concatenate([ends[0], _evenly(np.array(spoken), num_frames - 2 * quiet), ends[1]])


def _evenly(places: Ints, num_frames: int) -> Ints:
    return np.asarray(places[np.arange(num_frames) * len(places) // max(num_frames, 1)])


def align(
    recordings: Sequence[Floats],
    words: Sequence[Words],
    *,
    gaussians: Sequence[int] = GAUSSIANS,
    tell: Tell = lambda _: None,
) -> list[list[Phone]]:
    """Frames of each phone, silences between them left out.

    Args:
        recordings: (T, F) features of each, with zero mean and unit variance over all.
        words: of each recording; a recording must have as many frames as its phones have states, with those of
            silence at its ends.
        gaussians: of a state, in each round.
        tell: is given a line after each round.

    Raises:
        ValueError: a recording is too short for its phones.
    """
    numbers = {SILENCE: 0}
    for one in words:
        for phone in (phone for word in one for phone in word):
            numbers.setdefault(phone, len(numbers))
    paths = [Path.of(one, numbers) for one in words]
    for number, (frames, path) in enumerate(zip(recordings, paths, strict=True)):
        least = STATES * (sum(name != SILENCE for name in path.names) + 2)
        if len(frames) < least:
            raise ValueError(f"recording {number} must have {least} frames or more for its phones, got {len(frames)}")
    found = [path.flat(len(frames)) for frames, path in zip(recordings, paths, strict=True)]
    everything, edges = np.concatenate(recordings), np.cumsum([len(frames) for frames in recordings])[:-1]
    for turn, growing in enumerate(gaussians, start=1):
        labels = np.concatenate([path.states[places] for path, places in zip(paths, found, strict=True)])
        models = [_fit(everything[labels == n], growing, seed=n) for n in range(STATES * len(numbers))]
        scores = np.stack([model(everything) for model in models], axis=1, dtype=np.float32)  # one call a state
        before, total = found, 0.0
        found = []
        for of_recording, path in zip(np.split(scores, edges), paths, strict=True):
            places, score = best_path(of_recording[:, path.states], path.may_skip)  # (T, S) -> (T, N)
            found.append(places)
            total += score
        moved = sum(int((a != b).sum()) for a, b in zip(found, before, strict=True))
        tell(
            f"round {turn} of {len(gaussians)}: {growing} Gaussians a state, {total / len(everything):.3f} nats a "
            f"frame, {100 * moved / len(everything):.1f} % of frames moved"
        )
    return [_phones(path, places) for path, places in zip(paths, found, strict=True)]


def _phones(path: Path, places: Ints) -> list[Phone]:
    phones, start = list[Phone](), 0
    for number, frames in groupby(path.phones[places].tolist()):
        end = start + len(list(frames))
        if path.names[number] != SILENCE:
            phones.append(Phone(path.names[number], start, end))
        start = end
    return phones


def _fit(frames: Floats, gaussians: int, *, seed: int) -> Callable[[Floats], Floats]:
    """Log-likelihood of frames under a mixture that is fitted to others; a state that has too few gets one Gaussian."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if not len(frames):
        return lambda asked: np.full(len(asked), _NEVER)
    if len(frames) > _MOST_FRAMES:
        frames = frames[np.linspace(0, len(frames) - 1, _MOST_FRAMES).astype(np.int64)]
    if gaussians == 1 or len(frames) < 20 * gaussians:
        mean, variance = frames.mean(0), frames.var(0) + _LEAST_VARIANCE
        return lambda asked: -0.5 * (np.square(asked - mean) / variance + np.log(2 * np.pi * variance)).sum(1)
    mixture = GaussianMixture(
        gaussians, covariance_type="diag", reg_covar=_LEAST_VARIANCE, max_iter=_ITERATIONS, tol=1e-2, random_state=seed,
        init_params="random_from_data",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the next round goes on from better frames
        mixture.fit(frames)
    return mixture.score_samples  # type: ignore[no-any-return]


def best_path(scores: Floats, may_skip: Ints) -> tuple[Ints, float]:
    """The best way through all states.

    Args:
        scores: (T, N) log-likelihood of each frame in each state of the path.
        may_skip: see :class:`Path`.

    Returns:
        (T,) places in the path, and the sum of their scores. It begins in the first state or after the silence, and
        ends in the last state or before the silence.
    """
    places = np.empty(len(scores), np.int64)
    best = _search(scores, may_skip, np.empty(scores.shape, np.int8), np.empty((2, scores.shape[1])), places)
    return places, best


@compiled
def _search(
    scores: Floats, may_skip: Ints, steps: NDArray[np.int8], costs: NDArray[np.float64], places: Ints
) -> float:  # fmt: skip
    """Viterbi over a path: stay, go on, or pass over a silence; writes ``places`` and gives the best sum."""
    num_frames, num_states = scores.shape
    for j in range(num_states):
        costs[0, j] = scores[0, j] if j in (0, STATES) else _NEVER
    for t in range(1, num_frames):
        now, before = t % 2, (t + 1) % 2
        for j in range(num_states):
            best, step = costs[before, j], 0
            if j > 0 and costs[before, j - 1] > best:
                best, step = costs[before, j - 1], 1
            if j > STATES and may_skip[j] and costs[before, j - STATES - 1] > best:
                best, step = costs[before, j - STATES - 1], STATES + 1
            costs[now, j], steps[t, j] = best + scores[t, j], step
    last, j = (num_frames + 1) % 2, num_states - 1
    if num_states > STATES and costs[last, j - STATES] > costs[last, j]:
        j -= STATES
    total: float = costs[last, j]
    for t in range(num_frames - 1, -1, -1):
        places[t] = j
        if t > 0:
            j -= steps[t, j]
    return total
