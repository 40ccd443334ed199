"""Intervals against simulations whose truth is known, against the binomial law, and by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import t

from audio_ssl.evaluate import intervals
from audio_ssl.evaluate.error_rate import EditCounts
from audio_ssl.evaluate.intervals import RateSums, bootstrap_interval, difference, rate_interval

WORDS = 10  # of a simulated utterance


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_MOST_RESAMPLES", 400)
    monkeypatch.setattr(intervals, "_LEAST_RESAMPLES", 400)


def corpora(num: int, *, speakers: int, utterances: int, spread: float, truth: float = 0.2) -> np.ndarray:
    """(num, speakers, utterances) word errors; a speaker's own rate is ``truth`` on average."""
    rng = np.random.default_rng(5)
    rates = rng.beta(truth * spread, (1 - truth) * spread, size=(num, speakers, 1))
    return rng.binomial(WORDS, np.broadcast_to(rates, (num, speakers, utterances)))


def covered(errors: np.ndarray, words_of_block: int, truth: float = 0.2) -> float:
    """Share of corpora (rows of blocks) whose interval holds the truth."""
    found = [rate_interval(Counter((int(e), words_of_block) for e in row)) for row in errors]
    return float(np.mean([i is not None and i.low <= truth <= i.high for i in found]))


@pytest.mark.usefixtures("few_resamples")
def test_of_a_hundred_intervals_about_95_hold_the_true_rate() -> None:
    independent = corpora(400, speakers=60, utterances=1, spread=6)
    assert 0.92 <= covered(independent[:, :, 0], WORDS) <= 0.98


@pytest.mark.usefixtures("few_resamples")
def test_where_speakers_differ_only_the_interval_over_speakers_holds_the_truth() -> None:
    errors = corpora(400, speakers=12, utterances=20, spread=6)
    assert 0.91 <= covered(errors.sum(2), 20 * WORDS) <= 0.98
    assert covered(errors.reshape(400, -1), WORDS) < 0.7  # utterances of a speaker are no news


@pytest.mark.usefixtures("few_resamples")
def test_few_blocks_widen_the_interval() -> None:
    errors = corpora(400, speakers=6, utterances=1, spread=30)[:, :, 0]
    assert 0.9 <= covered(errors, WORDS) <= 0.98  # plain percentiles: 0.88
    assert intervals._expanded_tail(6) == pytest.approx(0.0024, abs=1e-4)  # Phi(-sqrt(6/5) 2.5706) = Phi(-2.8160)
    assert intervals._expanded_tail(100_000) == pytest.approx(0.025, abs=1e-4)


@pytest.mark.usefixtures("few_resamples")
def test_equal_systems_are_told_apart_five_times_in_a_hundred() -> None:
    rng = np.random.default_rng(6)
    rates = rng.beta(2, 8, size=(400, 40, 1))
    errors = rng.binomial(WORDS, np.broadcast_to(rates, (400, 40, 2)))
    found = [difference(Counter((int(a), int(b), WORDS) for a, b in corpus)) for corpus in errors]
    assert 0.02 <= np.mean([not f.interval.low <= 0 <= f.interval.high for f in found]) <= 0.08
    assert 0.02 <= np.mean([f.p_value < 0.05 for f in found]) <= 0.09


def test_a_paired_difference_is_narrower_than_its_rates() -> None:
    blocks = Counter({(2, 1, 10): 30, (9, 8, 10): 30, (5, 5, 10): 10})
    found = difference(blocks)
    assert found.value == pytest.approx(-60 / 700)
    assert found.interval.high < 0
    assert found.p_value < 0.001
    assert found.share_better == 1.0
    own = rate_interval(Counter({(2, 10): 30, (9, 10): 30, (5, 10): 10}))
    assert own.high - own.low > 3 * (found.interval.high - found.interval.low)


def test_systems_that_err_alike_do_not_differ() -> None:
    found = difference(Counter({(2, 2, 10): 5, (0, 0, 10): 5}))
    assert (found.value, found.p_value, found.share_better) == (0.0, 1.0, 0.0)


def test_the_interval_is_that_of_the_binomial_when_utterances_are_words() -> None:
    # 400 one-word utterances, a quarter wrong: the rate's deviation is sqrt(.25 * .75 / 400) = 2.165 points
    counts = [EditCounts(substitutions=1)] * 100 + [EditCounts(hits=1)] * 300
    interval = bootstrap_interval(counts)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    np.testing.assert_allclose([interval.low, interval.high], [0.25 - half, 0.25 + half], atol=0.004)


def test_blocks_of_like_outcome_are_drawn_as_if_one_by_one() -> None:
    """The multinomial over outcomes against the textbook's way, drawing utterances by their number."""
    rng = np.random.default_rng(7)
    errors, lengths = rng.integers(0, 4, size=200), rng.integers(4, 7, size=200)
    chosen = rng.integers(200, size=(20_000, 200))
    rates = errors[chosen].sum(1) / lengths[chosen].sum(1)
    tail = intervals._expanded_tail(200)
    found = rate_interval(Counter(zip(errors.tolist(), lengths.tolist(), strict=True)))
    np.testing.assert_allclose([found.low, found.high], np.quantile(rates, [tail, 1 - tail]), atol=0.003)


def test_the_interval_is_named_by_its_seed_and_not_by_the_order() -> None:
    counts = [EditCounts(substitutions=i % 3, hits=i % 5 + 1) for i in range(31)]
    assert bootstrap_interval(counts, seed=1) == bootstrap_interval(counts[::-1], seed=1)
    assert bootstrap_interval(counts, seed=1) != bootstrap_interval(counts, seed=2)


def test_draws_in_portions_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [EditCounts(substitutions=i % 3, hits=i % 5 + 1) for i in range(31)]
    whole = bootstrap_interval(counts)
    monkeypatch.setattr(intervals, "_HELD", 50)
    assert bootstrap_interval(counts) == whole


@pytest.mark.parametrize(
    "counts",
    [[], [EditCounts(hits=3)], [EditCounts(insertions=3), EditCounts(insertions=1)]],
    ids=["nothing", "one", "no reference"],
)
def test_where_there_is_nothing_to_resample_there_is_no_interval(counts: list[EditCounts]) -> None:
    assert bootstrap_interval(counts) is None
    assert difference(Counter((c.errors, c.errors, c.reference_length) for c in counts)) is None


@pytest.mark.parametrize(
    "counts",
    [[EditCounts(hits=3), EditCounts(hits=1)], [EditCounts(deletions=1, hits=2), EditCounts(deletions=3, hits=6)]],
    ids=["no errors", "a third of each"],
)
def test_blocks_of_one_rate_do_not_pretend_to_be_certain(counts: list[EditCounts]) -> None:
    assert bootstrap_interval(counts) is None
    sums = RateSums()
    for each in counts:
        sums.add(each)
    assert sums.interval() is None


def test_few_blocks_cannot_prove_a_difference() -> None:
    blocks = {(3, 1, 10): 3, (4, 1, 10): 2}  # five of five are better: an exact test gives 2 / 2^5
    assert difference(blocks).p_value == 1 / 16
    assert difference({**blocks, (4, 2, 10): 5}).p_value == 2 / 2**10


def test_draws_without_any_reference_have_no_rate() -> None:
    some = bootstrap_interval([EditCounts(insertions=3), EditCounts(hits=1)])
    assert math.isfinite(some.high)


def test_many_outcomes_are_drawn_less_often() -> None:
    assert intervals.num_resamples(200) == 10_000
    assert intervals.num_resamples(2_000) == 2_500
    assert intervals.num_resamples(10**7) == 1_000


def test_the_closed_form_by_hand() -> None:
    # rates 0 and 1/2 of 2 words each: r = 1/4, residuals -1/2 and 1/2, var = 2/1 * 1/2 / 16 = 1/16
    sums = RateSums()
    sums.add(EditCounts(hits=2))
    assert sums.interval() is None
    sums.add(EditCounts(hits=1, deletions=1))
    interval = sums.interval()
    assert interval.low == 0.0
    assert interval.high == pytest.approx(0.25 + t.ppf(0.975, 1) * 0.25)


def test_the_closed_form_covers() -> None:
    errors = corpora(500, speakers=40, utterances=1, spread=6)[:, :, 0]
    hits = 0
    for row in errors.tolist():
        sums = RateSums()
        for e in row:
            sums.add(EditCounts(substitutions=e, hits=WORDS - e))
        interval = sums.interval()
        hits += interval.low <= 0.2 <= interval.high
    assert 0.92 <= hits / 500 <= 0.98
