"""Estimation of word n-gram models: interpolated modified Kneser-Ney smoothing.

References: Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling" (TR-10-98), sec. 3;
Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation", whose choices are ours: unigrams are
interpolated with the uniform distribution over all words, ``<unk>`` and ``</s>`` included; no n-gram is left out.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.ngrams import END, START, UNKNOWN_WORD_NAME, Section
from audio_ssl.inference.decoding.tables import Ints, Longs

MAX_ORDER = 8
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where the counts of counts give none, as in very small texts."""
NEVER = -99.0 * math.log(10)  # of <s>, which nothing predicts; ARPA's custom
_UNKNOWN, _START, _END = range(3)


@dataclass(frozen=True)
class Estimate:
    """An n-gram model and what it was made from.

    Attributes:
        words: ``<unk>``, ``<s>``, ``</s>``, then the others as they came.
        sections: one an order.
        num_sentences: texts with at least a word.
        num_words: in these.
        discounts: (D1, D2, D3+) of each order.
        guessed: orders whose discounts are ``FALLBACK``.
    """

    words: tuple[str, ...]
    sections: tuple[Section, ...]
    num_sentences: int
    num_words: int
    discounts: tuple[tuple[float, float, float], ...]
    guessed: tuple[int, ...]


@dataclass(frozen=True)
class _Order:
    """The different n-grams of an order.

    Attributes:
        words: (M, n) numbers of words.
        prefix: (M,) place of the first n - 1 words among those of the order below.
        suffix: (M,) place of the last n - 1 words.
        counts: (M,) how often each is there.
    """

    words: Ints
    prefix: Longs
    suffix: Longs
    counts: Longs


def estimate(texts: Iterable[str], *, order: int) -> Estimate:
    """Estimate a model.

    Args:
        texts: sentences, words parted by white space; each has a start and an end of its own. Texts without a word do
            not count.
        order: longest n-grams, in words.

    Raises:
        ConfigError: no word at all, an order out of range, or a word that ARPA files keep for themselves.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"--order must be from 1 to {MAX_ORDER}, got {order}")
    index = {UNKNOWN_WORD_NAME: _UNKNOWN, START: _START, END: _END}
    stream, num_sentences = array("i"), 0
    for number, text in enumerate(texts, start=1):
        words = text.split()
        odd = {UNKNOWN_WORD_NAME, START, END}.intersection(words)
        if odd:
            raise ConfigError(
                f"text {number} must not hold {min(odd)}, which ARPA files keep for themselves: {text!r:.120}"
            )
        if words:
            num_sentences += 1
            stream.extend((_START, *(index.setdefault(word, len(index)) for word in words), _END))
    if not num_sentences:
        raise ConfigError("a language model must have text to learn from, there is no word in what was given")
    orders = _count(np.array(stream, dtype=np.int64), order=order, num_words=len(index))
    sections, discounts, guessed = _smooth(orders, len(index))
    num_words = len(stream) - 2 * num_sentences
    return Estimate(tuple(index), sections, num_sentences, num_words, discounts, guessed)


def _count(stream: Longs, *, order: int, num_words: int) -> list[_Order]:
    """Different n-grams of each order; one number for each place of the text says which stands there."""
    starts = stream == _START
    since_start = np.arange(len(stream)) - np.maximum.accumulate(np.where(starts, np.arange(len(stream)), 0))
    places, orders = stream, list[_Order]()
    unigrams = np.arange(num_words, dtype=np.int32)[:, None]
    nothing = np.zeros(num_words, dtype=np.int64)
    orders.append(_Order(unigrams, nothing, nothing, np.bincount(stream, minlength=num_words)))
    for length in range(2, order + 1):
        ends = np.flatnonzero(since_start >= length - 1)
        before, after = places[ends - 1], places[ends]  # the two n-grams that are one word shorter
        keys = before * num_words + stream[ends]
        unique, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        prefix, suffix = before[first], after[first]
        words = np.concatenate([orders[-1].words[prefix], (unique % num_words)[:, None]], axis=1).astype(np.int32)
        orders.append(_Order(words, prefix, suffix, counts))
        places = np.zeros(len(stream), dtype=np.int64)
        places[ends] = inverse
    return orders


def _smooth(
    orders: list[_Order], num_words: int
) -> tuple[tuple[Section, ...], tuple[tuple[float, float, float], ...], tuple[int, ...]]:
    sections, discounts, guessed = list[Section](), list[tuple[float, float, float]](), list[int]()
    lower = np.full(1, 1 / (num_words - 1))  # uniform over all words but <s>
    for length, grams in enumerate(orders, start=1):
        adjusted = _adjusted(grams, orders[length] if length < len(orders) else None)
        if length == 1:
            adjusted[_START] = 0  # never predicted
        found, is_guessed = _discounts(adjusted)
        discounts.append(found)
        if is_guessed:
            guessed.append(length)
        taken = np.array((0.0, *found))[np.minimum(adjusted, 3)]
        num_contexts = len(lower)
        total = np.bincount(grams.prefix, weights=adjusted, minlength=num_contexts)
        left_over = np.bincount(grams.prefix, weights=taken, minlength=num_contexts)
        is_context = total > 0
        weight = np.divide(left_over, total, out=np.ones(num_contexts), where=is_context)
        prob = (adjusted - taken) / total[grams.prefix] + weight[grams.prefix] * lower[grams.suffix]
        if sections:
            below = sections[-1]
            sections[-1] = Section(below.words, below.log_prob, np.log(weight))
        log_prob = np.log(prob)
        if length == 1:
            log_prob[_START] = NEVER
        sections.append(Section(grams.words, log_prob, np.zeros(len(prob))))
        lower = prob
    return tuple(sections), tuple(discounts), tuple(guessed)


def _adjusted(grams: _Order, longer: _Order | None) -> Longs:
    """Counts of the highest order; below it the number of different words before an n-gram (Chen & Goodman, 3.4).

    Nothing stands before the start of a sentence, so what begins with it keeps its count (Heafield et al., 3.2).
    """
    if longer is None:
        return grams.counts.copy()
    different = np.bincount(longer.suffix, minlength=len(grams.counts))
    return np.where(grams.words[:, 0] == _START, grams.counts, different)


def _discounts(adjusted: NDArray[np.int64]) -> tuple[tuple[float, float, float], bool]:
    """D1, D2 and D3+ (Chen & Goodman, eq. 26), and whether they had to be guessed."""
    once, twice, thrice, four_times = (int((adjusted == count).sum()) for count in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return FALLBACK, True
    share = once / (once + 2 * twice)
    found = (1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four_times / thrice)
    if any(not 0 < discount <= most for most, discount in enumerate(found, start=1)):
        return FALLBACK, True
    return found, False
