"""An n-gram model in memory: a tree of n-grams in plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.tables import ANSWER, ARPA, NGRAM, Floats, Ints, LanguageModel, Longs, records

START, END, UNKNOWN_WORD_NAME = "<s>", "</s>", "<unk>"


@dataclass(frozen=True)
class Section:
    """The n-grams of one order.

    Attributes:
        words: (M, n) numbers of words.
        log_prob: (M,) ln P of the last word after the others.
        backoff: (M,) ln of the back-off weight; 0 where none is given.
    """

    words: Ints
    log_prob: Floats
    backoff: Floats


class NgramModel:
    """Probabilities of words after words.

    Args:
        words: names; the unigrams in their order.
        sections: one an order, unigrams first (``words[:, 0]`` counts up), no n-gram twice.

    Raises:
        ConfigError: an n-gram is there twice, or its context is not.
    """

    def __init__(self, words: Sequence[str], sections: Sequence[Section]) -> None:
        self.words, self.order = tuple(words), len(sections)
        sizes = [len(section.log_prob) for section in sections]
        self._starts = np.cumsum([1, *sizes])  # node of the first n-gram of each order
        self._keys: list[Longs] = []
        parents, labels, num_nodes = list[Longs](), list[NDArray[Any]](), int(self._starts[-1])
        self.nodes = records(num_nodes + 1, NGRAM)
        for order, section in enumerate(sections, start=1):
            parent = self._nodes(section.words[:, :-1])
            self._refuse(parent < 0, section, "its context is none")
            keys = parent * len(self.words) + section.words[:, -1]
            ranks = np.argsort(keys, kind="stable")
            keys, ordered = keys[ranks], section.words[ranks]
            is_again = np.concatenate([[False], keys[1:] == keys[:-1]])
            self._refuse(is_again[np.argsort(ranks)], section, "it is there twice")
            self._keys.append(keys)
            parents.append(parent[ranks])
            labels.append(ordered[:, -1])
            part = self.nodes[self._starts[order - 1] : self._starts[order]]
            part["log_prob"], part["backoff"] = section.log_prob[ranks], section.backoff[ranks]
            part["suffix"] = self._suffixes(ordered)
        self.nodes["first"] = np.searchsorted(np.concatenate(parents), np.arange(num_nodes + 1))
        self.label: Ints = np.concatenate(labels).astype(np.int32)
        self._set_contexts(num_nodes)

    def _set_contexts(self, num_nodes: int) -> None:
        """A context that no longer n-gram has, and that costs nothing to leave, says no more than its suffix."""
        first, backoff, suffix = self.nodes["first"], self.nodes["backoff"], self.nodes["suffix"]
        keeps = (first[1:] > first[:-1]) | (backoff[:-1] != 0)
        keeps[self._starts[self.order - 1] :] = False
        context = np.where(keeps, np.arange(num_nodes), 0)
        for order in range(1, self.order + 1):  # shorter ones first: theirs are settled
            place = np.arange(self._starts[order - 1], self._starts[order])
            left = place[~keeps[place]]
            context[left] = context[suffix[left]]
        self.nodes["context"][:-1] = context

    @cached_property
    def index(self) -> dict[str, int]:
        """Word to number."""
        return {word: number for number, word in enumerate(self.words)}

    def number(self, word: str) -> int:
        """The number of a word, or of ``<unk>``."""
        return self.index.get(word, self.index[UNKNOWN_WORD_NAME])

    @property
    def start(self) -> int:
        """State at the start of a sentence."""
        return int(self.nodes[1 + self.index[START]].context) if START in self.index else 0

    @cached_property
    def tables(self) -> LanguageModel:
        """What the search reads."""
        return LanguageModel(
            kind=ARPA, nodes=self.nodes, label=self.label, answers=records(0, ANSWER), end=self.number(END),
            unknown=self.index[UNKNOWN_WORD_NAME], num_words=len(self.words),
        )  # fmt: skip

    def score(self, words: Sequence[str]) -> float:
        """Ln P of a sentence, its end included."""
        from audio_ssl.inference.decoding.kernel import score_words

        numbers = np.array([self.number(word) for word in [*words, END]], dtype=np.int32)
        return score_words(self.tables, self.start, numbers)

    def _nodes(self, ngrams: NDArray[Any]) -> Longs:
        """Nodes of n-grams of an order that is there already; -1 where there is none, the root for empty ones."""
        nodes = np.zeros(len(ngrams), dtype=np.int64)
        for depth, words in enumerate(ngrams.T):
            wanted = nodes * len(self.words) + words
            keys = self._keys[depth]
            places = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
            is_there = (nodes >= 0) & (keys[places] == wanted if len(keys) else False)
            nodes = np.where(is_there, self._starts[depth] + places, -1)
        return nodes

    def _suffixes(self, ngrams: NDArray[Any]) -> Longs:
        """The longest n-gram that is there and that each of these ends with, itself excepted."""
        found = np.zeros(len(ngrams), dtype=np.int64)
        for begin in range(ngrams.shape[1] - 1, 0, -1):  # longer ones overwrite shorter ones
            nodes = self._nodes(ngrams[:, begin:])
            found = np.where(nodes >= 0, nodes, found)
        return found

    def _refuse(self, is_wrong: NDArray[np.bool_], section: Section, why: str) -> None:
        if is_wrong.any():
            ngram = " ".join(self.words[i] for i in section.words[int(is_wrong.argmax())])
            raise ConfigError(f"an n-gram model must hold every n-gram once, after its context; {ngram!r}: {why}")
