"""Equal error rate and minimum detection cost from scores of trials, also over many draws of speakers at once.

Knows neither frames nor files. A higher score says that two utterances are more likely of one speaker; a threshold
accepts what is at least as high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TARGET_PRIOR = 0.05  # of the detection cost, with equal costs of a miss and of a false alarm: VoxSRC's setting
_MOST_STEPS, _LEAST_STEPS = 500, 50  # thresholds of each kind of trial that draws are looked at with
_TABLE = 10_000_000  # numbers of pairs of speakers times thresholds
_HELD = 4_000_000  # numbers of draws in memory at once

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trials:
    """Pairs of utterances.

    Attributes:
        scores: (M,) float64.
        is_target: (M,) bool, whether both are of one speaker.
        blocks: (M, 2) int64, the places of both speakers among all.
    """

    scores: Floats
    is_target: NDArray[np.bool_]
    blocks: NDArray[np.int64]

    @property
    def are_both_kinds(self) -> bool:
        """Whether there are targets and others, without which there is no error rate."""
        return bool(self.is_target.any() and not self.is_target.all())


@dataclass(frozen=True)
class Rates:
    """What thresholds do, from the highest to the lowest: the first accepts none, the last all.

    Attributes:
        misses: (R, K) share of targets that are refused.
        false_alarms: (R, K) share of the others that are accepted.
    """

    misses: Floats
    false_alarms: Floats

    def eer(self) -> Floats:
        """(R,) where both shares are equal, on straight lines between thresholds; NaN without targets or others."""
        gap = self.misses - self.false_alarms  # falls from 1 to -1
        after = np.argmax(gap <= 0, axis=-1)[:, None]
        before = np.maximum(after - 1, 0)
        high, low = (np.take_along_axis(gap, at, -1)[:, 0] for at in (before, after))
        first, second = (np.take_along_axis(self.misses, at, -1)[:, 0] for at in (before, after))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = first + high / (high - low) * (second - first)
        return np.where(np.isfinite(gap[:, -1]), found, np.nan)

    def min_dcf(self, prior: float = TARGET_PRIOR) -> Floats:
        """(R,) least cost over all thresholds, as a share of that of the better of accepting none and accepting all.

        Reference: NIST speaker recognition evaluations, normalised detection cost with C_miss = C_fa = 1.
        """
        cost = prior * self.misses + (1 - prior) * self.false_alarms
        least: Floats = cost.min(-1) / min(prior, 1 - prior)
        return least


def rates(trials: Trials) -> Rates:
    """At every score that there is; R = 1."""
    values, place = np.unique(-trials.scores, return_inverse=True)
    targets, others = (
        np.bincount(place[chosen], minlength=len(values))[None].astype(np.float64)
        for chosen in (trials.is_target, ~trials.is_target)
    )
    return _rates(targets, others)


def drawn_rates(trials: Trials, draws: NDArray[np.int64]) -> Rates:
    """Of R draws of speakers, at a thousand scores at most.

    A speaker who is drawn n times brings each trial with himself n times, and each trial of him with another, drawn m
    times, n * m times. A speaker and his own double make no trials.

    Args:
        trials: over B speakers.
        draws: (R, B) how often each is drawn.
    """
    pairs, pair = np.unique(np.sort(trials.blocks, axis=1), axis=0, return_inverse=True)
    steps = _steps(trials, int(np.clip(_TABLE // len(pairs), _LEAST_STEPS, _MOST_STEPS)))
    # a trial is accepted from the first step on that is at most its score
    place = len(steps) - np.searchsorted(steps, trials.scores, side="right")
    at = pair.reshape(-1) * len(steps) + place
    targets, others = (
        np.bincount(at[chosen], minlength=len(pairs) * len(steps)).reshape(len(pairs), -1).astype(np.float64)
        for chosen in (trials.is_target, ~trials.is_target)
    )
    is_self = pairs[:, 0] == pairs[:, 1]
    found, portion = [], max(1, _HELD // len(pairs))
    for first in range(0, len(draws), portion):
        own = draws[first : first + portion].astype(np.float64)  # (r, B)
        weights = own[:, pairs[:, 0]] * np.where(is_self, 1.0, own[:, pairs[:, 1]])  # -> (r, P)
        found.append(_rates(weights @ targets, weights @ others))  # (r, P) @ (P, K) -> (r, K)
    return Rates(np.concatenate([one.misses for one in found]), np.concatenate([one.false_alarms for one in found]))


def _steps(trials: Trials, most: int) -> Floats:
    """Thresholds, ascending: all scores where they are few, else as many between which trials of a kind are alike."""
    steps = [trials.scores.min(keepdims=True)]  # where all are accepted
    for chosen in (trials.is_target, ~trials.is_target):
        own = np.unique(trials.scores[chosen])
        steps.append(own if len(own) <= most else own[np.linspace(0, len(own) - 1, most).round().astype(np.int64)])
    return np.unique(np.concatenate(steps))


def _rates(targets: Floats, others: Floats) -> Rates:
    """From (R, K) numbers of trials at each step, the highest score first."""
    start = np.zeros((len(targets), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        hits, false_alarms = (
            np.concatenate((start, np.cumsum(counts, axis=-1)), -1) / counts.sum(-1, keepdims=True)
            for counts in (targets, others)
        )
    return Rates(1 - hits, false_alarms)
