"""Waveforms of different lengths as one batch, without a copy where they were read into its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from audio_ssl.data.plan import MicroBatch
from audio_ssl.tensors import Batch

Place: TypeAlias = tuple[int, np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Draft:
    """A micro-batch that is being read.

    Attributes:
        entries: its entries (see ``loader.Loader``).
        waveforms: (B, S) float32 that the rows are read into, as wide as the longest is planned to need; None: each
            row brings memory of its own.
    """

    entries: MicroBatch
    waveforms: Tensor | None

    @property
    def places(self) -> list[Place]:
        """Each entry, and the memory that it is read into."""
        memory = [None] * len(self.entries) if self.waveforms is None else list(self.waveforms.numpy())
        return list(zip(self.entries, memory, strict=True))

    def tasks(self, count: int) -> list[list[Place]]:
        """The places in order, in about so many lists: threads that hand over row by row wait for each other."""
        places = self.places
        size = max(1, len(places) // count)
        return [places[i : i + size] for i in range(0, len(places), size)]

    def batch(self, kept: Sequence[tuple[int, np.ndarray]], *, width_multiple: int) -> Batch:
        """The rows that could be read, in order; those of the draft's own memory are not copied where all are.

        Args:
            kept: (row number, (S,) float32) of each row; at least one.
            width_multiple: the batch's width is the next multiple of this many samples.
        """
        own = self.waveforms
        width = padded_width(max(len(waveform) for _, waveform in kept), width_multiple)
        if own is None or own.shape != (len(kept), width) or not _are_rows_of(own, kept):
            return collate(kept, width_multiple=width_multiple)
        return _batch_of(own, kept, is_filled=True)


def collate(rows: Sequence[tuple[int, np.ndarray]], *, width_multiple: int = 1) -> Batch:
    """Waveforms of different lengths as one batch, zero beyond each row's length.

    Args:
        rows: (row number, (S,) float32) of each row; at least one.
        width_multiple: the batch's width is the next multiple of this many samples.
    """
    width = padded_width(max(len(waveform) for _, waveform in rows), width_multiple)
    return _batch_of(torch.empty(len(rows), width), rows, is_filled=False)


def padded_width(num_samples: int, width_multiple: int) -> int:
    """The next multiple."""
    return -(-num_samples // width_multiple) * width_multiple


def _are_rows_of(memory: Tensor, kept: Sequence[tuple[int, np.ndarray]]) -> bool:
    starts = [waveform.__array_interface__["data"][0] for _, waveform in kept]
    step = memory.stride(0) * memory.element_size()
    return starts == [memory.data_ptr() + i * step for i in range(len(kept))]


def _batch_of(memory: Tensor, rows: Sequence[tuple[int, np.ndarray]], *, is_filled: bool) -> Batch:
    lengths = [len(waveform) for _, waveform in rows]
    for place, (_, waveform) in zip(memory.numpy(), rows, strict=True):  # place: (S,)
        if not is_filled:
            place[: len(waveform)] = waveform
        place[len(waveform) :] = 0
    return Batch(
        waveforms=memory,
        num_samples=torch.tensor(lengths),
        rows=tuple(row for row, _ in rows),
        is_full=min(lengths) == memory.shape[1],
    )
