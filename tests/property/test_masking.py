import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_ssl.objective.masking import max_masked, sample_span_mask


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 97), min_size=1, max_size=5),
    padding=st.integers(0, 7),
    mask_prob=st.floats(0, 1),
    span=st.integers(1, 23),
    min_masks=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_masks_stay_inside_rows_and_bounds(lengths, padding, mask_prob, span, min_masks, seed):
    width = max(lengths) + padding
    is_masked = sample_span_mask(
        torch.tensor(lengths),
        mask_prob=mask_prob,
        span=span,
        min_masks=min_masks,
        generator=torch.Generator().manual_seed(seed),
        max_frames=width,
    )
    assert is_masked.shape == (len(lengths), width)
    bound = max_masked(width, mask_prob=mask_prob, span=span, min_masks=min_masks)
    for row, length in zip(is_masked, lengths, strict=True):
        masked = int(row.sum())
        assert not row[length:].any()
        assert masked <= bound
        assert masked < length or length == 0  # one frame stays visible
        if mask_prob > 0 and min_masks > 0 and length >= 2:
            assert masked >= min(span, length - 1)
