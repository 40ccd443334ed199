"""Transcripts that do not fit the length of their audio: characters a second far from what is usual."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.preflight.notices import Split, shown_text

MIN_ROWS = 20  # of a language, below which nothing is usual
LEAST_DEVIATION = 0.2  # of the logarithm: where all rows are as fast, a factor of e**(6 * 0.2) = 3.3 is still normal
TO_DEVIATION = 1.4826  # median absolute deviation to the standard deviation of a normal distribution
USUAL_MEDIAN = (0.5, 40.0)  # characters a second; Han is near 4, alphabets are near 14


@dataclass(frozen=True)
class Rates:
    """Characters a second of the rows of a split.

    Attributes:
        median: by language, of those with enough rows ("" where it is unknown).
        odd: row to what is odd about it, the farthest from the median first.
        num_unjudged: rows of languages with too few rows to say what is usual.
    """

    median: dict[str, float]
    odd: dict[int, str]
    num_unjudged: int


def speech_rates(split: Split, *, deviations: float) -> Rates:
    """Find rows whose speech would be far too fast or too slow for their language.

    Args:
        split: rows; those without a transcript are left aside.
        deviations: from the median of the logarithm that are odd, in scaled median absolute deviations.
    """
    lengths = np.array([len(text) - text.count(" ") for text in split.texts], dtype=np.float64)
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(lengths > 0).tolist():
        rows_of[split.languages[row]].append(row)
    rates = lengths / np.maximum(split.manifest.durations_s(), 1e-9)
    medians: dict[str, float] = {}
    odd: list[tuple[float, int, float]] = []
    num_unjudged = 0
    for language, rows in rows_of.items():
        if len(rows) < MIN_ROWS:
            num_unjudged += len(rows)
            continue
        distance, medians[language] = _distances(rates[rows])
        for i in np.flatnonzero(np.abs(distance) > deviations).tolist():
            odd.append((-abs(float(distance[i])), rows[i], medians[language]))
    named = {row: _about(float(rates[row]), median, split.raw[row]) for _, row, median in sorted(odd)}
    return Rates(medians, named, num_unjudged)


def _distances(rates: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """(N,) distances from the median in deviations of the logarithm, and the median."""
    logs = np.log(rates)
    middle = float(np.median(logs))
    deviation = max(LEAST_DEVIATION, TO_DEVIATION * float(np.median(np.abs(logs - middle))))
    return (logs - middle) / deviation, float(np.exp(middle))


def _about(rate: float, median: float, raw: str) -> str:
    return f"{rate:.3g} characters a second ({median:.3g} are usual): {shown_text(raw)}"
