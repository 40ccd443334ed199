"""Words from where CTC hears them to where the voice is: their edges move out to the next pause.

A CTC model says a symbol on a frame or two, somewhere inside of the sound: an aligned word starts too late and ends too
early, by a tenth of a second where the model has learned from speech without times. Which word it is and in which order
is known from there, and where its sound begins and ends from the recording itself.

Reference: peaky outputs of CTC: Zeyer et al. 2021 (2105.14849). Label priors (2406.02560), taken from the scores of a
trained model, move its edges by a few milliseconds only (docs/decisions/0044).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from audio_ssl.inference.align import Alignment, TimedToken
from audio_ssl.inference.source import Source

STEPS_HZ = 100
"""Values of loudness a second."""
QUIET_SHARE = 0.1
"""Silence lies in this share, from below, of the decibels between the quiet of a recording and its words."""
QUIET_PERCENTILE = 10
MIN_PAUSE_S = 0.1
"""A silence between two sounds that is shorter is a stop inside of a word, such as that before the t of "eight"."""
MAX_REACH_S = 0.4
"""No edge moves farther: what sounds beyond is something else."""
_CHUNK_S = 30


@dataclass(frozen=True)
class Loudness:
    """How loud a recording is.

    Attributes:
        decibels: (N,) float64, one each hundredth of a second.
    """

    decibels: NDArray[np.float64]

    def step(self, seconds: float) -> int:
        """The value at a time, or the one after the last."""
        return min(max(round(seconds * STEPS_HZ), 0), len(self.decibels))

    def is_quiet(self, words: Sequence[TimedToken]) -> NDArray[np.bool_]:
        """(N,) whether each value is silence, by the median of what is known to be words."""
        spans = [self.decibels[self.step(word.start_s) : max(self.step(word.end_s), 1)] for word in words]
        loud = np.median(np.concatenate(spans))
        quiet = np.percentile(self.decibels, QUIET_PERCENTILE)
        found: NDArray[np.bool_] = self.decibels < quiet + QUIET_SHARE * (loud - quiet)
        return found


def loudness_of(source: Source, row: int) -> Loudness:
    """Loudness of an utterance, read half a minute at a time.

    Raises:
        AudioError: it cannot be read.
    """
    rate, num_samples = source.rate_hz(row), source.num_samples(row)
    stop = num_samples * STEPS_HZ // rate
    parts = [np.zeros(0)]
    for start in range(0, stop, _CHUNK_S * STEPS_HZ):
        edges = np.arange(start, min(start + _CHUNK_S * STEPS_HZ, stop) + 1) * rate // STEPS_HZ
        samples = source.load(row, int(edges[0]), int(edges[-1] - edges[0]), to_hz=rate)
        sums = np.add.reduceat(np.square(np.asarray(samples), dtype=np.float64), edges[:-1] - edges[0])
        parts.append(sums / np.diff(edges))
    power = np.concatenate(parts)
    smooth = np.convolve(np.pad(power, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid") if len(power) else power
    return Loudness(10 * np.log10(smooth + 1e-12))


def at_the_voice(alignment: Alignment, loudness: Loudness) -> Alignment:
    """Move the edges of words as :func:`words_at_the_voice`; the first and last character of a word go with it."""
    words = words_at_the_voice(alignment.words, loudness, duration_s=alignment.duration_s)
    return replace(alignment, words=words, characters=_with_words(alignment, words))


def words_at_the_voice(words: Sequence[TimedToken], loudness: Loudness, *, duration_s: float) -> tuple[TimedToken, ...]:
    """Move the edges of words into the gaps between them, as far as the sound goes.

    In a gap with a silence the word before ends where its first silence begins and the next starts where its last one
    ends; in a gap without one they meet at its quietest place. Before the first word and after the last a silence of
    any length counts.

    Args:
        words: of an utterance, in order.
        loudness: of the same.
        duration_s: of the same.
    """
    words = list(words)
    if not words or not len(loudness.decibels):
        return tuple(words)
    is_quiet = loudness.is_quiet(words)
    gaps = zip([0.0, *(w.end_s for w in words)], [*(w.start_s for w in words), duration_s], strict=True)
    for i, (left, right) in enumerate(list(gaps)):
        first, stop = loudness.step(left), loudness.step(right)
        if first >= stop:
            continue
        end, start = _edges(is_quiet[first:stop], loudness.decibels[first:stop], is_outer=i in (0, len(words)))
        if i > 0:
            word = words[i - 1]
            reached = min((first + end) / STEPS_HZ, left + MAX_REACH_S, right)
            words[i - 1] = replace(word, end_s=round(max(reached, word.end_s), 6))
        if i < len(words):
            reached = max((first + start) / STEPS_HZ, right - MAX_REACH_S, left)
            words[i] = replace(words[i], start_s=round(min(reached, words[i].start_s), 6))
    return tuple(words)


def _edges(is_quiet: NDArray[np.bool_], decibels: NDArray[np.float64], *, is_outer: bool) -> tuple[int, int]:
    """In a gap, where the word before it ends, and where the word after it starts."""
    bounds = np.flatnonzero(np.diff(np.concatenate([[False], is_quiet, [False]])))
    least = 1 if is_outer else round(MIN_PAUSE_S * STEPS_HZ)
    pauses = [(a, b) for a, b in zip(bounds[::2].tolist(), bounds[1::2].tolist(), strict=True) if b - a >= least]
    if pauses:
        return pauses[0][0], pauses[-1][1]
    if is_outer:  # sound all the way: the word reaches as far as it may
        return len(is_quiet), 0
    quietest = int(decibels.argmin())
    return quietest, quietest


def _with_words(alignment: Alignment, words: Sequence[TimedToken]) -> tuple[TimedToken, ...]:
    """The characters, those at the edges of a word as long as it is."""
    characters, i = list(alignment.characters), 0
    for old, new in zip(alignment.words, words, strict=True):
        first = i
        while i < len(characters) and characters[i].end_s <= old.end_s:
            i += 1
        if i > first:
            characters[first] = replace(characters[first], start_s=new.start_s)
            characters[i - 1] = replace(characters[i - 1], end_s=new.end_s)
    return tuple(characters)
