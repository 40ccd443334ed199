"""Everything that must survive a crash, and the run folder's checkpoints.

Random draws are named by update (:mod:`audio_ssl.rng`) and the data order is a pure function of the epoch, so the
whole state is: weights, optimizer moments, two counters of place, and the best metric so far.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audio_ssl.checkpoint import (
    load_strict,
    load_tensors,
    read_document,
    replaced_directory,
    save_model,
    save_tensors,
    write_json,
)
from audio_ssl.errors import CheckpointError

logger = logging.getLogger(__name__)
STEP_NAME = "step_{:08d}"


@dataclass
class Progress:
    """Where a run is. The only mutable record of the loop.

    Attributes:
        update: optimizer updates done.
        epoch: pass over the data that the next update belongs to.
        update_in_epoch: updates of that pass already done.
        audio_s: seconds of real audio heard so far, over all ranks.
        best: best validation metric so far (lower is better), None before the first validation.
        skipped_in_a_row: updates up to this one that were skipped for a gradient that is not finite.
        plan: names the plan that ``update_in_epoch`` counts in; another plan starts a new epoch.
        ranks: that the updates of this epoch are shared out to.
        parts: of this epoch, done by other numbers of ranks or in another order before: (ranks, updates, order);
            ``update_in_epoch`` counts in what they have left.
        rollbacks: times that the run went back to a checkpoint; it names the order of the data from there on.
        stale_validations: in a row that did not improve on ``best``.
        counts: what the guards count, by name.
        losses: means over the last windows that were no spikes, the newest last.
    """

    update: int = 0
    epoch: int = 0
    update_in_epoch: int = 0
    audio_s: float = 0.0
    best: float | None = None
    skipped_in_a_row: int = 0
    plan: str = ""
    ranks: int = 1
    parts: list[tuple[int, ...]] = field(default_factory=list)
    rollbacks: int = 0
    stale_validations: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def start_epoch(self) -> None:
        """Go on to the next pass over the data."""
        self.epoch, self.update_in_epoch, self.parts = self.epoch + 1, 0, []

    def leave_part(self) -> None:
        """What is left of this pass over the data will be dealt out anew."""
        if self.update_in_epoch:
            self.parts = [*self.parts, (self.ranks, self.update_in_epoch, self.rollbacks)]
            self.update_in_epoch = 0

    def is_out_of_patience(self, patience: int | None) -> bool:
        """Whether so many validations in a row did not improve on the best; never for None."""
        return patience is not None and self.stale_validations >= patience


class CheckpointFolder:
    """The ``checkpoints/`` of a run: written whole, the last ``keep_last`` and the best are kept.

    Args:
        run_dir: the run's folder.
        keep_last: how many of the newest to keep.
    """

    def __init__(self, run_dir: Path, *, keep_last: int) -> None:
        self.folder = run_dir / "checkpoints"
        self.keep_last = keep_last

    def names(self, *, not_after: int | None = None) -> list[str]:
        """Names of the checkpoints, oldest first; of those at or before an update where one is given."""
        names = sorted(p.name for p in self.folder.glob("step_*") if p.is_dir())
        return names if not_after is None else [name for name in names if name <= STEP_NAME.format(not_after)]

    def forget_after(self, update: int) -> None:
        """Remove the checkpoints after ``update``: the run went back to it."""
        for name in self.names()[len(self.names(not_after=update)) :]:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def save(
        self,
        progress: Progress,
        *,
        document: Mapping[str, Any],
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        is_best: bool,
    ) -> Path:
        """Write a checkpoint and forget those that are neither recent nor best.

        Raises:
            CheckpointError: it cannot be written; earlier ones are intact.
        """
        name = STEP_NAME.format(progress.update)
        place = self.folder / name
        with replaced_directory(place) as draft:
            save_model(draft, document=document, tensors=module.state_dict())
            (draft / "state").mkdir()
            save_tensors(draft / "state" / "optimizer.safetensors", _optimizer_tensors(module, optimizer))
            write_json(draft / "state" / "progress.json", asdict(progress))
        pointer = {"name": name, "update": progress.update, "metric": progress.best}
        try:
            if is_best:
                write_json(self.folder / "best.json", pointer)
            write_json(self.folder / "latest.json", pointer)
        except OSError as error:
            raise CheckpointError(f"{self.folder} must be writable with room to spare: {error}") from error
        self._prune(newest=name)
        return place

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        document: Mapping[str, Any],
        not_after: int | None = None,
    ) -> Progress:
        """Load the newest whole checkpoint, of those at or before an update where one is given.

        A damaged one is named and the one before is used.

        Raises:
            CheckpointError: none is whole, or the newest belongs to another model.
        """
        faults = []
        for name in reversed(self.names(not_after=not_after)):
            place = self.folder / name
            try:
                tensors = load_tensors(place / "model.safetensors")
                moments = load_tensors(place / "state" / "optimizer.safetensors")
                progress = Progress(**json.loads((place / "state" / "progress.json").read_text(encoding="utf-8")))
            except (CheckpointError, OSError, ValueError, TypeError) as error:
                faults.append(f"{place}: {error}")
                logger.warning("checkpoint %s is damaged and passed over: %s", place, error)
                continue
            _check_same_model(read_document(place), document, place)
            load_strict(module, tensors, source=place)
            _load_optimizer(module, optimizer, moments)
            return progress
        raise CheckpointError("no checkpoint of this run can be read:\n" + "\n".join(f"  - {f}" for f in faults))

    def best(self) -> Path | None:
        """The best checkpoint, else the newest, else None."""
        names = self.names()
        try:
            name = json.loads((self.folder / "best.json").read_text(encoding="utf-8"))["name"]
        except (OSError, ValueError, KeyError, TypeError):
            name = None  # no validation yet, or half of a dead run
        if name in names:
            return self.folder / str(name)
        return self.folder / names[-1] if names else None

    def _prune(self, *, newest: str) -> None:
        best = self.best()
        # Later ones were passed over as damaged when this run resumed before them: they do not count.
        for name in [n for n in self.names() if n <= newest][: -self.keep_last]:
            if best is None or name != best.name:
                shutil.rmtree(self.folder / name, ignore_errors=True)


def _optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for key, value in tensors.items():
        name, field = key.rsplit("/", 1)
        parameter = parameters.get(name)
        if parameter is None or id(parameter) not in known:
            raise CheckpointError(f"optimizer state of {name} has no parameter in this run; use --init-from instead")
        device = parameter.device if field != "step" or parameter.is_cuda else value.device
        optimizer.state[parameter][field] = value.to(device)


def _check_same_model(found: Mapping[str, Any], wanted: Mapping[str, Any], place: Path) -> None:
    """Refuse to resume into another shape; dotted names of what differs."""
    differing: list[str] = []

    def compare(a: Any, b: Any, name: str) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(a.keys() | b.keys()):
                compare(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        elif _plain(a) != _plain(b):
            differing.append(f"{name} (checkpoint: {a!r}, now: {b!r})")

    compare({k: v for k, v in found.items() if k != "format_version"}, dict(wanted), "")
    if differing:
        raise CheckpointError(
            f"{place} can be resumed only with the settings it was made with; these differ: {'; '.join(differing)}. "
            "Give the old settings back, or start a new run.dir with --init-from"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
