"""The matched-pairs test: segments by hand, its figure beside scipy's, and how often it errs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from audio_ssl.evaluate.error_rate import align_texts
from audio_ssl.evaluate.significance import SegmentSums, segments


def found(reference: str, first: str, second: str) -> list[tuple[int, int]]:
    return list(segments(*(align_texts(reference, text, unit="word") for text in (first, second))))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c d e f", "a b c d e f", []),
        ("x b c d e f", "a b c d e f", [(1, 0)]),
        ("x b c d e y", "a b c d e f", [(1, 0), (1, 0)]),  # four good words between
        ("a x c y e f", "a b c d e f", [(2, 0)]),  # one good word does not part
        ("a x c d y f", "a b c d e f", [(1, 0), (1, 0)]),  # two do
        ("a x c d e f", "a b c y e f", [(1, 1)]),  # c is right in both, but alone
        ("a x c d e f", "a b c d e y", [(1, 0), (0, 1)]),
        ("a c d e f", "a b b c d e f", [(1, 1)]),  # a deletion and an insertion at one place
        ("x a b y c d e f", "a b c d e f", [(1, 0), (1, 0)]),  # inserted ahead, and between b and c
        ("a x c z d y f", "a b c d e f", [(3, 0)]),  # c and d do not part: z is between them
        ("a b c d e f g", "a b c d e f", [(1, 0)]),  # inserted at the end
        ("", "a b c d e f", [(6, 0)]),
    ],
)
def test_segments_by_hand(first: str, second: str, expected: list[tuple[int, int]]) -> None:
    assert found("a b c d e f", first, second) == expected
    assert found("a b c d e f", second, first) == [(b, a) for a, b in expected]


def test_an_empty_reference_is_one_segment() -> None:
    assert found("", "a b", "c") == [(2, 1)]
    assert found("", "", "") == []


def summed(gaps: list[int]) -> SegmentSums:
    """Segments with these differences, each an utterance of its own."""
    sums = SegmentSums()
    for gap in gaps:
        reference = " ".join("abcdef"[: abs(gap)]) or "a"
        wrong = "" if gap else "x"
        texts = (wrong, reference) if gap > 0 else (reference, wrong) if gap < 0 else (wrong, wrong)
        sums.add(*(align_texts(reference, text, unit="word") for text in texts))
    return sums


def test_the_figure_is_that_of_students_test_read_as_normal() -> None:
    gaps = [1, 1, 0, -1, 2, 1, 3, 0]
    result, expected = summed(gaps).result(), ttest_1samp(gaps, 0).statistic
    assert (result.num_segments, result.mean) == (8, pytest.approx(7 / 8))
    assert result.z == pytest.approx(expected)
    assert result.p_value == pytest.approx(2 * norm.sf(expected))
    turned = summed([-gap for gap in gaps]).result()
    assert (turned.z, turned.p_value) == (pytest.approx(-result.z), pytest.approx(result.p_value))


def test_without_scatter_signs_decide() -> None:
    assert summed([]).result().p_value == 1.0
    assert summed([0, 0, 0]).result().p_value == 1.0
    assert summed([1]).result().p_value == 1.0
    assert summed([1] * 6).result().p_value == pytest.approx(2 / 64)  # six coins that fall alike
    assert summed([-1] * 6).result().z < -2


def test_equal_systems_are_told_apart_five_times_in_a_hundred() -> None:
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(12)]
    edits = {}
    num_significant = 0
    for _ in range(200):
        sums = SegmentSums()
        for _ in range(25):
            pair = []
            for _ in range(2):
                is_wrong = tuple(rng.random(12) < 0.1)
                if is_wrong not in edits:
                    text = " ".join("x" if bad else word for word, bad in zip(words, is_wrong, strict=True))
                    edits[is_wrong] = align_texts(" ".join(words), text, unit="word")
                pair.append(edits[is_wrong])
            sums.add(*pair)
        num_significant += sums.result().p_value < 0.05
    assert 2 <= num_significant <= 20
