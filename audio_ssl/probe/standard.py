"""Frames as the heads of a probe read them: standardised by the training items, in bfloat16, held where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.probe.items import Frames, Rows

HELD_BYTES = 2**30  # of one part of a fold: an hour of 13 layers of 768 is 3.6 GB, and is read from the disk anew
LEAST_VARIANCE = 1e-12


class Clips(Protocol):
    """Standardised frames of utterances, (T, L, D) bfloat16 each."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Tensor: ...


class Standard:
    """Mean and deviation of each layer and channel over frames, from sums in double precision."""

    def __init__(self) -> None:
        self._count, self._sum, self._square = 0, torch.zeros(()), torch.zeros(())

    def add(self, frames: Tensor) -> None:
        """Take (L, T, D) frames in."""
        self._count += frames.shape[1]
        self._sum = self._sum + frames.double().sum(1)  # (L, T, D) -> (L, D)
        self._square = self._square + frames.double().square().sum(1)

    def apply(self, frames: Tensor) -> Tensor:
        """(L, T, D) -> (T, L, D) bfloat16; a channel that never moved in training is moved to 0 and not stretched."""
        mean = self._sum / self._count
        variance = self._square / self._count - mean.square()
        std = torch.where(variance > LEAST_VARIANCE, variance, 1.0).sqrt()
        return ((frames - mean[:, None]) / std[:, None]).transpose(0, 1).bfloat16().contiguous()


def standard_of(frames: Frames, rows: Rows) -> tuple[Standard, tuple[int, ...]]:
    """The standard of some items, and how many frames each has."""
    standard, num_frames = Standard(), []
    for row in rows.tolist():
        found = frames.of(row)
        standard.add(found)
        num_frames.append(found.shape[1])
    return standard, tuple(num_frames)


class Held:
    """Standardised frames of some items, read when they are asked for, and kept up to :data:`HELD_BYTES`.

    bfloat16, for a head sees them in that anyway, and half the memory holds twice the speech.

    Args:
        frames: of all items.
        rows: the items.
        standard: from the training items.
        kept: of each item, numbers of the frames that are wanted; None for all.
    """

    def __init__(
        self, frames: Frames, rows: Rows, standard: Standard, *, kept: Sequence[NDArray[np.int64]] | None = None
    ) -> None:
        self._frames, self._rows, self._standard, self._kept = frames, rows, standard, kept
        self._held: dict[int, Tensor] = {}
        self._room = HELD_BYTES

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Tensor:
        """(T, L, D) bfloat16."""
        found = self._held.get(number)
        if found is None:
            found = self._standard.apply(self._frames.of(int(self._rows[number])))
            if self._kept is not None:
                found = found[torch.from_numpy(self._kept[number])]
            if found.nbytes <= self._room:
                self._room -= found.nbytes
                self._held[number] = found
        return found
