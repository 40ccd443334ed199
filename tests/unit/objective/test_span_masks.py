import numpy as np
import pytest
import torch

from audio_ssl.objective.masking import max_masked, max_spans, sample_channel_mask, sample_span_mask


def runs_of(row: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    text = "".join("x" if value else " " for value in row.tolist())
    return [len(run) for run in text.split()]


def test_masked_share_is_the_papers(seeded):
    """About 49 % of frames for p = .65 and spans of 10 (2006.11477, appendix), as an independent simulation finds."""
    num_frames = torch.full((300,), 780)
    is_masked = sample_span_mask(num_frames, mask_prob=0.65, span=10, min_masks=2, generator=seeded(1), max_frames=780)
    rng = np.random.default_rng(2)
    simulated = []
    for _ in range(300):
        row = np.zeros(780, dtype=bool)
        for start in rng.choice(780 - 10 + 1, size=int(0.65 * 780 / 10 + rng.random()), replace=False):
            row[start : start + 10] = True
        simulated.append(row.mean())
    assert is_masked.float().mean().item() == pytest.approx(0.49, abs=0.005)
    assert is_masked.float().mean().item() == pytest.approx(np.mean(simulated), abs=0.003)


def test_span_count_is_rounded_at_random(seeded):
    """With spans of one frame the masked frames are the spans: 7 * .5 = 3.5 gives 3 or 4, half of the time each."""
    num_frames = torch.full((4000,), 7)
    is_masked = sample_span_mask(num_frames, mask_prob=0.5, span=1, min_masks=0, generator=seeded(3), max_frames=7)
    counts = is_masked.sum(1)
    assert set(counts.tolist()) == {3, 4}
    assert counts.float().mean().item() == pytest.approx(3.5, abs=0.03)


def test_starts_are_uniform_where_the_span_fits(seeded):
    """One span of 3 in 7 frames: 3/7 * 7 / 3 = 1 start, each of 0..4 as often as another, the last frame included."""
    num_frames = torch.full((10_000,), 7)
    is_masked = sample_span_mask(num_frames, mask_prob=3 / 7, span=3, min_masks=1, generator=seeded(4), max_frames=11)
    assert set(is_masked.sum(1).tolist()) == {3}
    starts = torch.bincount(is_masked.int().argmax(1), minlength=11) / 10_000
    assert starts[:5].tolist() == pytest.approx([0.2] * 5, abs=0.015)
    assert starts[5:].sum() == 0


def test_starts_are_distinct(seeded):
    """Spans of one frame that all fit once: a start drawn twice would leave fewer than 12 frames masked."""
    num_frames = torch.full((500,), 13)
    is_masked = sample_span_mask(num_frames, mask_prob=1.0, span=1, min_masks=0, generator=seeded(5), max_frames=13)
    assert set(is_masked.sum(1).tolist()) == {12}


def test_rows_keep_their_own_counts(seeded):
    """A short row does not cut the masks of a long one: runs stay whole spans, except where they overlap."""
    num_frames = torch.tensor([23, 499])
    is_masked = sample_span_mask(num_frames, mask_prob=0.65, span=10, min_masks=2, generator=seeded(6), max_frames=499)
    assert is_masked[1].sum() > 150
    assert all(length >= 10 for length in runs_of(is_masked[0]) + runs_of(is_masked[1]))


def test_min_masks_holds_where_two_spans_fit(seeded):
    is_masked = sample_span_mask(
        torch.full((200,), 41), mask_prob=0.01, span=5, min_masks=2, generator=seeded(7), max_frames=41
    )
    assert is_masked.sum(1).min() >= 6  # two distinct starts of spans of 5
    assert is_masked.sum(1).max() <= 10


@pytest.mark.parametrize(("num_frames", "expected"), [(0, 0), (1, 0), (2, 1), (5, 4), (10, 9), (11, 10)])
def test_short_rows_mask_what_fits_and_leave_one_frame(seeded, num_frames, expected):
    is_masked = sample_span_mask(
        torch.full((50,), num_frames), mask_prob=0.65, span=10, min_masks=2, generator=seeded(8), max_frames=13
    )
    assert set(is_masked.sum(1).tolist()) == {expected}
    assert not is_masked[:, num_frames:].any()


def test_same_seed_same_masks_and_probability_zero_none(seeded):
    def draw(seed: int, mask_prob: float = 0.5) -> torch.Tensor:
        lengths = torch.tensor([31, 17, 29])
        return sample_span_mask(
            lengths, mask_prob=mask_prob, span=3, min_masks=2, generator=seeded(seed), max_frames=31
        )

    assert torch.equal(draw(9), draw(9))
    assert not torch.equal(draw(9), draw(10))
    assert not draw(9, mask_prob=0.0).any()


def test_draws_do_not_depend_on_lengths(seeded):
    """So a change of one row's length leaves every later draw of the step as it was."""
    left, right = seeded(11), seeded(11)
    for generator, lengths in ((left, [31, 17, 29]), (right, [31, 1, 5])):
        sample_span_mask(torch.tensor(lengths), mask_prob=0.5, span=3, min_masks=2, generator=generator, max_frames=31)
    assert torch.equal(left.get_state(), right.get_state())


def test_bounds_by_hand():
    assert max_spans(499, mask_prob=0.65, span=10, min_masks=2) == 33  # floor(32.435) + 1
    assert max_masked(499, mask_prob=0.65, span=10, min_masks=2) == 330
    assert max_masked(7, mask_prob=0.65, span=10, min_masks=2) == 6


def test_channel_mask(seeded):
    is_masked = sample_channel_mask(400, 768, mask_prob=0.25, span=64, generator=seeded(12))
    assert is_masked.shape == (400, 768)
    assert is_masked.dtype == torch.bool
    assert is_masked.float().mean().item() == pytest.approx(1 - (1 - 3 / 705) ** 64, abs=0.01)  # 3 starts of 705
    assert min(runs_of(is_masked[0])) >= 64


def test_no_device_value_is_read(seeded):
    is_masked = sample_span_mask(
        torch.empty(3, dtype=torch.int64, device="meta"),
        mask_prob=0.65, span=10, min_masks=2, generator=seeded(13), max_frames=31,
    )  # fmt: skip
    assert is_masked.shape == (3, 31)
