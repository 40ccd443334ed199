"""Updates whose gradient was not finite, written down so that they can be replayed: ``dumps/`` of the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.checkpoint import write_json
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import TrainingError
from audio_ssl.tensors import Batch
from audio_ssl.train.distributed import World, of_all_ranks
from audio_ssl.train.state import Progress

DUMP_NAME = "update_{:08d}.json"


@dataclass(frozen=True)
class Dump:
    """All that it takes to run an update again: the file's keys.

    Attributes:
        update: its number in the metrics: updates done when it was over.
        epoch: pass over the data.
        update_in_epoch: updates of that pass before it, by these ranks in this order.
        parts: see :class:`~audio_ssl.train.state.Progress`.
        rollbacks: see there; it names the order of the data.
        ranks: that shared the update out.
        seed: the run's.
        plan: names the data and the batch sizes.
        manifests: files that the rows are of, one after the other.
        rows: of each rank, of each of its micro-batches: row numbers.
        ids: their names.
    """

    update: int
    epoch: int
    update_in_epoch: int
    parts: list[list[int]]
    rollbacks: int
    ranks: int
    seed: int
    plan: str
    manifests: list[str]
    rows: list[list[list[int]]]
    ids: list[list[list[str]]]


@dataclass(frozen=True)
class _Noted:
    """An update of the window in hand."""

    place: dict[str, Any]
    rows: list[list[int]]
    is_broken: Tensor


class BrokenUpdates:
    """Remembers the updates of a window until it is known whether each had a finite gradient.

    Args:
        folder: ``dumps/`` of a run; made when it is needed.
        most: files in it.
        manifest: what rows are called.
        manifests: its files.
        seed: the run's.
        world: this rank among its peers; the main one writes.
    """

    def __init__(
        self, folder: Path, *, most: int, manifest: Manifest, manifests: Sequence[Path], seed: int, world: World
    ) -> None:
        self._folder, self._most, self._manifest = folder, most, manifest
        self._manifests, self._seed, self._world = [str(path) for path in manifests], seed, world
        self._noted: list[_Noted] = []

    def note(self, progress: Progress, micro_batches: Sequence[Batch], is_broken: Tensor) -> None:
        """Remember an update that was just done; nothing waits for the device.

        Args:
            progress: after the update.
            micro_batches: of this rank.
            is_broken: () float, not 0 where the gradient was not finite; still on the device.
        """
        place = {
            "update": progress.update, "epoch": progress.epoch, "update_in_epoch": progress.update_in_epoch - 1,
            "parts": [list(part) for part in progress.parts], "rollbacks": progress.rollbacks, "plan": progress.plan,
        }  # fmt: skip
        self._noted.append(_Noted(place, [list(batch.rows) for batch in micro_batches], is_broken.detach()))

    def forget(self) -> None:
        """The window is over and every gradient was finite."""
        self._noted = []

    def write(self) -> list[Path]:
        """The window is over: write down its broken updates, as many as there is room for.

        All ranks must call this together.

        Returns:
            The files; none on ranks that do not write.

        Raises:
            OSError: the folder cannot be written.
        """
        noted, self._noted = self._noted, []
        flags = torch.stack([update.is_broken for update in noted]).tolist() if noted else []
        broken = [update for update, is_broken in zip(noted, flags, strict=True) if is_broken]
        there = len(list(self._folder.glob("update_*.json")))
        of_ranks = of_all_ranks([update.rows for update in broken], self._world)
        if not self._world.is_main:
            return []
        written = []
        for i, update in enumerate(broken[: max(0, self._most - there)]):
            rows = [of_rank[i] for of_rank in of_ranks]
            ids = [[[self._manifest[row].id for row in batch] for batch in of_rank] for of_rank in rows]
            dump = Dump(
                **update.place, ranks=self._world.size, seed=self._seed, manifests=self._manifests, rows=rows, ids=ids
            )
            self._folder.mkdir(exist_ok=True)
            written.append(self._folder / DUMP_NAME.format(dump.update))
            write_json(written[-1], asdict(dump))
        return written


def read_dump(path: Path) -> Dump:
    """Read a file of ``dumps/``.

    Raises:
        TrainingError: it is none.
    """
    try:
        dump = Dump(**json.loads(path.read_text(encoding="utf-8")))
        is_one = all(isinstance(n, int) for n in (dump.update, dump.epoch, dump.update_in_epoch, dump.ranks))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"--replay must name a file of a run's dumps/ folder, got {path}: {error}") from error
    if not is_one or dump.ranks != len(dump.rows):
        raise TrainingError(f"--replay must name a file of a run's dumps/ folder, got {path}, which is none")
    return dump
