"""The plan of an epoch: which rows go through which forward pass on which rank. Pure; it reads no audio.

Everything follows from (lengths, settings, seed, epoch, rank, world), so resuming is a slice of the list of updates,
ranks agree without talking, and the number of loader threads changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np

from audio_ssl.errors import ConfigError
from audio_ssl.rng import numpy_generator

MicroBatch = tuple[int, ...]
Update = tuple[MicroBatch, ...]
VERSION = 2  # raised with every change of what the same arguments give
_STRETCH = 16384  # rows that are cut one after the other


@dataclass(frozen=True)
class PlanSettings:
    """Sizes of updates and forward passes, in samples at the model's rate.

    Attributes:
        batch_samples: audio that one update sees, over all ranks and micro-batches; met nearly, see :func:`plan`.
        micro_batch_samples: most samples of one forward pass on one rank, padding included; never exceeded.
        quadratic_samples: a row of S samples takes S + S² / this of a forward pass, as attention grows with the square;
            None: S. Updates see ``batch_samples`` on average: less where rows are long, and more where they are short.
        length_noise: rows are bucketed by their length times a random factor in 1 ± this. 0 pads least but shows a
            row the same neighbours in every epoch; 0.05 pads about 3 % and mixes neighbours.
    """

    batch_samples: int
    micro_batch_samples: int
    length_noise: float = 0.05
    quadratic_samples: int | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be > 0, got {value}"
            for name, value in (
                ("batch_samples", self.batch_samples),
                ("micro_batch_samples", self.micro_batch_samples),
                ("quadratic_samples", self.quadratic_samples),
            )
            if value is not None and value <= 0
        ]
        if not 0 <= self.length_noise < 1:
            faults.append(f"length_noise must be in [0, 1), got {self.length_noise}")
        if faults:
            raise ConfigError("; ".join(faults))


@dataclass(frozen=True, eq=False)
class Plan(Sequence[Update]):
    """An epoch on one rank: a sequence of updates, each a tuple of micro-batches, each a tuple of row numbers.

    An update is made when it is asked for; what is kept are arrays. Every rank has the same number of updates, and the
    same number of micro-batches in each.

    Attributes:
        order: (N,) integer, row numbers by similar length.
        bounds: (M + 1,) integer, micro-batch m is ``order[bounds[m]:bounds[m + 1]]``.
        groups: (G, W) integer, micro-batches that the W ranks go through at the same moment, by rank, in order of use.
        first_group: (U + 1,) integer, update u has the groups from ``first_group[u]`` on.
        rank: whose updates these are.
        num_samples: samples of all rows in the plan, over all ranks, without padding.
        padding_share: padding as a share of the samples that go through the model, over all ranks.
        num_left_out: rows that no rank sees in this epoch (fewer than the ranks could share).
    """

    order: np.ndarray
    bounds: np.ndarray
    groups: np.ndarray
    first_group: np.ndarray
    rank: int
    num_samples: int
    padding_share: float
    num_left_out: int

    @property
    def num_rows(self) -> int:
        """Rows in the plan over all ranks."""
        return len(self.order) - self.num_left_out

    @property
    def mean_samples(self) -> float:
        """Samples of an update over all ranks, without padding, on average; of a plan that has updates."""
        return self.num_samples / len(self)

    @property
    def most_micro_batches(self) -> int:
        """Of an update on one rank; 0 where there is no update."""
        return int(np.diff(self.first_group).max(initial=0))

    def __len__(self) -> int:
        return len(self.first_group) - 1

    @overload
    def __getitem__(self, update: int) -> Update: ...
    @overload
    def __getitem__(self, update: slice) -> tuple[Update, ...]: ...
    def __getitem__(self, update: int | slice) -> Update | tuple[Update, ...]:
        if isinstance(update, slice):
            return tuple(self[i] for i in range(*update.indices(len(self))))
        i = range(len(self))[update]
        mine = self.groups[self.first_group[i] : self.first_group[i + 1], self.rank]
        return tuple(tuple(self.order[self.bounds[m] : self.bounds[m + 1]].tolist()) for m in mine.tolist())

    def from_update(self, first: int) -> Iterator[Update]:
        """The updates from ``first`` on."""
        return (self[i] for i in range(first, len(self)))

    def rows_after(self, num_updates: int) -> np.ndarray:
        """Rows that no rank has seen after so many updates, those left out among them, in rising order."""
        seen = np.zeros(len(self.order), dtype=bool)
        micro_batches = self.groups[: self.first_group[num_updates]].ravel()
        starts, ends = self.bounds[micro_batches], self.bounds[micro_batches + 1]
        changes = np.zeros(len(self.order) + 1, dtype=np.int8)
        changes[starts] += 1
        changes[ends] -= 1
        seen[self.order] = np.cumsum(changes[:-1]) > 0
        return np.flatnonzero(~seen)


def plan(
    num_samples: np.ndarray,
    *,
    settings: PlanSettings,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
) -> Plan:
    """Cut an epoch into updates of about ``batch_samples`` each, of rows with similar lengths.

    Rows are sorted by noisy length and cut into micro-batches that aim at ``batch_samples / (world * k)`` samples,
    where k is the fewest micro-batches a rank and update that fit ``micro_batch_samples``; with a quadratic term they
    aim at equal cost instead. Neighbouring micro-batches
    go to the ranks at the same moment, so no rank waits long for another; the order of these groups is shuffled, and
    they are dealt out to updates as evenly as possible, so that the last update is no smaller than the others.

    Args:
        num_samples: (N,) integer, length of each row at the model's rate, already cropped.
        settings: sizes.
        seed: the run's seed.
        epoch: from 0.
        rank: this rank, 0 .. world - 1.
        world: number of ranks.

    Returns:
        The plan of this rank. It has no updates where there are fewer rows than ranks.

    Raises:
        ConfigError: a row is longer than ``micro_batch_samples`` or has no samples, or rank and world do not fit.
    """
    lengths = _checked(num_samples, settings=settings, rank=rank, world=world)
    generator = numpy_generator(seed, "plan", epoch)
    order = _by_noisy_length(lengths, noise=settings.length_noise, generator=generator)
    ordered = lengths.astype(_smallest_kind(int(lengths.max(initial=0))), copy=False)[order]
    costs = pass_costs(ordered, settings.quadratic_samples)
    batch_cost = settings.batch_samples
    if costs is not ordered:
        batch_cost = round(batch_cost * costs.sum(dtype=np.float64) / max(1.0, ordered.sum(dtype=np.float64)))
    micro_per_rank = max(1, -(-batch_cost // (world * settings.micro_batch_samples)))
    target = batch_cost / (world * micro_per_rank)
    bounds = _cut(costs, target=target, budget=settings.micro_batch_samples)
    bounds = _even_out(bounds, costs, world=world, budget=settings.micro_batch_samples)
    groups, first_group = _deal(len(bounds) - 1, micro_per_rank=micro_per_rank, world=world, generator=generator)
    seen = int(ordered[bounds[0] :].sum())
    padded = int((np.diff(bounds) * _widths(bounds, ordered)).sum())
    return Plan(
        order=order,
        bounds=bounds,
        groups=groups,
        first_group=first_group,
        rank=rank,
        num_samples=seen,
        padding_share=1 - seen / padded if padded else 0.0,
        num_left_out=int(bounds[0]),
    )


def pass_costs(num_samples: np.ndarray, quadratic_samples: int | None) -> np.ndarray:
    """(N,) integer, what each row takes of ``micro_batch_samples``: S + S² / ``quadratic_samples``, rounded up."""
    if quadratic_samples is None:
        return num_samples
    exact = num_samples.astype(np.int64)
    costs = exact - (-exact * exact // quadratic_samples)
    return costs.astype(_smallest_kind(int(costs.max(initial=0))), copy=False)


def eval_batches(
    num_samples: np.ndarray, *, micro_batch_samples: int, batch_cost_samples: int | None = None
) -> tuple[MicroBatch, ...]:
    """Every row once, longest first, for validation and extraction; the same for every call.

    A row that is longer than the budget is alone in its batch. Longest first shows at once whether memory suffices.

    Args:
        num_samples: (N,) integer, at the model's rate.
        micro_batch_samples: most samples of a batch, padding included.
        batch_cost_samples: what one more batch costs, in samples that could be computed meanwhile: rows are cut where
            this and padding cost least together. None: batches are as full as can be, whatever they pad.
    """
    lengths = np.asarray(num_samples, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    if batch_cost_samples is None:
        bounds = _fill(lengths[order], micro_batch_samples)
    else:
        bounds = _cut_cheaply(lengths[order], micro_batch_samples, batch_cost_samples)
    return tuple(tuple(order[start:stop].tolist()) for start, stop in pairwise(bounds))


def _fill(ordered: np.ndarray, budget: int) -> list[int]:
    """Bounds of batches of falling lengths, each as full as the budget allows."""
    bounds = [0] if len(ordered) else []
    for row in range(1, len(ordered)):
        if (row + 1 - bounds[-1]) * ordered[bounds[-1]] > budget:
            bounds.append(row)
    return [*bounds, len(ordered)]


def _cut_cheaply(ordered: np.ndarray, budget: int, batch_cost: int) -> list[int]:
    """Bounds of batches of falling lengths with the least sum of padded samples and ``batch_cost`` for each batch."""
    total = len(ordered)
    least = np.zeros(total + 1, dtype=np.int64)  # cost of the rows from here on
    stops = np.zeros(total, dtype=np.int64)  # where the batch that begins here ends
    for row in range(total - 1, -1, -1):
        most = max(1, min(budget // max(int(ordered[row]), 1), total - row))
        costs = ordered[row] * np.arange(1, most + 1) + least[row + 1 : row + most + 1]
        best = int(costs.argmin())
        least[row], stops[row] = costs[best] + batch_cost, row + 1 + best
    bounds = [0]
    while bounds[-1] < total:
        bounds.append(int(stops[bounds[-1]]))
    return bounds


def _checked(num_samples: np.ndarray, *, settings: PlanSettings, rank: int, world: int) -> np.ndarray:
    lengths = np.asarray(num_samples)
    if not 0 <= rank < world:
        raise ConfigError(f"rank must be in 0 .. world - 1, got rank {rank} of world {world}")
    if len(lengths) and lengths.min() <= 0:
        raise ConfigError(f"every row must have samples, but row {int(lengths.argmin())} has {lengths.min()}")
    longest = int(lengths.argmax()) if len(lengths) else 0
    cost = int(pass_costs(lengths[longest : longest + 1], settings.quadratic_samples).max(initial=0))
    if cost > settings.micro_batch_samples:
        counted = "" if settings.quadratic_samples is None else f", which count as {cost} (data.quadratic_s)"
        raise ConfigError(
            f"every row must fit one forward pass of {settings.micro_batch_samples} samples, but row "
            f"{longest} has {lengths[longest]}{counted}: raise data.micro_batch_s or lower data.max_s"
        )
    return lengths


def _by_noisy_length(lengths: np.ndarray, *, noise: float, generator: np.random.Generator) -> np.ndarray:
    """Rows by length times a random factor in 1 ± ``noise``, those of equal length in random order."""
    keys = generator.random(len(lengths), dtype=np.float32)
    keys *= 2 * noise
    keys += 1 - noise
    np.multiply(keys, lengths, out=keys, casting="unsafe")
    shuffled = np.arange(len(lengths), dtype=np.uint32)
    generator.shuffle(shuffled)
    # Key and place in one number, to be sorted in place; bits of positive floats are in the order of their values.
    keys = keys[shuffled]
    both = keys.view(np.uint32).astype(np.uint64)
    del keys
    both <<= np.uint64(32)
    both |= np.arange(len(lengths), dtype=np.uint32)
    both.sort()
    places = both.astype(np.uint32)
    del both
    order: np.ndarray = shuffled[places]
    return order


def _smallest_kind(largest: int) -> type[np.integer[Any]]:
    """The plan of ten million rows is to leave room for other things."""
    return np.int32 if largest < 2**31 else np.int64


def _cut(ordered: np.ndarray, *, target: float, budget: int) -> np.ndarray:
    """Bounds of micro-batches: cut where the sum comes nearest to ``target``, never padding beyond ``budget``.

    Each stretch of rows is cut for itself and all of them side by side, a row a step: ten million rows take half a
    second instead of ten. Where a stretch ends a micro-batch may be small.
    """
    num_stretches = -(-len(ordered) // _STRETCH)
    lengths = np.zeros((num_stretches, min(_STRETCH, len(ordered))), dtype=ordered.dtype)
    lengths.ravel()[: len(ordered)] = ordered
    lengths = np.ascontiguousarray(lengths.T)  # (rows of a stretch, stretches)
    is_first = np.zeros(lengths.shape, dtype=bool)
    total, longest, count = (np.zeros(num_stretches, dtype=np.int64) for _ in range(3))
    for i, length in enumerate(lengths):
        widest = np.maximum(longest, length)
        starts = (2 * total + length > 2 * target) | ((count + 1) * widest > budget)  # nearer to the target without it
        starts |= count == 0
        is_first[i] = starts
        total, longest, count = (
            np.where(starts, 0, total) + length,
            np.where(starts, length, widest),
            np.where(starts, 0, count) + 1,
        )
    return np.append(np.flatnonzero(is_first.T.ravel()[: len(ordered)]), len(ordered))


def _widths(bounds: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """The longest row of each micro-batch."""
    return np.maximum.reduceat(ordered, bounds[:-1]) if len(bounds) > 1 else np.zeros(0, dtype=np.int64)


def _even_out(bounds: np.ndarray, ordered: np.ndarray, *, world: int, budget: int) -> np.ndarray:
    """Make the number of micro-batches a multiple of ``world``: split large ones, else merge, else leave rows out."""
    while (len(bounds) - 1) % world and (counts := np.diff(bounds)).max() > 1:
        fullest = int(counts.argmax())
        bounds = np.insert(bounds, fullest + 1, bounds[fullest] + counts[fullest] // 2)
    # only single rows are left: neighbours (of similar length) may share a pass where the budget allows
    while (len(bounds) - 1) % world and len(bounds) - 1 > world:
        counts, widths = np.diff(bounds), _widths(bounds, ordered)
        fits = np.flatnonzero((counts[:-1] + counts[1:]) * np.maximum(widths[:-1], widths[1:]) <= budget)
        if not len(fits):
            break
        bounds = np.delete(bounds, fits[0] + 1)
    return bounds[(len(bounds) - 1) % world :]


def _deal(
    num_micro_batches: int, *, micro_per_rank: int, world: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Groups of ``world`` neighbours, shuffled, dealt out to updates whose sizes differ by one group at most.

    Returns:
        The groups (G, W), and the first group of each update (U + 1,).
    """
    groups = np.arange(num_micro_batches).reshape(-1, world)
    groups = generator.permuted(groups, axis=1)  # or the last rank would always hold the longest rows
    groups = groups[generator.permutation(len(groups))]
    num_updates = max(1, round(len(groups) / micro_per_rank)) if len(groups) else 0
    return groups, np.arange(num_updates + 1) * len(groups) // max(1, num_updates)
