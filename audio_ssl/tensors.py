"""The small containers that travel between rooms, and the legend of shapes.

Legend: B batch, S samples, T frames, C conv channels, D model dim, H heads, P masked positions, K distractors,
G codebook groups, V entries a group, A alphabet (CTC symbols with the blank), L label length.

Lengths travel with the data and are the truth; boolean masks derive from them by :func:`is_valid_mask` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def is_valid_mask(lengths: Tensor, max_length: int) -> Tensor:
    """True where a position lies inside its row. The one place where a mask is made from lengths.

    Args:
        lengths: (B,) integer.
        max_length: number of columns.

    Returns:
        (B, max_length) bool.
    """
    return torch.arange(max_length, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True)
class Batch:
    """Waveforms of one micro-batch.

    Attributes:
        waveforms: (B, S) float32, mono at the model's rate, zero beyond each row's length.
        num_samples: (B,) int64, valid samples a row.
        rows: manifest row number of each row of the batch, for names in logs.
        is_full: True when no row is padded, so that masks can be spared; None when nobody looked.
    """

    waveforms: Tensor
    num_samples: Tensor
    rows: tuple[int, ...]
    is_full: bool | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; asynchronous where the source is pinned."""
        return replace(
            self,
            waveforms=self.waveforms.to(device, non_blocking=True),
            num_samples=self.num_samples.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, so that :meth:`to` does not wait."""
        return replace(self, waveforms=self.waveforms.pin_memory(), num_samples=self.num_samples.pin_memory())

    def seconds(self, sample_rate_hz: int) -> float:
        """Seconds of real audio, padding left out; read on the CPU before the batch moves."""
        return int(self.num_samples.sum()) / sample_rate_hz


@dataclass(frozen=True)
class FrameSubset:
    """Some frames of each row, packed to its front.

    Attributes:
        frame_idx: (B, M) int64, frame numbers in rising order; beyond a row's count some other frames of it.
        counts: (B,) int64, chosen frames a row.
    """

    frame_idx: Tensor
    counts: Tensor

    @classmethod
    def of(cls, is_chosen: Tensor, *, max_chosen: int) -> FrameSubset:
        """Pack the frames that a mask chooses.

        Args:
            is_chosen: (B, T) bool.
            max_chosen: M, no less than the chosen frames of any row; known without asking the device.
        """
        order = is_chosen.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        return FrameSubset(order[:, :max_chosen], is_chosen.sum(1))

    def pick(self, frames: Tensor) -> Tensor:
        """Take the chosen frames: (B, T, D) -> (B, M, D).

        Where ``frames`` has fewer rows, each of them stands for as many in turn: several masks of one utterance.
        """
        rows, width = self.frame_idx.shape
        idx = self.frame_idx.reshape(frames.shape[0], -1)  # (B, M) -> (B / N, N * M)
        picked = frames.gather(1, idx[..., None].expand(-1, -1, frames.shape[-1]))
        return picked.view(rows, width, frames.shape[-1])


@dataclass(frozen=True)
class EncoderOutput:
    """Frames of one batch.

    Attributes:
        frames: (B, T, D), output of the context network; rows are zero beyond their length.
        num_frames: (B,) int64, valid frames a row.
        layers: outputs of the transformer blocks when asked for, each (B, T, D): index 0 is the input of block 1
            (after the positional conv), index n the output of block n; repeated to the rate of the frames where
            blocks run at a lower one. None when not asked for.
    """

    frames: Tensor
    num_frames: Tensor
    layers: tuple[Tensor, ...] | None = None

    @property
    def is_valid(self) -> Tensor:
        """(B, T) bool, True on frames that exist."""
        return is_valid_mask(self.num_frames, self.frames.shape[1])


@dataclass(frozen=True)
class LossTerms:
    """What an objective gives back for one micro-batch: sums and counts, never means.

    Attributes:
        loss_sum: () float32, the sum over targets, to be divided by the all-reduced count.
        num_targets: () int64, number of targets in the sum.
        sums: detached float32 tensors that may be added over micro-batches and ranks; the objective's
            ``summarize`` turns their totals into figures for people.
    """

    loss_sum: Tensor
    num_targets: Tensor
    sums: Mapping[str, Tensor]
