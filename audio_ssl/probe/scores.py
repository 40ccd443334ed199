"""Figures of a probe with what chance may have done to them: blocks (speakers) and seeds are drawn again.

All candidates of a task are measured on the same blocks, and the same draws are made for all of them, so that a
difference between two is one of pairs.

Reference: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (2004).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from audio_ssl.evaluate.intervals import Interval, percentile_interval
from audio_ssl.rng import numpy_generator

NUM_RESAMPLES = 4000
Counts = Mapping[str, tuple[float, float]]
"""Of each block: what is counted (hits, errors), and out of how many."""


@dataclass(frozen=True)
class Draws:
    """How often each block and each seed is drawn, the same for all candidates of a task.

    Attributes:
        blocks: (R, B) int64, rows sum to B; the columns are :attr:`names`.
        seeds: (R, S) int64, rows sum to S.
        names: of the blocks, ascending.
    """

    blocks: NDArray[np.int64]
    seeds: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str], num_seeds: int, *, num_resamples: int = NUM_RESAMPLES) -> Draws:
        """The draws for these blocks; the same names and numbers always give the same ones."""
        ordered = tuple(sorted(names))
        rng = numpy_generator(1, "probe draws", len(ordered), num_seeds)
        blocks = rng.multinomial(len(ordered), np.full(len(ordered), 1 / len(ordered)), size=num_resamples)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples)
        return cls(blocks, seeds, ordered)


@dataclass(frozen=True)
class Gain:
    """How much better a score is than another; above 0 is better, whichever way the metric runs.

    Attributes:
        value: the difference.
        interval: 95 %; None where there is one block alone.
    """

    value: float
    interval: Interval | None

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves 0 out on the good side."""
        return self.interval is not None and self.interval.low > 0


@dataclass(frozen=True)
class Score:
    """What a candidate reached with a head.

    Attributes:
        metric: ``accuracy``, ``error_rate``, ``eer`` ...
        value: mean over seeds.
        resamples: (R,) the value in each draw of :class:`Draws`; NaN where a draw leaves nothing to measure.
        num_blocks: B.
        of_seed: value of each seed.
        higher_is_better: which way the metric runs.
        of_block: value of each block over all seeds, where the metric is a share; for tables and charts.
    """

    metric: str
    value: float
    resamples: NDArray[np.float64] = field(repr=False)
    num_blocks: int
    of_seed: Mapping[int, float]
    higher_is_better: bool
    of_block: Mapping[str, float] = field(default_factory=dict)

    def interval(self) -> Interval | None:
        """95 % over blocks and seeds; None with one block, or where every draw gives the same."""
        return _interval(self.resamples, self.num_blocks)

    def gain_over(self, other: Score) -> Gain:
        """How much better this is than ``other``, of the same metric and draws."""
        sign = 1.0 if self.higher_is_better else -1.0
        return Gain(
            sign * (self.value - other.value), _interval(sign * (self.resamples - other.resamples), self.num_blocks)
        )


def share_score(metric: str, of_seed: Mapping[int, Counts], *, draws: Draws, higher_is_better: bool) -> Score:
    """A score that is a share: sums over blocks, counted over total, mean over seeds.

    Args:
        metric: its name.
        of_seed: of each seed, the counts of every block of ``draws``.
        draws: as many seeds as ``of_seed``.
        higher_is_better: which way the metric runs.
    """
    counts = np.array([[own[name] for name in draws.names] for own in of_seed.values()])  # (S, B, 2)
    sums = np.einsum("rb,sbk->rsk", draws.blocks.astype(np.float64), counts)  # (R, S, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = sums[..., 0] / sums[..., 1]  # (R, S)
        of_block = counts[..., 0].sum(0) / counts[..., 1].sum(0)  # (B,)
    resamples = (rates * draws.seeds).sum(1) / draws.seeds.sum(1)
    values = {seed: float(own[:, 0].sum() / own[:, 1].sum()) for seed, own in zip(of_seed, counts, strict=True)}
    return Score(
        metric, float(np.mean(list(values.values()))), resamples, len(draws.names), values, higher_is_better,
        dict(zip(draws.names, of_block.tolist(), strict=True)),
    )  # fmt: skip


def _interval(resamples: NDArray[np.float64], num_blocks: int) -> Interval | None:
    known = resamples[np.isfinite(resamples)]
    if num_blocks < 2 or not len(known) or known.min() == known.max():
        return None
    return percentile_interval(known, num_blocks)


@dataclass(frozen=True)
class Result:
    """What a runner gives for one candidate and one head.

    Attributes:
        head: ``linear``, ``mlp``, ``recurrent``, ``cosine``, ``dtw`` ...
        score: its main figure.
        others: further figures by name, in the order of the table (nats a phone, minDCF ...).
        layer_weights: softmax of the learned sum, L numbers, mean over folds and seeds; None where there is none.
        layer: the layer that was chosen without the test items, where one was.
        notes: what was left out or could not be right, fold by fold, in sentences.
    """

    head: str
    score: Score
    others: Mapping[str, Score] = field(default_factory=dict)
    layer_weights: tuple[float, ...] | None = None
    layer: int | None = None
    notes: tuple[str, ...] = ()
