"""Tensors of all ranks to safetensors files and back, by torch.distributed.checkpoint.

Plain tensors (a world of one, DDP) are written by the main rank into one file; sharded ones (FSDP2) by each rank into
a file of its own, which says in its header where its pieces belong. Reading takes from the files what this rank
needs, so a checkpoint may be resumed with any number of ranks and either layout.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from audio_ssl.checkpoint import save_tensors
from audio_ssl.errors import CheckpointError
from audio_ssl.train.distributed import World

warnings.filterwarnings("ignore", message="TypedStorage is deprecated", module="torch.distributed.checkpoint")
WHOLE_FILE = "whole.safetensors"


def new_stager(device: torch.device) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A function that copies tensors, sharded or not, into host memory that it uses again at the next call.

    The part of ``DefaultStager`` that copies: from torch 2.11 on, the whole of it closes after its first use.
    """
    is_cuda = device.type == "cuda"
    stager = StateDictStager(pin_memory=is_cuda)

    def stage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        staged = stager.stage({k: v.detach() for k, v in tensors.items()}, non_blocking=is_cuda)
        if is_cuda:
            torch.cuda.synchronize(device)
        return cast(dict[str, Tensor], staged)

    return stage


def whole(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Every tensor in full on the main rank, nothing on the others; sharded ones are gathered one after the other."""
    kept = {}
    for name, tensor in tensors.items():
        full = tensor.detach()
        if isinstance(full, DTensor):
            full = full.full_tensor()
            full = full.cpu() if world.is_main else full  # memory for one at a time on the device
        if world.is_main:
            kept[name] = full
    return kept


def like(tensor: Tensor, full: Tensor) -> Tensor:
    """``full``, laid out as ``tensor`` is: on its device, this rank's share of it where it is sharded."""
    if not isinstance(tensor, DTensor):
        return full
    # Every rank has read the whole: nothing is sent.
    return distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)


def save_state(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Write tensors into ``folder``; where any is sharded every rank must call this, from one thread each.

    Raises:
        OSError: a file cannot be written, here or on another rank.
    """
    if not any(isinstance(t, DTensor) for t in tensors.values()):
        if world.is_main:
            save_tensors(folder / WHOLE_FILE, tensors)
        return
    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=world.side_group, no_dist=world.side_group is None)
    except CheckpointException as error:
        raise OSError("; ".join(f"rank {rank}: {fault[0]}" for rank, fault in error.failures.items())) from error


def load_state(folder: Path, make: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
    """Read this rank's share of every tensor of ``folder``.

    Args:
        folder: as :func:`save_state` wrote it.
        make: from a name, the whole tensor's shape and dtype an empty tensor to read into, laid out as wanted.

    Raises:
        CheckpointError: a file is damaged.
    """
    reader = HuggingFaceStorageReader(path=str(folder))
    try:
        known = reader.read_metadata().state_dict_metadata
        tensors = {name: make(name, about.size, about.properties.dtype) for name, about in known.items()}  # type: ignore[union-attr]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is in a world of one
            load(tensors, storage_reader=reader, no_dist=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the libraries make of a damaged file
        raise CheckpointError(
            f"{folder} must hold whole safetensors files, but they cannot be read: {error}"
        ) from error
    return tensors


def read_state(folder: Path) -> dict[str, Tensor]:
    """Every tensor of ``folder`` in full, in host memory.

    Raises:
        CheckpointError: a file is damaged.
    """
    return load_state(folder, lambda _name, shape, dtype: torch.empty(shape, dtype=dtype))
