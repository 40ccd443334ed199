"""Planned micro-batches to loaded ones: joins the pure plan and the loader for the loop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import islice

import numpy as np

from audio_ssl.config import DataConfig
from audio_ssl.data.mixture import Mixture, open_mixture
from audio_ssl.data.plan import VERSION, Plan, PlanSettings, pass_costs, plan
from audio_ssl.errors import TrainingError
from audio_ssl.rng import derive_seed
from audio_ssl.tensors import Batch
from audio_ssl.train.datasets import TrainingData
from audio_ssl.train.distributed import World


class Updates:
    """The micro-batches of each update of an epoch, for one rank.

    Args:
        data: rows, lengths and loader.
        settings: batch and micro-batch budgets.
        seed: the run's seed.
        world: which share is ours.
        mixture: what each epoch holds; None: every row that takes part, once.
    """

    def __init__(
        self,
        data: TrainingData,
        *,
        settings: PlanSettings,
        seed: int,
        world: World,
        mixture: Mixture | None = None,
    ) -> None:
        self.mixture = mixture
        self._data = data
        self._settings = settings
        self._seed = seed
        self._world = world
        self._rest: dict[int, np.ndarray] = {}  # of an epoch that others have begun
        self._order = 0

    @property
    def num_ranks(self) -> int:
        """That share the updates."""
        return self._world.size

    def as_rank(self, rank: int, num_ranks: int) -> Updates:
        """The same data as another rank of another number sees it, from the first pass on."""
        other = copy(self)
        other._world = World(rank, num_ranks, self._world.device)
        other.take_parts(0, ())
        return other

    def take_parts(self, epoch: int, parts: Sequence[Sequence[int]], *, order: int = 0) -> bool:
        """Leave out what was done of an epoch by other numbers of ranks or in another order.

        Args:
            epoch: the pass that is begun.
            parts: in turn, (ranks, updates, order); no order means 0.
            order: of what is left, and of later epochs; each number is another order.

        Returns:
            Whether each rank has an utterance left.
        """
        self._rest, self._order = {}, order
        if not parts:
            return True
        num_samples, _ = self._entries(epoch)
        left = np.arange(len(num_samples))
        for num_ranks, num_updates, *of_part in parts:
            world = World(0, num_ranks, self._world.device)
            made = self._plan(num_samples[left], epoch=epoch, world=world, order=sum(of_part))
            left = left[made.rows_after(num_updates)]
        self._rest = {epoch: left}
        return len(left) >= self.num_ranks

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch, or of what is left of it.

        Raises:
            TrainingError: the data does not give every rank a row.
        """
        made, _ = self._planned(epoch)
        return made

    def _planned(self, epoch: int) -> tuple[Plan, np.ndarray]:
        """The plan, and the entry for the loader at each of its places."""
        num_samples, entries = self._entries(epoch)
        left = self._rest.get(epoch, slice(None))
        made = self._plan(num_samples[left], epoch=epoch, world=self._world, order=self._order)
        if not made:
            raise TrainingError(
                f"data.train must hold at least one usable utterance for each of {self._world.size} ranks; "
                "it does not. Use more audio, fewer ranks, or lower data.min_s"
            )
        return made, entries[left]

    def _entries(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What an epoch holds: the most samples of each of its entries, and the entries; see :class:`Loader`."""
        data = self._data
        if self.mixture is None:
            return data.num_samples, data.rows
        places, copies = self.mixture.epoch(epoch)
        return data.num_samples[places], copies * len(data.manifest) + data.rows[places]

    def _plan(self, num_samples: np.ndarray, *, epoch: int, world: World, order: int) -> Plan:
        seed = derive_seed(self._seed, "order", order) if order else self._seed
        return plan(
            num_samples,
            settings=self._settings, seed=seed, epoch=epoch, rank=world.rank, world=world.size,
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """Names the plan for any number of ranks. Another one means other batches."""
        name = hashlib.blake2b(repr((VERSION, self._settings, self._seed)).encode(), digest_size=8)
        for values in (self._data.rows, self._data.num_samples):
            name.update(np.ascontiguousarray(values).data)
        if self.mixture is not None:
            name.update(self.mixture.fingerprint)
        return name.hexdigest()

    def groups_by_cost(self, epoch: int) -> list[int]:
        """Groups of the plan (micro-batches that the ranks go through at the same moment), the dearest one last.

        A micro-batch costs its rows times S + S² / ``quadratic_samples`` of its longest: by that of 20 s, which is
        about attention's, where the plan does not count it.
        """
        made, _ = self._planned(epoch)
        num_samples, _ = self._entries(epoch)
        ordered = num_samples[self._rest.get(epoch, slice(None))][made.order]
        widths = np.maximum.reduceat(ordered, made.bounds[:-1])
        quadratic = self._settings.quadratic_samples or 20 * self._data.sample_rate_hz
        costs = np.diff(made.bounds) * pass_costs(widths, quadratic)
        order: list[int] = np.argsort(costs[made.groups].max(axis=1), kind="stable").tolist()
        return order

    def read_groups(self, epoch: int, groups: Sequence[int]) -> tuple[Batch, ...]:
        """This rank's micro-batch of each of these groups of the plan."""
        made, entries = self._planned(epoch)
        places = [made.groups[group, self._world.rank] for group in groups]
        planned = [tuple(entries[made.order[made.bounds[m] : made.bounds[m + 1]]].tolist()) for m in places]
        return tuple(self._pinned(batch) for batch in self._data.loader.batches(planned, epoch=epoch))

    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:
        """The micro-batches of each update, from update ``first`` of the epoch on."""
        made, entries = self._planned(epoch)
        planned = (tuple(entries[list(batch)].tolist()) for update in made.from_update(first) for batch in update)
        batches = self._data.loader.batches(planned, epoch=epoch)
        try:
            for num_micro_batches in np.diff(made.first_group[first:]).tolist():
                loaded = islice(batches, num_micro_batches)
                yield tuple(self._pinned(batch) for batch in loaded)
        finally:
            batches.close()

    def _pinned(self, batch: Batch) -> Batch:
        """On a GPU in page-locked memory: a transfer from there does not wait."""
        return batch.pin_memory() if self._world.device.type == "cuda" else batch


def open_updates(data: TrainingData, config: DataConfig, *, seed: int, world: World) -> Updates:
    """The updates of ``data`` under the budgets of ``config``, which are seconds of audio, and its mixture.

    Raises:
        ConfigError: the mixture does not fit the sources that are there.
    """
    settings = PlanSettings(
        batch_samples=round(config.batch_s * data.sample_rate_hz),
        micro_batch_samples=round(config.micro_batch_s * data.sample_rate_hz),
        quadratic_samples=None if config.quadratic_s is None else round(config.quadratic_s * data.sample_rate_hz),
    )
    mixture = None
    if config.mixture is not None:
        mixture = open_mixture(
            data.manifest, config.mixture, rows=data.rows, num_samples=data.own_samples(), seed=seed
        )  # fmt: skip
    return Updates(data, settings=settings, seed=seed, world=world, mixture=mixture)
