"""What the compiled search reads and writes: arrays of records in named tuples, which numba knows.

Few arrays of many fields: what a function costs numba to compile grows with the number of arrays that it is given.

Labels are symbols of the model's head; a unit is what words are spelled with (a symbol, or a character where pieces of
words are the symbols). State 0 of every tree is its root, and trees are in breadth-first order: edge e leads to node
e + 1, and the edges of a node stand together, by ascending label. Scores are natural logarithms in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
Letters = NDArray[np.float32]
Records = NDArray[Any]
"""An ``np.recarray`` of one of the types below."""

NO_LM, ARPA, ASKED = 0, 1, 2
"""Where probabilities of words come from: nowhere, an n-gram tree, or a table of what another library answered."""
OUTSIDE = -1
"""State of a spelling that is the start of no known word."""
UNKNOWN_WORD, NO_WORD = -1, -2

HYPOTHESIS = np.dtype([
    ("blank", "f8"),  # ln P of its alignments that end in a blank
    ("label", "f8"),  # ... in its last label
    ("extra", "f8"),  # score of language model, words and hot words
    ("last", "i4"),  # its last label
    ("node", "i4"),  # place in the tree of words; OUTSIDE where the word is unknown, 0 where none has begun
    ("lm_state", "i4"),  # context of the language model
    ("hot_state", "i4"),  # what it has seen of hot phrases
    ("path", "i4"),  # its place among the paths
    ("first_child", "i4"),  # a hypothesis of the beam with one label more; -1 for none
    ("next_child", "i4"),  # another one of the same parent
])  # fmt: skip
CANDIDATE = np.dtype([
    ("score", "f8"), ("blank", "f8"), ("label", "f8"), ("extra", "f8"),
    ("parent", "i4"),  # the hypothesis that it comes from
    ("token", "i4"),  # the label that it adds; -1 for none
    ("word", "i4"),  # the word that this label ends
    ("node", "i4"), ("lm_state", "i4"), ("hot_state", "i4"),
])  # fmt: skip
PATH = np.dtype([
    ("parent", "i4"),  # the sequence without its last label; -1 of the empty one
    ("token", "i4"),  # the last label
    ("word", "i4"),  # the word that ended with it, UNKNOWN_WORD, or NO_WORD where none did
    ("slot", "i4"),  # its place in the beam; -1 outside
])  # fmt: skip
QUESTION = np.dtype([("state", "i4"), ("word", "i4")])
SYMBOL = np.dtype([
    ("first_unit", "i4"),  # where its units start
    ("is_text", "?"),  # whether the search may write it
    ("starts_word", "?"),
])  # fmt: skip
NODE = np.dtype([
    ("first", "i4"),  # its first edge
    ("first_word", "i4"),  # where the words that end here start
    ("ahead", "f8"),  # best score of a word at or below; counts in pruning alone
])  # fmt: skip
WORD = np.dtype([
    ("lm_word", "i4"),  # its number in the language model
    ("hot_word", "i4"),  # its column in the machine of hot words; 0 for all that are none
])  # fmt: skip
HOT_STEP = np.dtype([("following", "i4"), ("gain", "f8")])
NGRAM = np.dtype([
    ("first", "i4"),  # its first edge
    ("suffix", "i4"),  # node of the longest n-gram that this one ends with
    ("context", "i4"),  # node of the longest context that this n-gram leaves
    ("log_prob", "f8"),  # ln P of its last word after the others
    ("backoff", "f8"),  # ln of its back-off weight
])  # fmt: skip
ANSWER = np.dtype([("question", "i8"), ("log_prob", "f8"), ("state", "i4")])


class Symbols(NamedTuple):
    """The model's symbols.

    Attributes:
        symbols: (A + 1,) of ``SYMBOL``; the last closes the units.
        units: units of all symbols, one after another.
        separator: of words; -1 where there is none.
    """

    symbols: Records
    units: Ints
    separator: int


class Words(NamedTuple):
    """The known words: a tree of their spellings, and what each is worth.

    Attributes:
        nodes: (N + 1,) of ``NODE``; the last closes edges and words.
        label: (N - 1,) unit of each edge.
        ending: numbers of the words that end at the nodes, one node after another.
        words: (W,) of ``WORD``.
        hot: (H, C) of ``HOT_STEP``: by state, and by column of the word.
        hot_open: (H,) what phrases that were begun have been given on trust.
    """

    nodes: Records
    label: Ints
    ending: Ints
    words: Records
    hot: Records
    hot_open: Floats


class LanguageModel(NamedTuple):
    """Probabilities of words.

    Attributes:
        kind: ``NO_LM``, ``ARPA`` or ``ASKED``.
        nodes: (N + 1,) of ``NGRAM``; the last closes the edges.
        label: (N - 1,) word of each edge.
        answers: (Q,) of ``ANSWER``, by ascending question: state * num_words + word.
        unknown: word that stands for all others.
        end: ``</s>``.
        num_words: of the model.
    """

    kind: int
    nodes: Records
    label: Ints
    answers: Records
    unknown: int
    end: int
    num_words: int


class Weights(NamedTuple):
    """Numbers of :class:`~audio_ssl.inference.decoding.settings.DecodeSettings` that the search reads.

    Attributes:
        lm_weight: as there.
        word_score: as there.
        unknown_score: as there; 0 without a language model.
        spelling_weight: the same.
        ahead_outside: as ``ahead`` of a node, of a spelling that is the start of no known word.
        best_start: the most that the start of a word may bring.
        best_end: the most that the end of a word may bring, and the start of the next.
        is_closed: whether only known words may be written.
        beam_threshold: as there.
        token_threshold: as there.
    """

    lm_weight: float
    word_score: float
    unknown_score: float
    spelling_weight: float
    ahead_outside: float
    best_start: float
    best_end: float
    is_closed: bool
    beam_threshold: float
    token_threshold: float


class Known(NamedTuple):
    """What a search is told: it changes none of this.

    ``letters`` are those of :func:`~audio_ssl.inference.decoding.letters.learn_letters`.
    """

    symbols: Symbols
    words: Words
    lm: LanguageModel
    weights: Weights
    letters: Letters


class Space(NamedTuple):
    """Room for one search; made anew for each utterance.

    Attributes:
        beam: (K,) of ``HYPOTHESIS``.
        cand: of ``CANDIDATE``: first every hypothesis as it is, then each with one label more.
        paths: of ``PATH``: the tree of all label sequences that were ever kept.
        questions: of ``QUESTION``: what an ``ASKED`` language model has to answer before a frame can be done.
        counts: (4,) how many there are of each of these, at ``BEAM``, ``CANDIDATES``, ``PATHS`` and ``QUESTIONS``.
        floor: (1,) candidates of a lower score need not be noted.
        scores: (as ``cand``) to be put in order.
        tokens: (A,) the symbols that a frame tries.
        old_paths: (K,) those of the beam before it changes.
    """

    beam: Records
    cand: Records
    paths: Records
    questions: Records
    counts: Ints
    floor: Floats
    scores: Floats
    tokens: Ints
    old_paths: Ints


BEAM, CANDIDATES, PATHS, QUESTIONS = range(4)


def records(size: int | tuple[int, ...], kind: np.dtype[Any], **fields: Any) -> Records:
    """Zeroed records with some fields filled; shorter columns fill the first of them."""
    made = np.zeros(size, dtype=kind)
    for name, values in fields.items():
        made[name][: len(values)] = values
    return made.view(np.recarray)
