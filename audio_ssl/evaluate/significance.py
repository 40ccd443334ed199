"""Whether two recognisers differ: the matched-pairs test over segments of sentences, as NIST's sclite does it.

Reference: Gillick & Cox, "Some statistical issues in the comparison of speech recognition algorithms" (1989).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audio_ssl.evaluate.error_rate import Edit

MIN_GOOD = 2  # words that both have right part two segments: sclite's default


@dataclass(frozen=True)
class MatchedPairs:
    """Outcome of the test.

    Attributes:
        num_segments: stretches in which either system errs.
        mean: errors of the first minus errors of the second, a segment.
        z: mean over its standard error; 0 where there is nothing to tell apart.
        p_value: two-sided, by the normal law; 1 where there is nothing to tell apart. Where every segment differs by
            the same there is no standard error, and the sign test gives both.
    """

    num_segments: int
    mean: float
    z: float
    p_value: float


class SegmentSums:
    """What the test keeps of all segments: how many, and sum and squares of the differences."""

    def __init__(self) -> None:
        self._num, self._sum, self._squares = 0, 0, 0

    def add(self, first: Sequence[Edit], second: Sequence[Edit]) -> None:
        """Take an utterance in: the alignments of both systems with the same reference."""
        for errors_first, errors_second in segments(first, second):
            gap = errors_first - errors_second
            self._num += 1
            self._sum += gap
            self._squares += gap * gap

    def result(self) -> MatchedPairs:
        """The test over all segments so far."""
        if not self._sum:
            return MatchedPairs(self._num, 0.0, 0.0, 1.0)
        mean = self._sum / self._num
        scatter = self._num * self._squares - self._sum**2  # in whole numbers: 0 is 0
        if scatter:
            z = mean / math.sqrt(scatter / (self._num - 1)) * self._num
            return MatchedPairs(self._num, mean, z, math.erfc(abs(z) / math.sqrt(2)))
        return MatchedPairs(self._num, mean, *_by_signs(self._num, is_positive=mean > 0))


def _by_signs(num: int, *, is_positive: bool) -> tuple[float, float]:
    from scipy.stats import norm

    p_value = max(2.0 * 0.5**num, math.ulp(0.0))
    z = float(norm.isf(p_value / 2))
    return (z if is_positive else -z), p_value


def segments(first: Sequence[Edit], second: Sequence[Edit]) -> Iterator[tuple[int, int]]:
    """Errors of both systems in each segment of an utterance.

    A segment begins with an error of either system and ends where both have :data:`MIN_GOOD` words of the reference
    right in a row, with nothing inserted between them, or with the utterance.

    Args:
        first: word alignment of the first system.
        second: word alignment of the second, with the same reference.
    """
    errors, num_good, is_open = [0, 0], 0, False
    for places in zip(_by_word(first), _by_word(second), strict=True):
        if any(inserted for inserted, _ in places):
            num_good = 0
        wrong = [inserted + missed for inserted, missed in places]
        is_good = not any(missed for _, missed in places)
        if any(wrong):
            errors = [e + w for e, w in zip(errors, wrong, strict=True)]
            is_open = True
        num_good = num_good + 1 if is_good else 0
        if is_open and num_good >= MIN_GOOD:
            yield errors[0], errors[1]
            errors, is_open = [0, 0], False
    if is_open:
        yield errors[0], errors[1]


def _by_word(edits: Sequence[Edit]) -> list[tuple[int, int]]:
    """(words inserted before it, 1 if it is not right) of each word of the reference, and of the end."""
    found, inserted = [], 0
    for edit in edits:
        if edit.kind == "insertion":
            inserted += 1
            continue
        found.append((inserted, int(edit.kind != "hit")))
        inserted = 0
    return [*found, (inserted, 0)]
