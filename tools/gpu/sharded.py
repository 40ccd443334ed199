"""FSDP2 over one process: the same numbers as the plain module, and no wait of the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed import HashStore  # type: ignore[attr-defined]

from audio_ssl.model.compiling import compile_blocks
from audio_ssl.tensors import Batch
from audio_ssl.train.distributed import World, is_sharded, lay_out
from benchmarks.cases import Case
from gpu.equality import NUM_UPDATES, SAME_DIFFERENCE, batches_of, compare_losses
from gpu.outcome import CheckFailed, Figures
from gpu.place import Place, Trainer, pretrain_module
from gpu.waits import told_waits


def fsdp2(place: Place) -> Figures:
    """FSDP2 over one process gives the losses and weights of the plain module, and no wait."""
    case, batches = batches_of(place)
    plain = Trainer(pretrain_module(case), place)
    expected = plain.losses(batches, NUM_UPDATES)
    with group_of_one(place):
        sharded = _sharded(case, place)
        figures = compare_losses(sharded.losses(batches, NUM_UPDATES), expected, at_most=SAME_DIFFERENCE)
        figures["largest_weight_difference"] = _weights_differ(sharded.module, plain.module)
        place.synchronize()
        with told_waits(place) as waits:
            sharded.update(batches)
        figures["host_waits"] = float(waits.total())
        if waits:
            raise CheckFailed(f"the host must not wait, it does at {', '.join(waits)}", figures)
        if place.is_gpu:
            figures |= _compiled(case, batches, place, expected)
    return figures


def _sharded(case: Case, place: Place, *, compiles: bool = False) -> Trainer:
    """The case's module, sharded.

    Raises:
        CheckFailed: it is not.
    """
    module = pretrain_module(case)
    if compiles:
        compile_blocks(module.encoder)
    lay_out(module, World(0, 1, place.device), "fsdp")
    trainer = Trainer(module, place)
    if not is_sharded(module):
        raise CheckFailed("weights must be sharded where a process group is there, they are not")
    return trainer


def _compiled(case: Case, batches: Sequence[Batch], place: Place, expected: Sequence[float]) -> Figures:
    """Sharded blocks that are compiled: FSDP2's hooks stay outside of the programs."""
    losses = _sharded(case, place, compiles=True).losses(batches, NUM_UPDATES)
    figures = compare_losses(losses, expected, at_most=SAME_DIFFERENCE)
    programs = float(counters["stats"]["unique_graphs"])
    return {"compiled_largest_difference": figures["largest_difference"], "compiled_programs": programs}


@contextmanager
def group_of_one(place: Place) -> Iterator[None]:
    """A process group in which this process is alone."""
    backend, device_id = ("nccl", place.device) if place.is_gpu else ("gloo", None)
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, device_id=device_id)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _weights_differ(found: nn.Module, expected: nn.Module) -> float:
    """The largest difference of a weight."""
    largest, others = 0.0, dict(expected.named_parameters())
    for name, parameter in found.named_parameters():
        whole: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        largest = max(largest, float((whole.detach() - others[name].detach()).abs().max()))
    return largest
