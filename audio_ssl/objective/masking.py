"""Span masks over frames and over channels: vectorised, seeded, and without a host read of device values.

Reference: wav2vec 2.0 (2006.11477) section 3.2 and appendix on masking; span counts with fairseq's random rounding.
This module knows lengths and generators only, no model and no audio.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audio_ssl.objective.draws import uniform
from audio_ssl.tensors import is_valid_mask


def sample_span_mask(
    num_frames: Tensor,
    *,
    mask_prob: float,
    span: int,
    min_masks: int,
    generator: torch.Generator,
    max_frames: int,
) -> Tensor:
    """Draw span masks, each row for itself.

    A row of T frames gets ``max(min_masks, floor(mask_prob * T / span + u))`` spans, u uniform in [0, 1), whose
    distinct starts are uniform over the places where the whole span fits; spans may overlap. The count is capped at
    ``(T - 1) // span``, so at least one frame of every row stays visible; a row of 2..span frames gets one span of
    T - 1 frames at most, and a row of fewer than 2 frames none. ``mask_prob`` 0 masks nothing.

    Deviates from fairseq, which cuts all rows to the smallest number of masked frames in the batch: that fragments
    the masks of long utterances, and sums (not means) make it needless here.

    Args:
        num_frames: (B,) integer, valid frames a row, on the device of the result.
        mask_prob: p; the masked share is about ``1 - (1 - p / span) ** span``, .49 for p = .65 and spans of 10.
        span: frames a span.
        min_masks: spans a row at least, where they fit.
        generator: on the CPU or on the device of ``num_frames``; drawn from twice, whatever the lengths.
        max_frames: columns T of the result, at least the largest of ``num_frames``.

    Returns:
        (B, T) bool ``is_masked``.
    """
    batch, device = num_frames.shape[0], num_frames.device
    if mask_prob == 0 or max_frames < 2 or batch == 0:
        return torch.zeros(batch, max_frames, dtype=torch.bool, device=device)
    rounding = uniform((batch,), generator, device=device)
    keys = uniform((batch, max_frames), generator, device=device)

    row_span = (num_frames - 1).clamp(0, span)  # (B,) what fits with one frame left over
    num_spans = (num_frames * (mask_prob / span) + rounding).floor().long().clamp(min=min_masks)
    num_spans = num_spans.minimum((num_frames - 1) // row_span.clamp(min=1)).clamp(min=0)  # (B,)

    # The largest keys among the allowed starts are a uniform draw without replacement.
    is_start = is_valid_mask(num_frames - row_span + 1, max_frames)
    most = max_spans(max_frames, mask_prob=mask_prob, span=span, min_masks=min_masks)
    starts = keys.masked_fill(~is_start, -1.0).topk(most, dim=1).indices  # (B, T) -> (B, spans)
    is_used = is_valid_mask(num_spans, most)

    # +1 where a span starts, -1 where it has ended: a running sum above 0 is inside a span.
    steps = torch.zeros(batch, max_frames + 1, dtype=torch.int64, device=device)
    ends = (starts + row_span[:, None]).clamp(max=max_frames)
    steps = steps.scatter_add(1, starts, is_used.long()).scatter_add(1, ends, -is_used.long())
    return steps.cumsum(1)[:, :max_frames] > 0


def max_spans(max_frames: int, *, mask_prob: float, span: int, min_masks: int) -> int:
    """The most spans that :func:`sample_span_mask` can put into a row of ``max_frames`` frames; needs no device."""
    wanted = max(min_masks, int(mask_prob * max_frames / span) + 1)
    return min(wanted, max(1, (max_frames - 1) // span), max_frames)


def max_masked(max_frames: int, *, mask_prob: float, span: int, min_masks: int) -> int:
    """The most frames that :func:`sample_span_mask` can mask in a row of at most ``max_frames`` frames.

    Gives device code a static width to pack masked frames into.
    """
    spans = max_spans(max_frames, mask_prob=mask_prob, span=span, min_masks=min_masks)
    return min(max(max_frames - 1, 0), spans * span)


def sample_channel_mask(
    batch: int,
    dim: int,
    *,
    mask_prob: float,
    span: int,
    generator: torch.Generator,
    min_masks: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Draw masks over feature channels for fine-tuning, by the rule of :func:`sample_span_mask`.

    Args:
        batch: rows B.
        dim: channels D.
        mask_prob: p, as for frames.
        span: channels a span.
        generator: source of the draw.
        min_masks: spans a row at least.
        device: where the result lives; the generator's device when not given.

    Returns:
        (B, D) bool, True on channels to be set to zero in every frame of the row.
    """
    num_channels = torch.full((batch,), dim, dtype=torch.int64, device=device or generator.device)
    return sample_span_mask(
        num_channels, mask_prob=mask_prob, span=span, min_masks=min_masks, generator=generator, max_frames=dim
    )
