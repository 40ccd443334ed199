"""Span masks over frames and over channels: vectorised, seeded, and without a host read of device values.

Pre-training masks a number of frames that follows from a row's length alone (:func:`num_masked`), so that a batch has
a known shape; fine-tuning masks whole spans, as many as fairseq's random rounding says.

Reference: wav2vec 2.0 (2006.11477) section 3.2 and appendix on masking; span counts with fairseq's random rounding.
This module knows lengths and generators only, no model and no audio.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.objective.draws import uniform
from audio_ssl.tensors import is_valid_mask


@overload
def num_masked(num_frames: int, *, mask_prob: float, span: int, min_masks: int) -> int: ...
@overload
def num_masked(num_frames: Tensor, *, mask_prob: float, span: int, min_masks: int) -> Tensor: ...
def num_masked(num_frames: int | Tensor, *, mask_prob: float, span: int, min_masks: int) -> int | Tensor:
    """Frames that pre-training masks in a row of T: what T frames hold on average once spans have overlapped.

    With ``s = max(min_masks, mask_prob * T / span)`` starts that is ``T * (1 - (1 - s / T) ** span)``, rounded; .49 T
    for p = .65 and spans of 10 (2006.11477, appendix). One frame at least stays visible, and none is masked in a row
    of fewer than 2 or where ``mask_prob`` is 0. Never falls as T grows, and neither do the frames left visible.

    Args:
        num_frames: T, an integer or integers of any shape on any device; the same T gives the same number.
        mask_prob: p.
        span: frames a span.
        min_masks: spans a row at least, where they fit.

    Returns:
        An integer, or int64 of the shape of ``num_frames``.
    """
    if isinstance(num_frames, int):
        on_host = torch.tensor(num_frames, device="cpu")
        return int(num_masked(on_host, mask_prob=mask_prob, span=span, min_masks=min_masks))
    if mask_prob == 0:
        return torch.zeros_like(num_frames, dtype=torch.int64)
    length = num_frames.double()
    start_rate = (min_masks / length.clamp(min=1)).clamp(min=mask_prob / span, max=1.0)
    expected = length * (1 - (1 - start_rate) ** span)
    # Halves go down by a margin above rounding: the last bit of a power differs between devices.
    rounded = (expected + (0.5 - 1e-6)).floor().long()
    return rounded.minimum(num_frames.long() - 1).clamp(min=0)


def sample_span_mask(
    num_frames: Tensor,
    *,
    mask_prob: float,
    span: int,
    min_masks: int,
    generator: torch.Generator,
    max_frames: int,
) -> Tensor:
    """Draw the masks of pre-training: each row for itself, exactly :func:`num_masked` frames in a row.

    Spans come in random order from the places where a whole one fits, and may overlap; frames are masked in that
    order until there are enough, so all spans are whole but the last, which is cut at its end.

    Deviates from the paper and fairseq, where the number of masked frames is random. fairseq then cuts all rows to
    the smallest number in the batch, which fragments the masks of long utterances.

    Args:
        num_frames: (B,) integer, valid frames a row, on the device of the result.
        mask_prob: p; see :func:`num_masked`.
        span: frames a span.
        min_masks: spans a row at least, where they fit.
        generator: on the CPU or on the device of ``num_frames``; drawn from once, whatever the lengths.
        max_frames: columns T of the result, at least the largest of ``num_frames``.

    Returns:
        (B, T) bool ``is_masked``.
    """
    if mask_prob == 0 or max_frames == 0:
        return torch.zeros(num_frames.shape[0], max_frames, dtype=torch.bool, device=num_frames.device)
    counts = num_masked(num_frames, mask_prob=mask_prob, span=span, min_masks=min_masks)
    num_starts = num_frames - counts.clamp(max=span) + 1  # fewer masked frames than a span are one short span
    order = _order_of_spans(num_starts, span=span, generator=generator, max_frames=max_frames)
    return _take_first(order, counts)


def sample_whole_spans(
    num_frames: Tensor, *, mask_prob: float, span: int, generator: torch.Generator, max_frames: int
) -> Tensor:
    """Draw the masks of fine-tuning: whole spans, each row for itself.

    A row of T frames gets ``floor(mask_prob * T / span + u)`` spans, u uniform in [0, 1), whose distinct starts are
    uniform over the places where the whole span fits; spans may overlap. The count is capped at ``(T - 1) // span``,
    so at least one frame of every row stays visible; a row of 2..span frames gets one span of T - 1 frames at most,
    and a row of fewer than 2 frames none. ``mask_prob`` 0 masks nothing.

    Args:
        num_frames: (B,) integer, valid frames a row, on the device of the result.
        mask_prob: p.
        span: frames a span.
        generator: on the CPU or on the device of ``num_frames``; drawn from twice, whatever the lengths.
        max_frames: columns T of the result, at least the largest of ``num_frames``.

    Returns:
        (B, T) bool ``is_masked``.
    """
    if mask_prob == 0 or max_frames == 0:
        return torch.zeros(num_frames.shape[0], max_frames, dtype=torch.bool, device=num_frames.device)
    rounding = uniform((num_frames.shape[0],), generator, device=num_frames.device)
    row_span = (num_frames - 1).clamp(0, span)  # (B,) what fits with one frame left over
    num_spans = (num_frames * (mask_prob / span) + rounding).floor().long()
    num_spans = num_spans.minimum((num_frames - 1) // row_span.clamp(min=1)).clamp(min=0)  # (B,)
    num_starts = num_frames - row_span + 1
    order = _order_of_spans(num_starts, span=span, generator=generator, max_frames=max_frames)
    num_covered = (order < num_spans[:, None]).sum(1)  # in a row of 2..span frames a whole span reaches too far
    return _take_first(order, num_covered.minimum(num_frames - 1))


def sample_channel_mask(
    batch: int,
    dim: int,
    *,
    mask_prob: float,
    span: int,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> Tensor:
    """Draw masks over feature channels for fine-tuning, by the rule of :func:`sample_whole_spans`.

    Args:
        batch: rows B.
        dim: channels D.
        mask_prob: p, as for frames.
        span: channels a span.
        generator: source of the draw.
        device: where the result lives; the generator's device when not given.

    Returns:
        (B, D) bool, True on channels to be set to zero in every frame of the row.
    """
    num_channels = torch.full((batch,), dim, dtype=torch.int64, device=device or generator.device)
    return sample_whole_spans(num_channels, mask_prob=mask_prob, span=span, generator=generator, max_frames=dim)


def _order_of_spans(num_starts: Tensor, *, span: int, generator: torch.Generator, max_frames: int) -> Tensor:
    """Put the spans of each row in random order, and number each frame by the first that covers it: (B,) -> (B, T).

    ``num_starts`` are the places where a span may start; a frame that none covers has the number T.
    """
    keys = uniform((num_starts.shape[0], max_frames), generator, device=num_starts.device)
    is_start = is_valid_mask(num_starts, max_frames)
    order = keys.masked_fill(~is_start, -1.0).argsort(1, descending=True).argsort(1).masked_fill(~is_start, max_frames)
    before = F.pad(order, (span - 1, 0), value=max_frames)
    return before.unfold(1, span, 1).amin(-1)  # (B, T + span - 1) -> (B, T, span) -> (B, T)


def _take_first(order: Tensor, counts: Tensor) -> Tensor:
    """True on the ``counts`` (B,) frames of lowest order (B, T), the earlier one where they are equal."""
    frames = order.argsort(dim=1, stable=True)
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, frames, is_valid_mask(counts, order.shape[1]))
