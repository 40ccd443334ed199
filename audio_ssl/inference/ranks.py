"""This process among those that torchrun, or a scheduler, has started for one extraction. They never talk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from audio_ssl.errors import ConfigError


@dataclass(frozen=True)
class Rank:
    """Which share of the shards is this process's.

    Attributes:
        index: from 0; shard k belongs to rank k modulo ``size``.
        size: number of processes.
        local: index among those of this machine, for the choice of a GPU.
    """

    index: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Rank:
        """Read ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``; without the first two this is the only process.

        Raises:
            ConfigError: one without the other, no whole numbers, or a rank that is none of the world's.
        """
        named = {name: environment.get(name, "").strip() for name in ("RANK", "WORLD_SIZE")}
        if not any(named.values()) or (not named["RANK"] and named["WORLD_SIZE"] == "1"):
            return cls()
        shown = ", ".join(f"{name}={value or 'not set'}" for name, value in named.items())
        if not all(_is_whole(value) for value in named.values()):
            raise ConfigError(
                f"the environment must set both RANK and WORLD_SIZE to whole numbers, or neither, got {shown}; "
                "torchrun sets them (`torchrun --nproc-per-node 2 -m audio_ssl extract ...`), else unset them"
            )
        index, size = int(named["RANK"]), int(named["WORLD_SIZE"])
        if not index < size:
            raise ConfigError(f"RANK must be 0 to WORLD_SIZE - 1, got {shown}")
        local = environment.get("LOCAL_RANK", "").strip() or "0"
        if not _is_whole(local):
            raise ConfigError(f"LOCAL_RANK must be a whole number, got {local!r}")
        return cls(index, size, int(local))

    def device(self, asked: str) -> str:
        """The ``--device`` of this rank: each its own GPU, where ranks share a machine that has some.

        Args:
            asked: as on the command line; one that names a GPU, or the CPU, stays.
        """
        if self.size == 1 or asked not in ("auto", "cuda") or not torch.cuda.is_available():
            return asked
        return f"cuda:{self.local % torch.cuda.device_count()}"


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()
