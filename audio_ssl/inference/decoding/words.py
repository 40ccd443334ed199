"""The words that a beam search knows: from a lexicon or a language model, and hot words; with what each is worth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.hot_words import build_hot_machine
from audio_ssl.inference.decoding.language_model import WordModel, open_word_model
from audio_ssl.inference.decoding.settings import DecodeSettings
from audio_ssl.inference.decoding.spelling import Entry, Speller, read_lexicon
from audio_ssl.inference.decoding.tables import NODE, WORD, Floats, Symbols, Weights, Words, records
from audio_ssl.inference.decoding.tree import Tree, build_tree

_log = logging.getLogger(__name__)
NUM_NAMED = 5


@dataclass(frozen=True)
class SearchPlan:
    """What a search is given.

    Attributes:
        names: of the words.
        words: their tree and worth.
        symbols: of the model.
        weights: of the settings.
        lm: the language model.
        has_twins: whether one text may be several label sequences.
    """

    names: tuple[str, ...]
    words: Words
    symbols: Symbols
    weights: Weights
    lm: WordModel
    has_twins: bool


def gather_words(vocabulary: Vocabulary, settings: DecodeSettings) -> SearchPlan:
    """Read the files that the settings name, and lay them out for the search.

    Raises:
        ConfigError: a file is missing or wrong, or a word cannot be spelled.
        MissingExtraError: the language model is a binary file and kenlm is not installed.
    """
    speller = Speller(vocabulary)
    lm = open_word_model(settings.lm, vocabulary, has_lexicon=settings.lexicon is not None)
    phrases = _phrases(settings, vocabulary)
    entries = _entries(settings, lm, speller)
    numbers = {entry.word: number for number, entry in reversed(list(enumerate(entries)))}
    entries += [
        _hot_entry(word, speller) for word in dict.fromkeys(w for ws, _ in phrases for w in ws) if word not in numbers
    ]
    names = tuple(dict.fromkeys(entry.word for entry in entries))
    numbers = {name: number for number, name in enumerate(names)}
    tree, ends = build_tree([speller.units([vocabulary.index[s] for s in entry.symbols]) for entry in entries])
    pairs = np.unique(np.stack([ends, [numbers[entry.word] for entry in entries]], axis=1).reshape(-1, 2), axis=0)
    lm_words = lm.numbers(names)
    hot = build_hot_machine(phrases)
    worth = settings.lm_weight * lm.unigrams(lm_words)
    for words, boost in phrases:
        for word in dict.fromkeys(words):
            worth[numbers[word]] += boost
    unknown_score = settings.unknown_score if lm.knows_words else 0.0
    return SearchPlan(
        names=names,
        words=Words(
            nodes=records(
                len(tree.first), NODE, first=tree.first, ahead=_best_below(tree, pairs, worth),
                first_word=np.searchsorted(pairs[:, 0], np.arange(len(tree.first))),
            ),
            label=tree.label,
            ending=pairs[:, 1].astype(np.int32),
            words=records(
                max(len(names), 1), WORD, lm_word=lm_words, hot_word=[hot.columns.get(name, 0) for name in names]
            ),
            hot=hot.steps, hot_open=hot.open,
        ),
        symbols=speller.tables(),
        weights=Weights(
            lm_weight=float(settings.lm_weight), word_score=float(settings.word_score), unknown_score=unknown_score,
            ahead_outside=settings.lm_weight * float(lm.unigrams(lm.numbers([""]))[0]) + unknown_score,
            is_closed=settings.lexicon is not None,
            beam_threshold=float(settings.beam_threshold), token_threshold=float(settings.token_threshold),
        ),
        lm=lm,
        has_twins=speller.has_pieces or len(entries) > len(names),
    )  # fmt: skip


def _entries(settings: DecodeSettings, lm: WordModel, speller: Speller) -> list[Entry]:
    """Words of the lexicon; without one, those of the language model that the symbols can spell."""
    if settings.lexicon is not None:
        return read_lexicon(settings.lexicon, speller.vocabulary)
    spelled = [(word, speller.spell(word)) for word in lm.words]
    entries = [Entry(word, symbols) for word, symbols in spelled if symbols is not None]
    odd = [word for word, symbols in spelled if symbols is None]
    if odd and not entries:
        raise ConfigError(
            f"--lm must hold words that this model's symbols can spell, {settings.lm} has none: "
            f"{', '.join(odd[:NUM_NAMED])} ..."
        )
    if odd:
        _log.warning(
            "%d of %d words of %s cannot be spelled with this model's symbols and will not be recognised: %s%s",
            len(odd), len(spelled), settings.lm, ", ".join(odd[:NUM_NAMED]), " ..." if len(odd) > NUM_NAMED else "",
        )  # fmt: skip
    return entries


def _phrases(settings: DecodeSettings, vocabulary: Vocabulary) -> list[tuple[tuple[str, ...], float]]:
    phrases = [(tuple(vocabulary.normalize(hot.text).split()), hot.boost) for hot in settings.hot_words]
    empty = [hot.text for hot, (words, _) in zip(settings.hot_words, phrases, strict=True) if not words]
    if empty:
        raise ConfigError(f"hot words must be words after the model's text rules, nothing is left of {empty[0]!r}")
    return phrases


def _hot_entry(word: str, speller: Speller) -> Entry:
    symbols = speller.spell(word)
    if symbols is None:
        raise ConfigError(f"hot words must be spelled with this model's symbols, {word!r} cannot be")
    return Entry(word, symbols)


def _best_below(tree: Tree, pairs: Sequence[Sequence[int]] | np.ndarray, worth: Floats) -> Floats:
    """(N,) the best worth of a word at or below each node; 0 at the root, where no word has begun."""
    best = np.full(len(tree.first) - 1, -np.inf)
    if len(worth):
        nodes, words = np.asarray(pairs).T
        np.maximum.at(best, nodes, worth[words])
    parents = np.repeat(np.arange(len(best)), np.diff(tree.first))  # of nodes 1, 2, ...
    depth = np.zeros(len(best), dtype=np.int64)
    for node, parent in enumerate(parents, start=1):
        depth[node] = depth[parent] + 1
    for level in range(int(depth.max(initial=0)), 1, -1):
        nodes = np.flatnonzero(depth == level)
        np.maximum.at(best, parents[nodes - 1], best[nodes])
    best[0] = 0.0
    return best
