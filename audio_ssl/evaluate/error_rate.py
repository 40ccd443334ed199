"""Word and character error rates: edit counts by jiwer, added over a corpus, with a bootstrap interval.

Knows strings only: how texts were made or normalised is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from audio_ssl.rng import numpy_generator

Unit = Literal["word", "character"]


@dataclass(frozen=True)
class EditCounts:
    """Edits of a cheapest alignment between references and hypotheses.

    Attributes:
        substitutions: units replaced.
        deletions: units of the reference that the hypothesis lacks.
        insertions: units of the hypothesis that the reference lacks.
        hits: units that agree.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    def __add__(self, other: EditCounts) -> EditCounts:
        return EditCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        """Units in the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per unit of the reference; may exceed 1. With an empty reference: 0 without errors, else infinite."""
        if self.reference_length == 0:
            return math.inf if self.errors else 0.0
        return self.errors / self.reference_length


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of an error rate."""

    low: float
    high: float


def count_edits(reference: str, hypothesis: str, *, unit: Unit) -> EditCounts:
    """Count the edits of one pair; an empty reference makes every unit of the hypothesis an insertion.

    Args:
        reference: what was said. Words are parted by spaces; leading and trailing spaces do not count.
        hypothesis: what was recognised.
        unit: ``word``, or ``character`` (spaces between words count as characters, as in jiwer).
    """
    import jiwer

    compare: Callable[[str, str], Any] = jiwer.process_words if unit == "word" else jiwer.process_characters
    found = compare(reference, hypothesis)
    return EditCounts(found.substitutions, found.deletions, found.insertions, found.hits)


def total(counts: Sequence[EditCounts]) -> EditCounts:
    """The sum over utterances: a corpus-level rate weighs each unit of the references equally."""
    return sum(counts, EditCounts())


def bootstrap_interval(counts: Sequence[EditCounts], *, seed: int = 1, num_resamples: int = 1000) -> Interval | None:
    """Percentile interval of the corpus-level rate over resampled utterances.

    Utterances are taken as independent: with few speakers the true uncertainty is larger.

    Args:
        counts: one an utterance.
        seed: names the draws; the same seed gives the same interval.
        num_resamples: draws of as many utterances as there are, with replacement.

    Returns:
        The 2.5th and 97.5th percentile; None where there is nothing to resample (no reference units at all).

    Reference: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (2004).
    """
    import numpy as np

    errors = np.array([c.errors for c in counts], dtype=np.int64)
    lengths = np.array([c.reference_length for c in counts], dtype=np.int64)
    if not lengths.any():
        return None
    rng = numpy_generator(seed, "bootstrap")
    rates = []
    for _ in range(num_resamples):
        chosen = rng.integers(len(counts), size=len(counts))
        length = lengths[chosen].sum()
        if length:  # a draw of empty references alone has no rate
            rates.append(errors[chosen].sum() / length)
    low, high = np.percentile(rates, [2.5, 97.5])
    return Interval(float(low), float(high))
