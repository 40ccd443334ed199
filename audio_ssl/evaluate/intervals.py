"""How far an error rate may be off: bootstrap over blocks, and a closed form where there are many rates.

A block is what is drawn as a whole: an utterance, or all utterances of a speaker. Blocks that count alike are alike, so
what is kept of them is how often each outcome was seen, and memory does not grow with the corpus.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_ssl.evaluate.error_rate import EditCounts
from audio_ssl.rng import numpy_generator

LEVEL = 0.95
Blocks = Mapping[tuple[int, ...], int]  # (errors, ..., reference length) of a block: how many blocks are like it
_MOST_RESAMPLES, _LEAST_RESAMPLES = 10_000, 1_000
_WORK = 5_000_000  # outcomes times resamples: about a second, and as many for each rate and each difference
_HELD = 2_000_000  # draws in memory at once


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much more errors a second system makes than a first, per unit of the reference.

    Attributes:
        value: rate of the second minus rate of the first; below 0 where the second is better.
        interval: of the value.
        p_value: two-sided, that there is no difference; never less than 2^(1 - n) with n blocks, which is what an exact
            test by exchanging systems could give.
        share_better: resamples in which the second is better (Bisani & Ney's probability of improvement).
    """

    value: float
    interval: Interval
    p_value: float
    share_better: float


def bootstrap_interval(counts: Sequence[EditCounts], *, seed: int = 1) -> Interval | None:
    """:func:`rate_interval` over the given blocks, one an entry."""
    return rate_interval(Counter((c.errors, c.reference_length) for c in counts), seed=seed)


def rate_interval(blocks: Blocks, *, seed: int = 1) -> Interval | None:
    """Interval of the corpus-level rate over resampled blocks.

    Percentiles of the bootstrap are too narrow with few blocks, by sqrt((n - 1) / n) and by the normal law in place of
    Student's; they are widened by both (Hesterberg 2015, section 5.3), which with many blocks changes nothing.

    Args:
        blocks: (errors, reference length) of each block, and how many are like it.
        seed: names the draws; the same seed and blocks give the same interval, in whatever order they came.

    Returns:
        None where blocks tell nothing of chance: less than two, no reference unit at all, or the same rate in each.

    References: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (2004);
    Hesterberg, "What teachers should know about the bootstrap" (2015).
    """
    num_blocks = sum(blocks.values())
    errors, length = (sum(key[i] * number for key, number in blocks.items()) for i in (0, 1))
    if num_blocks < 2 or not length or all(e * length == errors * own for e, own in blocks):
        return None
    rates = np.concatenate([sums[:, 0] / sums[:, 1] for sums in _resampled(blocks, seed=seed, purpose="bootstrap")])
    return percentile_interval(rates, num_blocks)


def difference(blocks: Blocks, *, seed: int = 1) -> Difference | None:
    """Difference of two systems over resampled blocks; both are drawn together.

    Args:
        blocks: (errors of the first, errors of the second, reference length) of each block, and how many are like it.
        seed: as of :func:`rate_interval`.

    Returns:
        None where there is nothing to resample.
    """
    num_blocks = sum(blocks.values())
    length = sum(key[2] * number for key, number in blocks.items())
    if num_blocks < 2 or not length:
        return None
    value = sum((key[1] - key[0]) * number for key, number in blocks.items()) / length
    found = np.concatenate(
        [(sums[:, 1] - sums[:, 0]) / sums[:, 2] for sums in _resampled(blocks, seed=seed, purpose="paired")]
    )
    tail = min((found <= 0).sum(), (found >= 0).sum())
    p_value = min(1.0, max(2 * (1 + int(tail)) / (1 + len(found)), 2.0 ** (1 - num_blocks)))
    return Difference(value, percentile_interval(found, num_blocks), p_value, float((found < 0).mean()))


def _resampled(blocks: Blocks, *, seed: int, purpose: str) -> Iterator[NDArray[np.float64]]:
    """(R, X) sums of resamples, in portions; those without any reference unit have no rate and are left out."""
    keys = sorted(blocks)
    values = np.array(keys, dtype=np.float64)  # (K, X)
    numbers = np.array([blocks[key] for key in keys], dtype=np.int64)
    num_blocks, wanted = int(numbers.sum()), num_resamples(len(keys))
    rng = numpy_generator(seed, purpose)
    portion = max(1, _HELD // len(keys))
    for first in range(0, wanted, portion):
        draws = rng.multinomial(num_blocks, numbers / num_blocks, size=min(portion, wanted - first))  # (R, K)
        sums = draws @ values
        yield sums[sums[:, -1] > 0]


def num_resamples(num_outcomes: int) -> int:
    """Draws for so many different outcomes of a block: ten thousand, fewer where they would take seconds."""
    return min(_MOST_RESAMPLES, max(_LEAST_RESAMPLES, _WORK // max(num_outcomes, 1)))


def percentile_interval(values: NDArray[np.float64], num_blocks: int) -> Interval:
    """Interval of values over resampled blocks, widened for few blocks as :func:`rate_interval` says."""
    tail = _expanded_tail(num_blocks)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _expanded_tail(num_blocks: int) -> float:
    """Share of resamples beyond either end: Phi(-sqrt(n / (n - 1)) t), t of Student's law with n - 1 degrees."""
    from scipy.stats import norm, t

    quantile = t.ppf((1 + LEVEL) / 2, num_blocks - 1)
    return float(norm.cdf(-math.sqrt(num_blocks / (num_blocks - 1)) * quantile))


class RateSums:
    """Counts and second moments of utterances, from which a rate has an interval in closed form.

    Attributes:
        counts: of all utterances.
        num: utterances.
    """

    __slots__ = ("_cross", "_errors_squared", "_lengths_squared", "counts", "num")

    def __init__(self) -> None:
        self.counts, self.num = EditCounts(), 0
        self._errors_squared = self._cross = self._lengths_squared = 0

    def add(self, counts: EditCounts) -> None:
        """Take an utterance in."""
        self.counts += counts
        self.num += 1
        self._errors_squared += counts.errors**2
        self._cross += counts.errors * counts.reference_length
        self._lengths_squared += counts.reference_length**2

    def interval(self) -> Interval | None:
        """Student's interval of the ratio of sums over utterances, cut at 0.

        None for fewer than two utterances, and where all have the same rate: there is nothing to tell chance from.

        var(r) = n / (n - 1) * sum (e - r l)^2 / (sum l)^2

        Reference: Cochran, "Sampling techniques" (1977), section 6.4, without a finite population.
        """
        from scipy.stats import t

        errors, length = self.counts.errors, self.counts.reference_length
        # sum (e L - E l)^2 in whole numbers, so that 0 is 0
        squares = (
            length**2 * self._errors_squared - 2 * length * errors * self._cross + errors**2 * self._lengths_squared
        )
        if self.num < 2 or not length or not squares:
            return None
        rate = errors / length
        deviation = math.sqrt(squares * self.num / (self.num - 1)) / length**2
        half = float(t.ppf((1 + LEVEL) / 2, self.num - 1)) * deviation
        return Interval(max(0.0, rate - half), rate + half)
