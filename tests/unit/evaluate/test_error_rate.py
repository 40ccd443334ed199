"""Edit counts against a textbook Levenshtein, corpus sums, and the bootstrap interval."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.evaluate.error_rate import EditCounts, bootstrap_interval, count_edits, total


def brute_force(reference: list[str], hypothesis: list[str]) -> int:
    """The fewest edits, by trying all ways (the recursive definition)."""

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        same = reference[i - 1] == hypothesis[j - 1]
        return min(distance(i - 1, j - 1) + (not same), distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(reference), len(hypothesis))


texts = st.lists(st.sampled_from(["a", "bb", "abc", "день"]), max_size=7).map(" ".join)


@given(reference=texts, hypothesis=texts)
def test_counts_are_those_of_a_cheapest_alignment(reference: str, hypothesis: str) -> None:
    for unit, split in (("word", str.split), ("character", list)):
        counts = count_edits(reference, hypothesis, unit=unit)
        ours, theirs = split(reference), split(hypothesis)
        assert counts.errors == brute_force(ours, theirs)
        assert counts.reference_length == len(ours)
        assert counts.hits + counts.substitutions + counts.insertions == len(theirs)


def test_counts_by_hand() -> None:
    # the | cat→cut | sat | (on deleted) | down inserted
    assert count_edits("the cat sat on", "the cut sat", unit="word") == EditCounts(1, 1, 0, 2)
    assert count_edits("the cat", "the cat down", unit="word") == EditCounts(0, 0, 1, 2)
    assert count_edits("ab c", "abc", unit="character") == EditCounts(0, 1, 0, 3)


def test_empty_references_count_insertions() -> None:
    counts = count_edits("", "a b", unit="word")
    assert counts == EditCounts(insertions=2)
    assert counts.rate == math.inf
    assert count_edits("", "", unit="word").rate == 0.0
    assert total([counts, EditCounts(hits=4)]).rate == 0.5


def test_the_corpus_rate_weighs_words_not_utterances() -> None:
    long, short = EditCounts(substitutions=1, hits=9), EditCounts(deletions=1)
    assert total([long, short]).rate == pytest.approx(2 / 11)
    assert total([]) == EditCounts()


def test_the_interval_is_that_of_the_binomial_when_utterances_are_words() -> None:
    # 400 one-word utterances, a quarter wrong: the rate's deviation is sqrt(.25 * .75 / 400) = 2.165 points
    counts = [EditCounts(substitutions=1)] * 100 + [EditCounts(hits=1)] * 300
    interval = bootstrap_interval(counts, num_resamples=4000)
    assert interval is not None
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    np.testing.assert_allclose([interval.low, interval.high], [0.25 - half, 0.25 + half], atol=0.005)


def test_the_interval_is_named_by_its_seed() -> None:
    counts = [EditCounts(substitutions=i % 3, hits=i % 5 + 1) for i in range(31)]
    assert bootstrap_interval(counts, seed=1) == bootstrap_interval(counts, seed=1)
    assert bootstrap_interval(counts, seed=1) != bootstrap_interval(counts, seed=2)


def test_without_reference_words_there_is_no_interval() -> None:
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([EditCounts(insertions=3)]) is None
    some = bootstrap_interval([EditCounts(insertions=3), EditCounts(hits=1)])
    assert some is not None
    assert math.isfinite(some.high)
