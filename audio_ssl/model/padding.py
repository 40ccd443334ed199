"""Whether a batch holds padding at all: most steps below are cheaper when it does not."""

from __future__ import annotations

import torch
from torch import Tensor

from audio_ssl.model.kernels import is_traced


def fills_width(lengths: Tensor, width: int, *, is_full: bool | None = None) -> bool:
    """True when every row is known to fill the batch's width, so that no mask is needed.

    Looks at the numbers only where that is free: on an accelerator it would make the host wait, so there the caller
    says it (``is_full``) or the batch is treated as padded, which gives the same result at a little more work.

    Args:
        lengths: (B,) integer, valid positions a row.
        width: columns of the batch.
        is_full: what the caller knows; None when it does not know.
    """
    if is_full is not None:
        return is_full
    return lengths.device.type == "cpu" and not is_traced() and bool((lengths >= width).all())


def blank(x: Tensor, is_padding: Tensor | None) -> Tensor:
    """Zero where ``is_padding`` (None: nowhere) says so."""
    return x if is_padding is None else x.masked_fill(is_padding, 0.0)


def first_frames(x: Tensor, num_frames: int) -> Tensor:
    """``x[:, :num_frames]``.

    In a graph by index: a slice is a view, and whether it takes anything away would become a condition on the length.
    """
    if is_traced():
        return x.index_select(1, torch.arange(num_frames, device=x.device))
    return x[:, :num_frames]
