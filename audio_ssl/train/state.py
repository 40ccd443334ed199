"""Everything that must survive a crash.

Random draws are named by update (:mod:`audio_ssl.rng`) and the data order is a pure function of the epoch, so the
whole state is: weights, optimizer moments, two counters of place, and the best metric so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from audio_ssl.checkpoint import with_prefix
from audio_ssl.errors import CheckpointError
from audio_ssl.train.optim import refuse_other_moments


@dataclass
class Progress:
    """Where a run is. The only mutable record of the loop.

    Attributes:
        update: optimizer updates done.
        epoch: pass over the data that the next update belongs to.
        update_in_epoch: updates of that pass already done.
        audio_s: seconds of real audio heard so far, over all ranks.
        best: best validation metric so far (lower is better), None before the first validation.
        best_update: the update that it was measured after.
        probed: update of the last probe, -1 before the first.
        owes_validation: a signal came between the last update and its validation.
        skipped_in_a_row: updates up to this one that were skipped for a gradient that is not finite.
        plan: names the plan that ``update_in_epoch`` counts in; another plan starts a new epoch.
        ranks: that the updates of this epoch are shared out to.
        parts: of this epoch, done by other numbers of ranks or in another order before: (ranks, updates, order);
            ``update_in_epoch`` counts in what they have left.
        rollbacks: times that the run went back to a checkpoint; it names the order of the data from there on.
        stale_validations: in a row that did not improve on ``best``.
        counts: what the guards count, by name.
        losses: means over the last windows that were no spikes, the newest last.
        fitted_to: the length that ``fitted_updates`` was fitted to (:mod:`audio_ssl.train.budget`), "" for none.
        fitted_updates: the run's length in updates, where it was given as another length.
    """

    update: int = 0
    epoch: int = 0
    update_in_epoch: int = 0
    audio_s: float = 0.0
    best: float | None = None
    best_update: int | None = None
    probed: int = -1
    owes_validation: bool = False
    skipped_in_a_row: int = 0
    plan: str = ""
    ranks: int = 1
    parts: list[tuple[int, ...]] = field(default_factory=list)
    rollbacks: int = 0
    stale_validations: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    fitted_to: str = ""
    fitted_updates: int = 0

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


class Stateful(Protocol):
    """Something beside weights and optimizer that a resumed run needs as it was."""

    def tensors(self) -> dict[str, Tensor]:
        """What to keep, by name; sharded as the weights are where it belongs to them."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`tensors` gave, with the same names, shapes and shares."""


class Resumable(Protocol):
    """What of a task is in a checkpoint; see :class:`audio_ssl.train.loop.Task`."""

    @property
    def module(self) -> nn.Module:
        """Its weights are the checkpoint's model."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its state is kept by the names of the weights."""

    @property
    def document(self) -> Mapping[str, Any]:
        """The sections of ``config.toml``."""

    @property
    def extras(self) -> Mapping[str, Stateful]:
        """What else must come back as it was, by name."""


def state_tensors(task: Resumable) -> dict[str, Tensor]:
    """Everything but the weights: ``optimizer/WEIGHT/FIELD`` and ``EXTRA/NAME``."""
    tensors = {
        f"optimizer/{name}/{field}": value
        for name, parameter in task.module.named_parameters()
        for field, value in task.optimizer.state.get(parameter, {}).items()
    }
    for kind, extra in task.extras.items():
        tensors.update({f"{kind}/{name}": value for name, value in extra.tensors().items()})
    return tensors


def empty_state(task: Resumable) -> Callable[[str, torch.Size, torch.dtype], Tensor]:
    """A function that makes, for a name of :func:`state_tensors`, an empty tensor laid out as this run needs it."""
    weights = dict(task.module.named_parameters())
    extras = {f"{kind}/{name}": t for kind, extra in task.extras.items() for name, t in extra.tensors().items()}

    def make(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        kind, _, rest = name.partition("/")
        model = weights.get(rest.rpartition("/")[0]) if kind == "optimizer" else extras.get(name)
        if model is None or model.shape != shape:  # a counter of steps, or something that this run does not have
            return torch.empty(shape, dtype=dtype)
        return torch.empty_like(model, dtype=dtype, requires_grad=False)

    return make


def load_state_tensors(task: Resumable, tensors: Mapping[str, Tensor]) -> None:
    """Give optimizer and extras back what :func:`state_tensors` gave.

    Raises:
        CheckpointError: a tensor has no place in this run, its optimizer is another, or one of this run's extras is not
            there.
    """
    weights = dict(task.module.named_parameters())
    known = {id(p) for group in task.optimizer.param_groups for p in group["params"]}
    for name, value in with_prefix(tensors, "optimizer/").items():
        weight, _, field = name.rpartition("/")
        parameter = weights.get(weight)
        if parameter is None or id(parameter) not in known:
            raise CheckpointError(f"optimizer state of {weight} has no parameter in this run; use --init-from instead")
        on_device = parameter.is_cuda or value.dim() > 0
        task.optimizer.state[parameter][field] = value.to(parameter.device) if on_device else value
    refuse_other_moments(task.optimizer)
    for kind, extra in task.extras.items():
        found = with_prefix(tensors, f"{kind}/")
        if found.keys() != extra.tensors().keys():
            raise CheckpointError(
                f"the checkpoint must hold `{kind}` as this run has it: it was made without, or with another setting; "
                "give the old settings back, or start a new run.dir with --init-from"
            )
        extra.load_tensors(found)
