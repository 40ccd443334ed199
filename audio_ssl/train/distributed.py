"""Ranks, collectives, the process group, and how a module's weights lie over it.

Only this file and its two parts, ``peers.py`` (who is alive) and ``sharded_state.py`` (tensors of all ranks to disk and
back), know that there may be more than one process. A run started by ``torchrun`` reads its place from the
environment; any other run is a world of one, and every function here is then a no-op.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from audio_ssl.errors import TrainingError
from audio_ssl.model.transformer import ContextNetwork
from audio_ssl.rng import derive_seed, torch_generator
from audio_ssl.tensors import LossTerms
from audio_ssl.train.peers import Peers

Layout = Literal["ddp", "fsdp"]
Item = TypeVar("Item")
# A collective that waits longer has lost a peer: NCCL then ends the process. Validation and checkpoints are in it.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        rank: 0 is the one that writes and speaks.
        size: number of processes.
        device: where this process computes.
        side_group: a process group on the CPU for a thread of its own (writing checkpoints); None in a world of one.
    """

    rank: int
    size: int
    device: torch.device
    side_group: Any = None

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

    While the context lasts every rank watches the others (:class:`audio_ssl.train.peers.Peers`): one that ends is
    named by all, and none waits for it.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: CUDA is asked for and there is none; or a peer ended, with its name and what it said.
    """
    chosen = _choose_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, chosen)
        return
    store, rank, size = next(iter(rendezvous("env://")))
    is_cuda = chosen.type == "cuda"
    dist.init_process_group(
        backend="nccl" if is_cuda else "gloo", store=store, rank=rank, world_size=size,
        timeout=COLLECTIVE_TIMEOUT, device_id=chosen if is_cuda else None,
    )  # fmt: skip
    try:
        with Peers(store, rank=rank, size=size).watched():
            world = World(rank, size, chosen, dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))
            yield world
            barrier(world)  # the store may be with a rank that is done
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


def of_main(value: Any, world: World) -> Any:
    """The main rank's ``value`` (plain data), on every rank."""
    if world.size == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, group=world.side_group)
    return shared[0]


def of_all_ranks(value: Any, world: World) -> list[Any]:
    """``value`` (plain data) of each rank, on every rank."""
    if world.size == 1:
        return [value]
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, value, group=world.side_group)
    return found


def shared_out(items: Sequence[Item], module: nn.Module, world: World) -> Sequence[Item]:
    """This rank's share of work that ``module`` is to do; all of it where ranks must call a sharded module together."""
    return items if world.size == 1 or is_sharded(module) else items[world.rank :: world.size]


def of_all(value: Item, module: nn.Module, world: World) -> list[Item]:
    """What every rank made of its share (:func:`shared_out`) as plain data on the CPU, in the order of ranks."""
    return [value] if world.size == 1 or is_sharded(module) else of_all_ranks(value, world)


def barrier(world: World) -> None:
    """Wait until every rank is here."""
    if world.size > 1:
        dist.barrier()


def lay_out(module: nn.Module, world: World, layout: Layout) -> nn.Module:
    """Move a module to this rank's device and, for ``fsdp``, keep only this rank's share of each weight there.

    To be called before the optimizer is made, since sharding replaces the parameters. Each transformer block is a unit
    that is gathered for its own forward and backward; what remains is the outermost unit. Weights are gathered in
    their own precision, so that FSDP2 computes what DDP computes.

    Args:
        module: with equal weights on all ranks.
        world: this rank and its peers; a world of one with ``fsdp`` shards over itself where a process group is there.
        layout: ``ddp`` keeps all weights on every rank, ``fsdp`` (fully sharded) a share.

    Returns:
        ``module`` itself.
    """
    module.to(world.device)
    if layout == "fsdp" and dist.is_initialized():
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.export import register_dataclass
        from torch.utils._pytree import SUPPORTED_NODES

        mesh = init_device_mesh(world.device.type, (world.size,))
        if LossTerms not in SUPPORTED_NODES:  # FSDP2 finds its way back from the tensors of what a module returns
            register_dataclass(LossTerms)
        for network in _context_networks(module):
            for block in network.blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
    return module


def is_sharded(module: nn.Module) -> bool:
    """Whether :func:`lay_out` left a share of each weight here, of all or of a part of ``module``."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in module.modules())


def data_parallel(module: nn.Module, world: World) -> nn.Module:
    """The module whose backward averages gradients over the ranks; the module itself in a world of one or sharded.

    Layer drop and freezing leave parameters without a gradient, so unused ones are looked for.
    """
    if world.size == 1 or is_sharded(module):
        return module
    devices = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)


def deferred_sync(module: nn.Module, *, defer: bool) -> AbstractContextManager[None]:
    """Context in which backward keeps its gradients local (all micro-batches of an update but the last).

    A sharded module adds each micro-batch's gradients to its share at once: to keep them whole would cost the memory
    that sharding saves.
    """
    if defer and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Context in which parts of a sharded module may be called without going through the module itself.

    The blocks gather their own weights; this gathers what is outside of them.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def own_shares(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What of each tensor lies on this rank: the tensor itself unless it is sharded."""
    from torch.distributed.tensor import DTensor

    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """() float32, the norm of all tensors together, sharded ones whole; nothing waits for the device."""
    from torch.distributed.tensor import DTensor

    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(own_shares(tensors))))
    if not isinstance(tensors[0], DTensor):
        return norm
    square: Tensor = norm.square()
    dist.all_reduce(square, group=tensors[0].device_mesh.get_group())
    return square.sqrt()


def seed_update(module: nn.Module, world: World, *, seed: int, update: int) -> None:
    """Name an update's draws of dropout and layer drop, so that a resumed run draws the same.

    Dropout differs between ranks. The choice of blocks does not: ranks that gather a sharded block must do so together
    (and a block that no rank runs costs nothing).
    """
    torch.manual_seed(derive_seed(seed, "dropout", update, world.rank))
    for network in _context_networks(module):
        network.block_choice = torch_generator(seed, "layer_drop", update)


def _context_networks(module: nn.Module) -> list[ContextNetwork]:
    return [part for part in module.modules() if isinstance(part, ContextNetwork)]


def _choose_device(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("run.device must be a device that this machine has, got 'cuda' and no CUDA device is found")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
