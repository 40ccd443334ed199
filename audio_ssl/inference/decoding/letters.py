"""How likely a spelling is: a trigram of symbols, learned from the words that are known.

An unknown word has no probability of its own in a model of words. Without one, a search with any spelling finds a long
word of what was misheard as cheap as a short one that could be a name.

Reference: Bazzi & Glass 2000, "Modeling out-of-vocabulary words for robust speech recognition": a model of smaller
units stands where ``<unk>`` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from audio_ssl.inference.decoding.kneser_ney import estimate
from audio_ssl.inference.decoding.ngrams import START, UNKNOWN_WORD_NAME
from audio_ssl.inference.decoding.tables import Floats, Letters

ORDER = 3
MOST_SYMBOLS = 128
"""Of more symbols the table would be large, and of pieces of words there are many; each is as likely then."""


def learn_letters(spellings: Sequence[Sequence[int]], num_symbols: int, *, starts: Sequence[int]) -> Letters:
    """Ln P of a symbol after the two before it, in words that are like the known ones.

    Each known word counts once, however often it is said: unknown words are like rare ones.

    Args:
        spellings: symbols of each known word; none where all symbols are to be alike.
        num_symbols: A.
        starts: symbols that stand before a word and not in it: the separator, and the blank for the start of all.

    Returns:
        (A^2, A) float32: row ``a A + b`` is after the symbols a and b, of which both or a may be ``starts``;
        (1, A) where all are alike.
    """
    if not spellings or num_symbols > MOST_SYMBOLS:
        return np.full((1, num_symbols), -math.log(num_symbols), dtype=np.float32)
    found = estimate((" ".join(map(str, spelling)) for spelling in spellings), order=ORDER)
    start, size = num_symbols, num_symbols + 1  # one more context: the start of a word
    place = {START: start, **{str(symbol): symbol for symbol in range(num_symbols)}}
    symbol_of = np.array([place.get(name, -1) for name in found.words])  # of the end and of <unk> there is none
    log_prob: Floats = np.full(size, found.sections[0].log_prob[found.words.index(UNKNOWN_WORD_NAME)])
    after = list[Floats]()  # ln P of symbols after none, one and two others
    for section in found.sections:
        symbols = symbol_of[section.words]
        is_spelled = (symbols >= 0).all(1)
        places = tuple(symbols[is_spelled].T)
        log_prob[places] = section.log_prob[is_spelled]
        after.append(log_prob)
        back_off: Floats = np.zeros(log_prob.shape)
        back_off[places] = section.backoff[is_spelled]
        log_prob = back_off[..., None] + log_prob
    table = after[2]  # (a, b, c)
    table[:, start] = after[1][start]  # nothing of the word stands before its start
    stand_in = [start if symbol in starts else symbol for symbol in range(num_symbols)]
    letters: Letters = table[np.ix_(stand_in, stand_in, range(num_symbols))].astype(np.float32)
    return letters.reshape(-1, num_symbols)
