"""The words that a beam search knows: from a lexicon or a language model, and hot words; with what each is worth."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from audio_ssl.data.text import BLANK, Vocabulary
from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.hot_words import build_hot_machine
from audio_ssl.inference.decoding.language_model import WordModel, open_word_model
from audio_ssl.inference.decoding.letters import learn_letters
from audio_ssl.inference.decoding.settings import DecodeSettings
from audio_ssl.inference.decoding.spelling import Entry, Speller, read_lexicon
from audio_ssl.inference.decoding.tables import NODE, WORD, Floats, Letters, Longs, Symbols, Weights, Words, records
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
        letters: how likely a spelling is.
        has_twins: whether one text may be several label sequences.
    """

    names: tuple[str, ...]
    words: Words
    symbols: Symbols
    weights: Weights
    lm: WordModel
    letters: Letters
    has_twins: bool


class WordSources:
    """The files of some settings, read once; plans for any weights.

    Args:
        vocabulary: the model's symbols.
        settings: name the files and hot words.

    Raises:
        ConfigError: a file is missing or wrong, or a word cannot be spelled.
        MissingExtraError: the language model is a binary file and kenlm is not installed.
    """

    def __init__(self, vocabulary: Vocabulary, settings: DecodeSettings) -> None:
        self._speller = Speller(vocabulary)
        self._lm = open_word_model(settings.lm, vocabulary, has_lexicon=settings.lexicon is not None)
        self._phrases = _phrases(settings, vocabulary)
        entries = _entries(settings, self._lm, self._speller)
        known = {entry.word for entry in entries}
        hot = dict.fromkeys(word for words, _ in self._phrases for word in words if word not in known)
        entries += [_hot_entry(word, self._speller) for word in hot]
        self._names = tuple(dict.fromkeys(entry.word for entry in entries))
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._has_twins = self._speller.has_pieces or len(entries) > len(self._names)
        index = vocabulary.index
        self._tree, ends = build_tree([self._speller.units([index[s] for s in e.symbols]) for e in entries])
        starts = (BLANK, -1 if vocabulary.separator is None else vocabulary.separator)
        is_alike = self._speller.has_pieces or settings.lexicon is not None  # pieces spell a word in many ways
        spellings = [] if is_alike else [[index[s] for s in entry.symbols] for entry in entries]
        self._letters = learn_letters(spellings, len(vocabulary), starts=starts)
        pairs = np.stack([ends, [self._numbers[entry.word] for entry in entries]], axis=1).reshape(-1, 2)
        self._pairs: Longs = np.unique(pairs.astype(np.int64), axis=0)
        self._lm_words = self._lm.numbers(self._names)

    def plan(self, settings: DecodeSettings) -> SearchPlan:
        """What a search is given for the weights of these settings; files and hot words are those of the beginning."""
        unknown_score = float(settings.unknown_score) if self._lm.knows_words else 0.0
        unknown_prob = float(self._lm.unigrams(self._lm.numbers([""]))[0])
        ahead_outside = settings.lm_weight * unknown_prob + unknown_score
        words, best = self._words(settings.lm_weight)
        best_start = max(best, ahead_outside, 0.0)
        return SearchPlan(
            names=self._names,
            words=words,
            symbols=self._speller.tables(),
            weights=Weights(
                lm_weight=float(settings.lm_weight), word_score=float(settings.word_score),
                unknown_score=unknown_score,
                spelling_weight=float(settings.spelling_weight) if self._lm.knows_words else 0.0,
                ahead_outside=ahead_outside, best_start=best_start,
                best_end=max(unknown_score, 0.0) + settings.word_score + float(words.hot["gain"].max()) + best_start,
                is_closed=settings.lexicon is not None,
                beam_threshold=float(settings.beam_threshold), token_threshold=float(settings.token_threshold),
            ),
            lm=self._lm,
            letters=self._letters,
            has_twins=self._has_twins,
        )  # fmt: skip

    def _words(self, lm_weight: float) -> tuple[Words, float]:
        """The tables, and the best that any word is worth."""
        hot = build_hot_machine(self._phrases)
        worth = lm_weight * self._lm.unigrams(self._lm_words)
        for phrase, boost in self._phrases:
            for word in dict.fromkeys(phrase):
                worth[self._numbers[word]] += boost
        first, names = self._tree.first, self._names
        words = Words(
            nodes=records(
                len(first), NODE, first=first, ahead=_best_below(self._tree, self._pairs, worth),
                first_word=np.searchsorted(self._pairs[:, 0], np.arange(len(first))),
            ),
            label=self._tree.label,
            ending=self._pairs[:, 1].astype(np.int32),
            words=records(
                max(len(names), 1), WORD, lm_word=self._lm_words,
                hot_word=[hot.columns.get(name, 0) for name in names],
            ),
            hot=hot.steps, hot_open=hot.open,
        )  # fmt: skip
        return words, float(worth.max(initial=-np.inf))


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


def _best_below(tree: Tree, pairs: Longs, worth: Floats) -> Floats:
    """(N,) the best worth of a word at or below each node; 0 at the root, where no word has begun."""
    best: Floats = np.full(len(tree.first) - 1, -np.inf)
    np.maximum.at(best, pairs[:, 0], worth[pairs[:, 1]])
    parents = np.repeat(np.arange(len(best)), np.diff(tree.first)[: len(best)])  # of nodes 1, 2, ...
    level = [np.zeros(1, dtype=np.int64)]
    while len(level[-1]):  # breadth-first: the children of a level are one stretch of nodes
        start, stop = tree.first[level[-1][0]], tree.first[level[-1][-1] + 1]
        level.append(np.arange(start + 1, stop + 1))
    for nodes in reversed(level[2:]):
        np.maximum.at(best, parents[nodes - 1], best[nodes])
    best[0] = 0.0
    return best
