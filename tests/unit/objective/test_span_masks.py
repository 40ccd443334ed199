import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from audio_ssl.objective.masking import num_masked, sample_channel_mask, sample_span_mask, sample_whole_spans

PAPER = {"mask_prob": 0.65, "span": 10, "min_masks": 2}


def runs_of(row: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    text = "".join("x" if value else " " for value in row.tolist())
    return [len(run) for run in text.split()]


def draw(num_frames, generator, *, max_frames=None, **settings):
    num_frames = torch.as_tensor(num_frames)
    return sample_span_mask(
        num_frames, generator=generator, max_frames=max_frames or int(num_frames.max()), **{**PAPER, **settings}
    )


def draw_whole(num_frames, generator, *, mask_prob, span, max_frames=None):
    num_frames = torch.as_tensor(num_frames)
    width = max_frames or int(num_frames.max())
    return sample_whole_spans(num_frames, mask_prob=mask_prob, span=span, generator=generator, max_frames=width)


# The number of masked frames


@pytest.mark.parametrize(
    ("num_frames", "settings", "expected"),
    [
        (499, {}, 244),  # 499 * (1 - .935 ** 10) = 499 * .48936 = 244.19
        (780, {}, 382),  # 780 * .48936 = 381.70
        (23, {}, 14),  # two starts at least: 23 * (1 - (21 / 23) ** 10) = 13.74
        (7, {}, 6),  # 7 * (1 - (5 / 7) ** 10) = 6.76 is 7, but one stays visible
        (2, {}, 1),
        (1, {}, 0),
        (0, {}, 0),
        (499, {"mask_prob": 0.0}, 0),
        (5, {"min_masks": 0}, 2),  # 5 * .48936 = 2.45
        (41, {"mask_prob": 0.01, "span": 5}, 9),  # 41 * (1 - (39 / 41) ** 5) = 9.08
        (7, {"mask_prob": 0.5, "span": 1, "min_masks": 0}, 3),  # 3.5: halves go down
        (13, {"mask_prob": 1.0, "span": 1, "min_masks": 0}, 12),
        (3, {"min_masks": 11}, 2),  # more spans than places
    ],
)
def test_number_of_masked_frames_by_hand(num_frames, settings, expected):
    assert num_masked(num_frames, **{**PAPER, **settings}) == expected


@pytest.mark.parametrize("span", [1, 2, 3, 10, 17])
@pytest.mark.parametrize(("mask_prob", "min_masks"), [(0.65, 2), (0.5, 0), (1.0, 1), (0.03, 5)])
def test_number_is_the_exact_expectation_and_never_falls(mask_prob, span, min_masks):
    """Against fractions; neither masked nor visible frames become fewer as rows grow."""
    settings = {"mask_prob": mask_prob, "span": span, "min_masks": min_masks}
    found = [num_masked(length, **settings) for length in range(200)]
    for length in range(2, 200):
        starts = max(Fraction(min_masks), Fraction(str(mask_prob)) * length / span)
        share = 1 - (1 - min(Fraction(1), starts / length)) ** span
        assert found[length] == min(length - 1, math.ceil(length * share - Fraction(1, 2))), length
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(found))


def test_number_on_a_tensor_is_the_number_of_each(seeded):
    lengths = torch.randint(0, 3000, (7, 11), generator=seeded(1))
    found = num_masked(lengths, **PAPER)
    assert found.dtype == torch.int64
    assert found.tolist() == [[num_masked(length, **PAPER) for length in row] for row in lengths.tolist()]
    assert torch.equal(num_masked(lengths.int(), **PAPER), found)


# Masks of pre-training


def test_rows_have_their_number_of_masked_frames(seeded):
    lengths = [499, 23, 7, 2, 1, 0, 311]
    is_masked = draw(lengths, seeded(2), max_frames=503)
    assert is_masked.dtype == torch.bool
    assert is_masked.sum(1).tolist() == [num_masked(length, **PAPER) for length in lengths]
    assert not any(row[length:].any() for row, length in zip(is_masked, lengths, strict=True))


def test_spans_are_the_papers(seeded):
    """About 49 % of frames, in runs of 14.7 frames on average with median 10 (2006.11477, appendix), as an
    independent simulation of the paper's own way finds."""
    is_masked = draw(torch.full((300,), 1499), seeded(3))
    lengths = [length for row in is_masked for length in runs_of(row)]
    rng, simulated = np.random.default_rng(4), []
    for _ in range(300):
        row = np.zeros(1499, dtype=bool)
        for start in rng.choice(1499 - 10 + 1, size=int(0.65 * 1499 / 10 + rng.random()), replace=False):
            row[start : start + 10] = True
        simulated += runs_of(row)
    assert is_masked.float().mean().item() == pytest.approx(0.49, abs=0.002)
    assert np.mean(lengths) == pytest.approx(np.mean(simulated), abs=0.3)
    assert np.mean(lengths) == pytest.approx(14.7, abs=0.4)
    assert np.median(lengths) == np.median(simulated) == 10


def test_all_spans_are_whole_but_the_last(seeded):
    """A run shorter than a span is the cut one, of which a row has one at most."""
    is_masked = draw(torch.full((200,), 307), seeded(5))
    short = [sum(length < 10 for length in runs_of(row)) for row in is_masked]
    assert max(short) == 1
    assert 0 < sum(short) < 200


def test_every_place_away_from_the_edges_is_as_likely(seeded):
    shares = draw(torch.full((4000,), 101), seeded(6), mask_prob=0.4, span=7).float().mean(0)
    inner = shares[6:-6]
    expected = inner.mean().item()
    assert expected > 2 * shares[0]  # one span alone reaches the first frame
    error = 4.5 * (expected * (1 - expected) / 4000) ** 0.5
    assert inner.tolist() == pytest.approx([expected] * len(inner), abs=error)
    assert shares[0].item() == pytest.approx(shares[-1].item(), abs=0.03)


def test_fewer_masked_frames_than_a_span_are_one_run_anywhere(seeded):
    """5 * .49 = 2 of 5 frames: spans of 10 do not fit, so one run of 2 that starts at 0..3, each as often."""
    is_masked = draw(torch.full((8000,), 5), seeded(7), min_masks=0)
    assert all(runs_of(row) == [2] for row in is_masked[:100])
    starts = torch.bincount(is_masked.int().argmax(1), minlength=5) / 8000
    assert starts.tolist() == pytest.approx([0.25] * 4 + [0.0], abs=0.02)


def test_batch_mates_do_not_matter(seeded):
    """Rows share the generator, not the masks: a row is as it is beside rows of any other length."""
    first, second = (draw([101, other, 53], seeded(8), max_frames=101) for other in (97, 3))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[2], second[2])


def test_same_seed_same_masks_and_probability_zero_none(seeded):
    lengths = [31, 17, 29]
    assert torch.equal(draw(lengths, seeded(9)), draw(lengths, seeded(9)))
    assert not torch.equal(draw(lengths, seeded(9)), draw(lengths, seeded(10)))
    assert not draw(lengths, seeded(9), mask_prob=0.0).any()


@pytest.mark.parametrize("sample", [draw, draw_whole])
def test_draws_do_not_depend_on_lengths(seeded, sample):
    """So a change of one row's length leaves every later draw of the step as it was."""
    left, right = seeded(11), seeded(11)
    for generator, lengths in ((left, [31, 17, 29]), (right, [31, 1, 5])):
        sample(lengths, generator, mask_prob=0.5, span=3)
    assert torch.equal(left.get_state(), right.get_state())


@pytest.mark.parametrize("sample", [draw, draw_whole])
def test_no_device_value_is_read(seeded, sample):
    lengths = torch.empty(3, dtype=torch.int64, device="meta")
    assert sample(lengths, seeded(13), mask_prob=0.65, span=10, max_frames=31).shape == (3, 31)
    assert num_masked(lengths, **PAPER).is_meta


# Masks of fine-tuning


def test_span_count_is_rounded_at_random(seeded):
    """With spans of one frame the masked frames are the spans: 7 * .5 = 3.5 gives 3 or 4, half of the time each."""
    counts = draw_whole(torch.full((4000,), 7), seeded(3), mask_prob=0.5, span=1).sum(1)
    assert set(counts.tolist()) == {3, 4}
    assert counts.float().mean().item() == pytest.approx(3.5, abs=0.03)


def test_starts_are_uniform_where_the_span_fits(seeded):
    """One span of 3 in 7 frames: 3/7 * 7 / 3 = 1 start, each of 0..4 as often as another, the last frame included."""
    is_masked = draw_whole(torch.full((10_000,), 7), seeded(4), mask_prob=3 / 7, span=3, max_frames=11)
    whole = is_masked[is_masked.any(1)]  # 3 / 7 * 7 / 3 is a little less than 1 in floating point
    assert len(whole) > 9_990
    assert set(whole.sum(1).tolist()) == {3}
    starts = torch.bincount(whole.int().argmax(1), minlength=11) / len(whole)
    assert starts[:5].tolist() == pytest.approx([0.2] * 5, abs=0.015)
    assert starts[5:].sum() == 0


def test_starts_are_distinct(seeded):
    """Spans of one frame that all fit once: a start drawn twice would leave fewer than 12 frames masked."""
    is_masked = draw_whole(torch.full((500,), 13), seeded(5), mask_prob=1.0, span=1)
    assert set(is_masked.sum(1).tolist()) == {12}


def test_spans_of_fine_tuning_are_whole(seeded):
    is_masked = draw_whole([23, 499], seeded(6), mask_prob=0.65, span=10)
    assert is_masked[1].sum() > 150
    assert all(length >= 10 for length in runs_of(is_masked[0]) + runs_of(is_masked[1]))


@pytest.mark.parametrize(("num_frames", "expected"), [(0, 0), (1, 0), (2, 1), (5, 4), (10, 9), (11, 10)])
def test_short_rows_mask_what_fits_and_leave_one_frame(seeded, num_frames, expected):
    """p = 1 and spans of 2 to 10 frames: at most one span in these rows."""
    is_masked = draw_whole(torch.full((50,), num_frames), seeded(8), mask_prob=1.0, span=10, max_frames=13)
    assert {0, expected} >= set(is_masked.sum(1).tolist())
    assert is_masked.sum(1).max() == expected
    assert not is_masked[:, num_frames:].any()


def test_channel_mask(seeded):
    is_masked = sample_channel_mask(400, 768, mask_prob=0.25, span=64, generator=seeded(12))
    assert is_masked.shape == (400, 768)
    assert is_masked.dtype == torch.bool
    assert is_masked.float().mean().item() == pytest.approx(1 - (1 - 3 / 705) ** 64, abs=0.01)  # 3 starts of 705
    assert min(runs_of(is_masked[0])) >= 64
