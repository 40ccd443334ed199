"""Planned micro-batches to loaded ones: joins the pure plan and the loader for the loop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

from audio_ssl.config import DataConfig
from audio_ssl.data.plan import Plan, PlanSettings, plan
from audio_ssl.errors import TrainingError
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
    """

    def __init__(self, data: TrainingData, *, settings: PlanSettings, seed: int, world: World) -> None:
        self._data = data
        self._settings = settings
        self._seed = seed
        self._world = world

    def plan(self, epoch: int) -> Plan:
        """The whole epoch's plan, in row numbers of the training data.

        Raises:
            TrainingError: the data does not give every rank a row.
        """
        made = plan(
            self._data.num_samples,
            settings=self._settings,
            seed=self._seed,
            epoch=epoch,
            rank=self._world.rank,
            world=self._world.size,
        )
        if not made.updates:
            raise TrainingError(
                f"data.train must hold at least one usable utterance for each of {self._world.size} ranks; "
                "it does not. Use more audio, fewer ranks, or lower data.min_s"
            )
        return made

    @property
    def fingerprint(self) -> str:
        """Names the plan: what ``update_in_epoch`` counts in. Another one means other batches."""
        parts = (
            self._settings,
            self._seed,
            self._world.size,
            self._data.rows.tobytes(),
            self._data.num_samples.tobytes(),
        )
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:
        """The micro-batches of each update, from update ``first`` of the epoch on."""
        updates = self.plan(epoch).updates[first:]
        planned = [self._data.manifest_rows(batch) for update in updates for batch in update]
        batches = self._data.loader.batches(planned, epoch=epoch)
        is_pinned = self._world.device.type == "cuda"  # a transfer from page-locked memory does not wait
        try:
            for update in updates:
                loaded = islice(batches, len(update))
                yield tuple(batch.pin_memory() if is_pinned else batch for batch in loaded)
        finally:
            batches.close()


def open_updates(data: TrainingData, config: DataConfig, *, seed: int, world: World) -> Updates:
    """The updates of ``data`` under the budgets of ``config``, which are seconds of audio."""
    settings = PlanSettings(
        batch_samples=round(config.batch_s * data.sample_rate_hz),
        micro_batch_samples=round(config.micro_batch_s * data.sample_rate_hz),
    )
    return Updates(data, settings=settings, seed=seed, world=world)
