"""The plan of an epoch: which rows go through which forward pass on which rank. Pure; it reads no audio.

Everything follows from (lengths, settings, seed, epoch, rank, world), so resuming is a slice of the list of updates,
ranks agree without talking, and the number of loader threads changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from audio_ssl.errors import ConfigError
from audio_ssl.rng import numpy_generator

MicroBatch = tuple[int, ...]
Update = tuple[MicroBatch, ...]


@dataclass(frozen=True)
class PlanSettings:
    """Sizes of updates and forward passes, in samples at the model's rate.

    Attributes:
        batch_samples: audio that one update sees, over all ranks and micro-batches; met nearly, see :func:`plan`.
        micro_batch_samples: most samples of one forward pass on one rank, padding included; never exceeded.
        length_noise: rows are bucketed by their length times a random factor in 1 ± this. 0 pads least but shows a
            row the same neighbours in every epoch; 0.05 pads about 3 % and mixes neighbours.
    """

    batch_samples: int
    micro_batch_samples: int
    length_noise: float = 0.05

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be > 0, got {value}"
            for name, value in (
                ("batch_samples", self.batch_samples),
                ("micro_batch_samples", self.micro_batch_samples),
            )
            if value <= 0
        ]
        if not 0 <= self.length_noise < 1:
            faults.append(f"length_noise must be in [0, 1), got {self.length_noise}")
        if faults:
            raise ConfigError("; ".join(faults))


@dataclass(frozen=True)
class Plan:
    """An epoch on one rank.

    Attributes:
        updates: for each update, its micro-batches, each a tuple of row numbers. Every rank has the same number of
            updates, and the same number of micro-batches in each.
        num_rows: rows in the plan over all ranks.
        num_samples: samples of those rows, over all ranks, without padding.
        padding_share: padding as a share of the samples that go through the model, over all ranks.
        num_left_out: rows that no rank sees in this epoch (fewer than the ranks could share).
    """

    updates: tuple[Update, ...]
    num_rows: int
    num_samples: int
    padding_share: float
    num_left_out: int

    def __len__(self) -> int:
        return len(self.updates)


def plan(
    num_samples: np.ndarray, *, settings: PlanSettings, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Plan:
    """Cut an epoch into updates of about ``batch_samples`` each, of rows with similar lengths.

    Rows are sorted by noisy length and cut into micro-batches that aim at ``batch_samples / (world * k)`` samples,
    where k is the fewest micro-batches a rank and update that fit ``micro_batch_samples``. Neighbouring micro-batches
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
    noise = 1 + settings.length_noise * generator.uniform(-1, 1, len(lengths))
    shuffled = generator.permutation(len(lengths))  # so that rows of equal length change neighbours too
    order = shuffled[np.argsort((lengths * noise)[shuffled], kind="stable")]
    micro_per_rank = max(1, -(-settings.batch_samples // (world * settings.micro_batch_samples)))
    target = settings.batch_samples / (world * micro_per_rank)
    cuts = _cut(order, lengths, target=target, budget=settings.micro_batch_samples)
    micro_batches, left_out = _even_out(cuts, lengths, world=world, budget=settings.micro_batch_samples)
    updates = _deal(micro_batches, micro_per_rank=micro_per_rank, world=world, generator=generator)
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in micro_batches)
    seen = sum(int(lengths[rows].sum()) for rows in micro_batches)
    return Plan(
        updates=tuple(tuple(tuple(group[rank].tolist()) for group in update) for update in updates),
        num_rows=len(lengths) - left_out,
        num_samples=seen,
        padding_share=1 - seen / padded if padded else 0.0,
        num_left_out=left_out,
    )


def eval_batches(num_samples: np.ndarray, *, micro_batch_samples: int) -> tuple[MicroBatch, ...]:
    """Every row once, longest first, for validation and extraction; the same for every call.

    A row that is longer than the budget is alone in its batch. Longest first shows at once whether memory suffices.

    Args:
        num_samples: (N,) integer, at the model's rate.
        micro_batch_samples: most samples of a batch, padding included.
    """
    lengths = np.asarray(num_samples, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches: list[MicroBatch] = []
    rows: list[int] = []
    for row in order.tolist():
        if rows and (len(rows) + 1) * lengths[rows[0]] > micro_batch_samples:
            batches.append(tuple(rows))
            rows = []
        rows.append(row)
    return (*batches, tuple(rows)) if rows else tuple(batches)


def _checked(num_samples: np.ndarray, *, settings: PlanSettings, rank: int, world: int) -> np.ndarray:
    lengths = np.asarray(num_samples, dtype=np.int64)
    if not 0 <= rank < world:
        raise ConfigError(f"rank must be in 0 .. world - 1, got rank {rank} of world {world}")
    if len(lengths) and lengths.min() <= 0:
        raise ConfigError(f"every row must have samples, but row {int(lengths.argmin())} has {lengths.min()}")
    if len(lengths) and lengths.max() > settings.micro_batch_samples:
        raise ConfigError(
            f"every row must fit one forward pass of {settings.micro_batch_samples} samples, but row "
            f"{int(lengths.argmax())} has {lengths.max()}: raise data.micro_batch_s or lower data.max_s"
        )
    return lengths


def _cut(order: np.ndarray, lengths: np.ndarray, *, target: float, budget: int) -> list[np.ndarray]:
    """Cut the order where the sum comes nearest to ``target``, never padding beyond ``budget``."""
    ordered = lengths[order].tolist()
    bounds = [0]
    total = longest = count = 0
    for i, length in enumerate(ordered):
        widest = max(longest, length)
        nearer_without = total + length - target > target - total
        if count and (nearer_without or (count + 1) * widest > budget):
            bounds.append(i)
            total = count = 0
            widest = length
        total, longest, count = total + length, widest, count + 1
    return np.split(order, bounds[1:]) if ordered else []


def _even_out(
    micro_batches: list[np.ndarray], lengths: np.ndarray, *, world: int, budget: int
) -> tuple[list[np.ndarray], int]:
    """Make the number of micro-batches a multiple of ``world``: split large ones, else merge, else leave rows out."""
    even = list(micro_batches)
    while len(even) % world and max(map(len, even)) > 1:
        widest = max(range(len(even)), key=lambda i: len(even[i]))
        rows = even[widest]
        even[widest : widest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    # only single rows are left: neighbours (of similar length) may share a pass where the budget allows
    while len(even) % world and len(even) > world:
        pair = next((i for i in range(len(even) - 1) if _fits(even[i], even[i + 1], lengths, budget)), None)
        if pair is None:
            break
        even[pair : pair + 2] = [np.concatenate(even[pair : pair + 2])]
    surplus = len(even) % world
    left_out = sum(len(rows) for rows in even[:surplus])
    return even[surplus:], left_out


def _fits(a: np.ndarray, b: np.ndarray, lengths: np.ndarray, budget: int) -> bool:
    return bool((len(a) + len(b)) * max(lengths[a].max(), lengths[b].max()) <= budget)


def _deal(
    micro_batches: list[np.ndarray], *, micro_per_rank: int, world: int, generator: np.random.Generator
) -> list[list[list[np.ndarray]]]:
    """Groups of ``world`` neighbours, shuffled, dealt out to updates whose sizes differ by one group at most.

    Returns:
        For each update its groups, each with one micro-batch a rank.
    """
    groups = [micro_batches[i : i + world] for i in range(0, len(micro_batches), world)]
    for group in groups:
        generator.shuffle(group)  # or the last rank would always hold the longest rows
    if not groups:
        return []
    shuffled = [groups[i] for i in generator.permutation(len(groups)).tolist()]
    num_updates = max(1, round(len(groups) / micro_per_rank))
    bounds = [round(u * len(groups) / num_updates) for u in range(num_updates + 1)]
    return [shuffled[a:b] for a, b in pairwise(bounds)]
