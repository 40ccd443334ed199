"""Ranks, collectives and the process group: the only file that knows there may be more than one process.

A run started by ``torchrun`` reads its place from the environment; any other run is a world of one, and every
function here is then a no-op.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from audio_ssl.errors import TrainingError


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        rank: 0 is the one that writes and speaks.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the rank that writes files and prints."""
        return self.rank == 0


def processors_of_a_rank() -> int:
    """This process's share of the processors that its machine lets it use, at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the process group that torchrun announces, if any, and leave it at the end.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: CUDA is asked for and there is none.
    """
    chosen = _choose_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, chosen)
        return
    dist.init_process_group(backend="nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()


def all_reduce_sums(sums: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Sum each tensor over the ranks; one collective for all of them."""
    if world.size == 1:
        return dict(sums)
    names = sorted(sums)
    flat = torch.cat([sums[name].reshape(-1).double() for name in names])
    dist.all_reduce(flat)
    parts = flat.split([sums[name].numel() for name in names])  # type: ignore[no-untyped-call]
    return {name: part.view_as(sums[name]).to(sums[name].dtype) for name, part in zip(names, parts, strict=True)}


def of_ranks(value: float, world: World) -> Tensor:
    """(R,) float64, ``value`` at this rank's place and 0 elsewhere: the sum over ranks holds everyone's."""
    values = torch.zeros(world.size, dtype=torch.float64)
    values[world.rank] = value
    return values


def barrier(world: World) -> None:
    """Wait until every rank is here."""
    if world.size > 1:
        dist.barrier()


def data_parallel(module: nn.Module, world: World) -> nn.Module:
    """The module whose backward averages gradients over the ranks; the module itself in a world of one.

    Layer drop and freezing leave parameters without a gradient, so unused ones are looked for.
    """
    if world.size == 1:
        return module
    devices = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)


def deferred_sync(module: nn.Module, *, defer: bool) -> AbstractContextManager[None]:
    """Context in which backward keeps its gradients local (all micro-batches of an update but the last)."""
    if defer and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def _choose_device(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("run.device must be a device that this machine has, got 'cuda' and no CUDA device is found")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
