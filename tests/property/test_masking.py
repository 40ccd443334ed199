import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_ssl.objective.masking import num_masked, sample_span_mask, sample_whole_spans


@settings(max_examples=150)
@given(
    lengths=st.lists(st.integers(0, 97), min_size=1, max_size=5),
    padding=st.integers(0, 7),
    mask_prob=st.floats(0, 1),
    span=st.integers(1, 23),
    min_masks=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_masks_stay_inside_rows_and_have_their_number(lengths, padding, mask_prob, span, min_masks, seed):
    counted = {"mask_prob": mask_prob, "span": span, "min_masks": min_masks}
    width, num_frames = max(lengths) + padding, torch.tensor(lengths)
    is_masked = sample_span_mask(num_frames, **counted, generator=torch.Generator().manual_seed(seed), max_frames=width)
    assert is_masked.shape == (len(lengths), width)
    assert is_masked.sum(1).tolist() == num_masked(num_frames, **counted).tolist()
    assert is_masked.sum(1).tolist() == [num_masked(length, **counted) for length in lengths]
    for row, length in zip(is_masked, lengths, strict=True):
        assert not row[length:].any()
        assert int(row.sum()) < max(length, 1)  # one frame stays visible
        if mask_prob > 0 and min_masks > 0:
            assert int(row.sum()) >= min(1, length - 1)


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(0, 97), min_size=1, max_size=5),
    mask_prob=st.floats(0, 1),
    span=st.integers(1, 23),
    seed=st.integers(0, 2**32),
)
def test_whole_spans_stay_inside_rows(lengths, mask_prob, span, seed):
    generator, width = torch.Generator().manual_seed(seed), max(lengths) + 3
    is_masked = sample_whole_spans(
        torch.tensor(lengths), mask_prob=mask_prob, span=span, generator=generator, max_frames=width
    )
    for row, length in zip(is_masked.tolist(), lengths, strict=True):
        runs = [len(run) for run in "".join("x" if value else " " for value in row).split()]
        assert not any(row[length:])
        assert sum(row) < max(length, 1)
        assert all(run >= min(span, length - 1) for run in runs)
