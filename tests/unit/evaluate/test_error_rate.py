"""Edit counts against a textbook Levenshtein and jiwer, alignments, and corpus sums."""

from __future__ import annotations

import math
from functools import cache

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.evaluate.error_rate import Edit, EditCounts, align_texts, count_edits, counts_of, total


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


ALPHABET = ["a", "b", "ab", "день", "e\u0301", "\u00e9", "語", "’", "🎈"]  # é in two ways


def random_text(rng: np.random.Generator) -> str:
    """None to five words; half of them repeat the one before."""
    words: list[str] = []
    for _ in range(rng.integers(6)):
        words.append(words[-1] if words and rng.random() < 0.5 else ALPHABET[rng.integers(len(ALPHABET))])
    return " ".join(words)


def fewest(reference: list[str], hypothesis: list[str]) -> int:
    """Wagner & Fischer's table, row by row."""
    row = list(range(len(hypothesis) + 1))
    for i, said in enumerate(reference, 1):
        above, row = row, [i]
        for j, heard in enumerate(hypothesis, 1):
            row.append(min(above[j - 1] + (said != heard), above[j] + 1, row[-1] + 1))
    return row[-1]


def test_ten_thousand_random_pairs_have_the_rates_of_jiwer_and_of_brute_force() -> None:
    rng = np.random.default_rng(1)
    pairs = [(random_text(rng), random_text(rng)) for _ in range(10_000)]
    assert sum(not reference for reference, _ in pairs) > 1000
    found = {unit: [count_edits(*pair, unit=unit) for pair in pairs] for unit in ("word", "character")}
    for (reference, hypothesis), words, characters in zip(pairs, found["word"], found["character"], strict=True):
        assert words.errors == fewest(reference.split(), hypothesis.split())
        assert characters.errors == fewest(list(reference), list(hypothesis))
        assert words.reference_length == len(reference.split())
        assert characters.reference_length == len(reference)
    said, heard = zip(*pairs, strict=True)
    assert total(found["word"]).rate == jiwer.wer(list(said), list(heard))
    assert total(found["character"]).rate == jiwer.cer(list(said), list(heard))


def test_an_alignment_spells_both_texts_and_has_the_fewest_edits() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        reference, hypothesis = random_text(rng), random_text(rng)
        edits = align_texts(reference, hypothesis, unit="word")
        assert [e.reference for e in edits if e.kind != "insertion"] == reference.split()
        assert [e.hypothesis for e in edits if e.kind != "deletion"] == hypothesis.split()
        assert all((e.reference == e.hypothesis) == (e.kind == "hit") for e in edits)
        assert counts_of(edits).errors == fewest(reference.split(), hypothesis.split())


def test_an_alignment_by_hand() -> None:
    assert align_texts("the cat sat", "the cut sat down", unit="word") == [
        Edit("hit", "the", "the"), Edit("substitution", "cat", "cut"), Edit("hit", "sat", "sat"),
        Edit("insertion", "", "down"),
    ]  # fmt: skip
    assert align_texts("ab", "b", unit="character") == [Edit("deletion", "a", ""), Edit("hit", "b", "b")]
