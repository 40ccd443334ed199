"""Language models of words as a beam search asks for them: none, our n-gram tree, or KenLM's library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ConfigError, MissingExtraError
from audio_ssl.inference.decoding.arpa import read_arpa
from audio_ssl.inference.decoding.ngrams import END, START, UNKNOWN_WORD_NAME, NgramModel
from audio_ssl.inference.decoding.tables import (
    ANSWER,
    ASKED,
    NGRAM,
    NO_LM,
    QUESTIONS,
    Floats,
    Ints,
    LanguageModel,
    Space,
    records,
)

LN_10 = math.log(10)
BINARY_HEAD = b"mmap lm "


class WordModel(Protocol):
    """A language model, to a search.

    Attributes:
        words: that it can list, by the model's text rules; empty where it cannot.
        knows_words: whether it tells words that it knows from others.
        start: its state at the start of a sentence.
    """

    words: Sequence[str]
    knows_words: bool
    start: int

    def numbers(self, words: Sequence[str]) -> Ints:
        """Its numbers of words, that of ``<unk>`` for those that it does not know."""

    def unigrams(self, numbers: Ints) -> Floats:
        """Ln P of words without context."""

    def tables(self) -> LanguageModel:
        """What the search reads."""

    def answered(self, tables: LanguageModel, space: Space) -> LanguageModel:
        """The tables with answers to the questions in the space, which are taken out of it."""


def open_word_model(path: Path | None, vocabulary: Vocabulary, *, has_lexicon: bool) -> WordModel:
    """The language model of a file.

    Args:
        path: ARPA or binary; None for none.
        vocabulary: whose text rules its words go through: a model in capitals serves a recogniser without.
        has_lexicon: whether words come from elsewhere; a binary file cannot list its own.

    Raises:
        ConfigError: no such file, or none that can be read.
        MissingExtraError: a binary file without kenlm.
    """
    if path is None:
        return NoModel()
    if not path.is_file():
        raise ConfigError(f"--lm must be an ARPA file or a binary file of KenLM, there is no {path}")
    if not is_binary(path):
        return ArpaModel(read_arpa(path), vocabulary)
    if not has_lexicon:
        raise ConfigError(
            f"--lm {path} must come with --lexicon: a binary file of KenLM does not list its words. "
            "Give a lexicon, or the ARPA file that it was made from"
        )
    return KenlmModel(path)


def is_binary(path: Path) -> bool:
    """Whether a file is one that KenLM's build_binary wrote."""
    with path.open("rb") as file:
        return file.read(len(BINARY_HEAD)) == BINARY_HEAD


class NoModel:
    """Every word is as likely as any other."""

    words: Sequence[str] = ()
    knows_words = False
    start = 0

    def numbers(self, words: Sequence[str]) -> Ints:
        """Zeros."""
        return np.zeros(len(words), dtype=np.int32)

    def unigrams(self, numbers: Ints) -> Floats:
        """Zeros."""
        return np.zeros(len(numbers))

    def tables(self) -> LanguageModel:
        """Empty ones."""
        return _empty_tables(NO_LM, 1)

    def answered(self, tables: LanguageModel, space: Space) -> LanguageModel:  # noqa: ARG002 - there are none
        """The same tables."""
        return tables


class ArpaModel:
    """Our n-gram tree, with words by the recogniser's text rules.

    Args:
        model: the tree.
        vocabulary: names the rules.
    """

    knows_words = True

    def __init__(self, model: NgramModel, vocabulary: Vocabulary) -> None:
        self._model, self.start = model, model.start
        self._index: dict[str, int] = {}
        log_probs = model.nodes["log_prob"][1:]
        for number, word in enumerate(model.words):
            if word in (START, END, UNKNOWN_WORD_NAME):
                continue
            name = vocabulary.normalize(word)
            other = self._index.setdefault(name, number)  # of words that the rules make one, the most probable
            if log_probs[number] > log_probs[other]:
                self._index[name] = number
        self.words: Sequence[str] = [name for name in self._index if name and " " not in name]

    def numbers(self, words: Sequence[str]) -> Ints:
        """Its numbers of words."""
        unknown = self._model.index[UNKNOWN_WORD_NAME]
        return np.array([self._index.get(word, unknown) for word in words], dtype=np.int32)

    def unigrams(self, numbers: Ints) -> Floats:
        """Ln P of words without context."""
        return self._model.nodes["log_prob"][1 + numbers]

    def tables(self) -> LanguageModel:
        """The tree."""
        return self._model.tables

    def answered(self, tables: LanguageModel, space: Space) -> LanguageModel:  # noqa: ARG002 - there are none
        """The same tables."""
        return tables


class KenlmModel:
    """A model that KenLM's library holds; what the search asks is kept, for all utterances.

    Args:
        path: a file of any kind that the library reads.

    Raises:
        ConfigError: the library cannot read it.
        MissingExtraError: there is no such library.
    """

    words: Sequence[str] = ()
    knows_words = True
    start = 0

    def __init__(self, path: Path) -> None:
        try:
            import kenlm
        except ImportError as error:
            raise MissingExtraError("--lm with a binary file must have kenlm: pip install 'audio_ssl[lm]'") from error
        try:
            self._model: Any = kenlm.Model(str(path))
        except OSError as error:
            raise ConfigError(f"--lm must be a model that KenLM can read: {error}") from error
        self._new_state: Any = kenlm.State
        first = kenlm.State()
        self._model.BeginSentenceWrite(first)
        self._states: list[Any] = [first]
        self._names: list[str] = [END, UNKNOWN_WORD_NAME]
        self._index: dict[str, int] = {END: 0, UNKNOWN_WORD_NAME: 1}
        self._answers: dict[tuple[int, int], tuple[float, int]] = {}

    def numbers(self, words: Sequence[str]) -> Ints:
        """Numbers of our own, for the library knows words by name."""
        for word in words:
            if word not in self._index and word in self._model:
                self._index[word] = len(self._names)
                self._names.append(word)
        return np.array([self._index.get(word, 1) for word in words], dtype=np.int32)

    def unigrams(self, numbers: Ints) -> Floats:
        """Ln P of words without context."""
        empty, after = self._new_state(), self._new_state()
        self._model.NullContextWrite(empty)
        return np.array([self._model.BaseScore(empty, self._names[i], after) for i in numbers], dtype=float) * LN_10

    def tables(self) -> LanguageModel:
        """Tables with what was asked before."""
        return _with_answers(_empty_tables(ASKED, len(self._names)), dict(self._answers))

    def answered(self, tables: LanguageModel, space: Space) -> LanguageModel:
        """The tables with answers to the questions in the space, which are taken out of it."""
        count = int(space.counts[QUESTIONS])
        asked = {(int(q.state), int(q.word)) for q in space.questions[:count]}
        space.counts[QUESTIONS] = 0
        return _with_answers(tables, {question: self._answer(*question) for question in asked})

    def _answer(self, state: int, word: int) -> tuple[float, int]:
        known = self._answers.get((state, word))
        if known is not None:
            return known
        after = self._new_state()
        log10 = self._model.BaseScore(self._states[state], self._names[word], after)
        # threads may do this twice; the number must be of this very state all the same
        self._states.append(after)
        number = next(i for i in range(len(self._states) - 1, -1, -1) if self._states[i] is after)
        return self._answers.setdefault((state, word), (log10 * LN_10, number))


def _with_answers(tables: LanguageModel, answers: dict[tuple[int, int], tuple[float, int]]) -> LanguageModel:
    if not answers:
        return tables
    new = records(
        len(answers), ANSWER,
        question=[state * tables.num_words + word for state, word in answers],
        log_prob=[log_prob for log_prob, _ in answers.values()],
        state=[state for _, state in answers.values()],
    )  # fmt: skip
    joined = np.concatenate([tables.answers, new])
    return tables._replace(answers=joined[np.argsort(joined["question"])].view(np.recarray))


def _empty_tables(kind: int, num_words: int) -> LanguageModel:
    return LanguageModel(
        kind=kind, nodes=records(2, NGRAM), label=np.empty(0, dtype=np.int32), answers=records(0, ANSWER),
        unknown=1 if kind == ASKED else 0, end=0, num_words=num_words,
    )  # fmt: skip
