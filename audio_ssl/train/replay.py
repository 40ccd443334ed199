"""Run an update again that was written down because its gradient was not finite, and tell where that begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from audio_ssl.config import FinetuneConfig, PretrainConfig, RunConfig
from audio_ssl.errors import TrainingError
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train.checkpoints import CheckpointFolder, update_of
from audio_ssl.train.distributed import World, joined_world, seed_update
from audio_ssl.train.dumps import Dump, read_dump
from audio_ssl.train.precision import autocast, resolve_precision
from audio_ssl.train.session import Session

NUM_NAMED = 5


def replay(
    build: Callable[[World], Session],
    config: PretrainConfig | FinetuneConfig,
    path: Path,
    *,
    restores: bool,
    console: Console,
) -> None:
    """Run the update of a dump again: the same rows and draws, all ranks' micro-batches one after the other.

    Nothing is written, and the run folder is not locked.

    Args:
        build: as for training.
        config: of the run.
        path: the dump.
        restores: take the weights of the newest checkpoint before the update, or of the oldest where none is left;
            False: those that ``build`` gives.
        console: where to speak.

    Raises:
        TrainingError: the dump is none, or belongs to other data or settings.
        AudioSSLError: for everything else that a user can mend.
    """
    dump = read_dump(path)
    with joined_world(config.run.device) as world:
        if world.size > 1:
            raise TrainingError(
                "--replay must run in one process, which does the work of all ranks; leave torchrun out"
            )
        session = build(world)
        if (session.updates.fingerprint, config.run.seed) != (dump.plan, dump.seed):
            raise TrainingError(
                f"{path} must be replayed with the data, batch sizes and run.seed of its run; these are others. Give "
                f"the settings that the run was made with ({config.run.dir / 'config.toml'})"
            )
        origin = _take_weights(session, config.run, world, before=dump.update) if restores else "those given"
        ranks = f"{dump.ranks} rank{'s' * (dump.ranks > 1)}"
        console.print(f"update {dump.update}, pass {dump.epoch} over the data, {ranks}; weights: {origin}")
        _tell_broken_weights(session.task.module, console)
        precision = resolve_precision(config.run.precision, world.device)
        for rank in range(dump.ranks):
            _Again(session, dump, world, precision, console).run(rank)
        _tell_norm(session.task.module, console)


def _take_weights(session: Session, run: RunConfig, world: World, *, before: int) -> str:
    """Load the newest checkpoint before an update, else the oldest that is left; says which."""
    folder = CheckpointFolder(run, world)
    names = folder.names()
    if not names:
        return f"fresh ones, for {folder.folder} holds no checkpoint"
    last = before - 1 if folder.names(not_after=before - 1) else update_of(names[0])
    found = folder.restore(replace(session.task, extras={}), not_after=last)
    lag = before - 1 - found.update
    how = f"{abs(lag)} updates {'older' if lag > 0 else 'newer'} than it had" if lag else "as it had them"
    return f"of update {found.update}, {how}"


def _tell_broken_weights(module: nn.Module, console: Console) -> None:
    broken = [name for name, weight in module.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        more = f" and {len(broken) - NUM_NAMED} more" if len(broken) > NUM_NAMED else ""
        console.print(f"weights that are not finite: {', '.join(broken[:NUM_NAMED])}{more}", style="red")


def _tell_norm(module: nn.Module, console: Console) -> None:
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack([g.float().norm() for g in grads]))) if grads else 0.0
    if math.isfinite(norm):
        console.print(
            f"every number is finite (norm of the summed gradient: {norm:.4g}): with these weights nothing is wrong "
            "with these rows. Weights of an earlier update may hide it: look at the run's grad_norm before the update, "
            "lower optim.lr"
        )


@dataclass(frozen=True)
class _Again:
    """The micro-batches of a dump; gradients add up over them as they did."""

    session: Session
    dump: Dump
    world: World
    precision: str
    console: Console

    def run(self, rank: int) -> None:
        """Those of one rank, in turn."""
        dump, module = self.dump, self.session.task.module.train()
        updates = self.session.updates.as_rank(rank, dump.ranks)
        updates.take_parts(dump.epoch, dump.parts, order=dump.rollbacks)
        batches = next(iter(updates.epoch(dump.epoch, dump.update_in_epoch)))
        found = [list(batch.rows) for batch in batches]
        if found != dump.rows[rank]:
            raise TrainingError(
                f"rank {rank} must have had the rows {dump.rows[rank]}, but the data gives {found}: files have become "
                "readable or unreadable since"
            )
        update = dump.update - 1  # as draws count: updates done before it
        as_it_was = World(rank, dump.ranks, self.world.device)
        seed_update(module, as_it_was, seed=dump.seed, update=update)
        for i, batch in enumerate(batches):
            generator = torch_generator(
                dump.seed, "objective", update, i * dump.ranks + rank, device=self.world.device
            )  # fmt: skip
            names = [f"{row} ({self.session.train_data.manifest[row].id})" for row in batch.rows]
            probe = Probe(module, names)
            with probe.watching(), autocast(self.precision, self.world.device):
                terms = module(batch.to(self.world.device), update=update, generator=generator)
            with probe.watching():
                terms.loss_sum.backward()
            sums = {**terms.sums, "num_targets": terms.num_targets.float()}
            self._tell(f"rank {rank}, micro-batch {i}", batch, sums, probe)

    def _tell(self, place: str, batch: Batch, sums: Mapping[str, Tensor], probe: Probe) -> None:
        figures = ", ".join(f"{k} {v:.4g}" for k, v in self.session.task.summarize(sums).items())
        rows = ", ".join(probe.names[:NUM_NAMED]) + (f" and {len(batch.rows) - NUM_NAMED} more" * (len(batch.rows) > 5))
        self.console.print(f"{place}, rows {rows}: {figures}")
        for what, where in (("number", probe.forward), ("gradient", probe.backward)):
            if where is not None:
                self.console.print(f"  first {what} that is not finite: {where}", style="red")


class Probe:
    """Notes where the first number that is not finite comes up, in a forward pass and in its backward pass.

    Args:
        module: looked at with all its parts.
        names: of the rows of its batch.

    Attributes:
        forward: what holds it; None while all is finite.
        backward: the same of gradients.
    """

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        self.names = names
        self.forward: str | None = None
        self.backward: str | None = None
        self._module = module

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at what goes into and comes out of every part, and at gradients, for the length of the context."""
        handles: list[Any] = []
        for name, part in self._module.named_modules():
            handles.append(part.register_forward_pre_hook(partial(self._goes_in, name), with_kwargs=True))
            handles.append(part.register_forward_hook(partial(self._comes_out, name)))
        for name, weight in self._module.named_parameters():
            if weight.requires_grad:
                handles.append(_hook(weight, partial(self._note_grad, f"that of the weight {name}")))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _goes_in(self, name: str, _part: nn.Module, args: Any, kwargs: Any) -> None:
        # An additive attention mask holds infinities by right.
        self._note_forward(f"what goes into {name or 'the model'}", (args, kwargs), only_nan=True)

    def _comes_out(self, name: str, _part: nn.Module, _args: Any, output: Any) -> None:
        self._note_forward(f"what comes out of {name or 'the model'}", output, only_nan=False)
        for tensor in _tensors(output):
            if tensor.requires_grad:
                _hook(tensor, partial(self._note_grad, f"at what comes out of {name or 'the model'}"))

    def _note_forward(self, what: str, value: Any, *, only_nan: bool) -> None:
        if self.forward is not None:
            return
        for tensor in _tensors(value):
            is_broken = tensor.isnan() if only_nan else ~tensor.isfinite()
            if is_broken.any():
                self.forward = f"{what}{self._rows(is_broken)}"
                return

    def _note_grad(self, what: str, grad: Tensor) -> None:
        if self.backward is None and not grad.isfinite().all():
            self.backward = f"{what}{'' if 'weight' in what else self._rows(~grad.isfinite())}"

    def _rows(self, is_broken: Tensor) -> str:
        """In which rows, where the first dimension goes through the rows one after the other."""
        num_rows = len(self.names)
        if is_broken.ndim == 0 or not len(is_broken) or len(is_broken) % num_rows:
            return ""
        of_rows = is_broken.reshape(num_rows, -1).any(1).tolist()
        if all(of_rows):
            return ", in every row"
        return ", in row " + ", ".join(name for name, is_in in zip(self.names, of_rows, strict=True) if is_in)


def _hook(tensor: Tensor, look: Callable[[Tensor], None]) -> Any:
    return tensor.register_hook(look)  # type: ignore[no-untyped-call]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors of a value: one, or those of a container or a dataclass."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
