"""Transcripts and characters: normalisation, the vocabulary, and what CTC needs of a label sequence.

Index 0 is ``<pad>`` and the CTC blank (as at Hugging Face), ``|`` separates words. This module knows no audio.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from audio_ssl.config.text import TextRules
from audio_ssl.data.normalize import UNKNOWN_SHOWN, Normalizer
from audio_ssl.errors import ConfigError

PAD, UNKNOWN, WORD_SEPARATOR = "<pad>", "<unk>", "|"
SPECIAL = (PAD, UNKNOWN, WORD_SEPARATOR)
BLANK = 0


@dataclass(frozen=True)
class Vocabulary:
    """Characters (code points) and their indices.

    Attributes:
        symbols: ``<pad>`` (the blank) at 0, ``<unk>``, ``|``, then one symbol a letter. What else stands in angle
            brackets is no text.
        rules: what every text goes through before it is spelled.
    """

    symbols: tuple[str, ...]
    rules: TextRules = field(default_factory=TextRules)

    def __post_init__(self) -> None:
        faults = [f"{s!r} is missing" for s in self._special() if s not in self.symbols]
        if self.symbols and self.symbols[0] != PAD:
            faults.append(f"the first symbol (the CTC blank) must be {PAD!r}, got {self.symbols[0]!r}")
        faults += [f"{s!r} is there {n} times" for s, n in Counter(self.symbols).items() if n > 1]
        if faults:
            raise ConfigError(
                "symbols of a vocabulary must be different and hold the special ones: " + "; ".join(faults)
            )

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, rules: TextRules, min_count: int = 1) -> Vocabulary:
        """The characters of the transcripts in code point order, after the special symbols.

        Args:
            texts: transcripts, not yet normalised.
            rules: what they go through, here and in :meth:`encode`.
            min_count: characters seen less often stay out, and become ``<unk>``.
        """
        counts = count_characters(texts, rules=rules)
        return Vocabulary((*SPECIAL, *_letters(counts, min_count=min_count)), rules)

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def index(self) -> dict[str, int]:
        """Symbol to index."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @property
    def separator(self) -> int | None:
        """Index of the symbol between words; None where the symbols themselves tell where words start."""
        return self.index[WORD_SEPARATOR]

    def normalize(self, text: str) -> str:
        """The text by the model's rules (:class:`audio_ssl.config.text.TextRules`), as :meth:`decode_ids` writes it."""
        return self._normalizer(text)

    def encode(self, text: str) -> list[int]:
        """Indices of a transcript after :meth:`normalize`; what the vocabulary lacks becomes ``<unk>``."""
        labels: list[int] = []
        for word in self.normalize(text).split():
            if labels and self.separator is not None:
                labels.append(self.separator)
            labels += self.spell(word)
        return labels

    def spell(self, word: str) -> tuple[int, ...]:
        """The labels of one normalised word inside a text, separator left out.

        Args:
            word: without white space, from a text that :meth:`normalize` gave.
        """
        unknown = self.index[UNKNOWN]
        # a bar in the transcript is no word separator
        return tuple(unknown if c == WORD_SEPARATOR else self.index.get(c, unknown) for c in word)

    def decode_ids(self, ids: Iterable[int]) -> str:
        """Text of indices after :func:`collapse`: ``|`` becomes a space, ``<unk>`` a double question mark."""
        return " ".join("".join(map(self._shown.__getitem__, ids)).split())

    def words_of(self, ids: Sequence[int]) -> list[slice]:
        """Which labels make each word of ``decode_ids(ids)``; separators, and runs without text, belong to none."""
        bounds = [-1, *(i for i, label in enumerate(ids) if self._shown[label] == " "), len(ids)]
        groups = [slice(a + 1, b) for a, b in pairwise(bounds)]
        return [group for group in groups if any(self._shown[label] for label in ids[group])]

    def grown(self, texts: Iterable[str], *, min_count: int = 1) -> Vocabulary:
        """This vocabulary with the characters that the transcripts have beyond it, at its end in code point order.

        Args:
            texts: transcripts, not yet normalised.
            min_count: characters seen less often stay out.
        """
        counts = count_characters(texts, rules=self.rules)
        new = [c for c in _letters(counts, min_count=min_count) if c not in self.index]
        return Vocabulary((*self.symbols, *new), self.rules) if new else self

    def lacks(self, character: str) -> bool:
        """Whether a character of a normalised text becomes ``<unk>``."""
        return character == WORD_SEPARATOR or character not in self.index

    @classmethod
    def _special(cls) -> tuple[str, ...]:
        return SPECIAL

    @cached_property
    def _normalizer(self) -> Normalizer:
        return Normalizer(self.rules)

    @cached_property
    def _shown(self) -> tuple[str, ...]:
        """What each symbol writes; ``<pad>``, ``<s>`` and their kind nothing."""
        special = {WORD_SEPARATOR: " ", UNKNOWN: UNKNOWN_SHOWN}
        return tuple(special.get(s, "" if s.startswith("<") and s.endswith(">") else s) for s in self.symbols)


def _letters(counts: Counter[str], *, min_count: int) -> list[str]:
    return sorted(c for c, n in counts.items() if n >= min_count and c not in (" ", WORD_SEPARATOR, UNKNOWN_SHOWN))


def collapse(frame_ids: Iterable[int], *, blank: int = BLANK) -> list[int]:
    """CTC's map from frames to labels: runs become one, then blanks go (Graves et al. 2006, section 3.1)."""
    labels, previous = [], blank
    for i in frame_ids:
        if i not in (previous, blank):
            labels.append(int(i))
        previous = i
    return labels


def min_ctc_frames(labels: Sequence[int]) -> int:
    """The fewest frames that can carry ``labels``: one each, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def count_characters(texts: Iterable[str], *, rules: TextRules) -> Counter[str]:
    """How often each character stands in the normalised transcripts (the space included)."""
    counts, normalize = Counter[str](), Normalizer(rules)
    for text in texts:
        counts.update(normalize(text))
    return counts


@dataclass(frozen=True)
class UnknownCharacter:
    """A character that a vocabulary lacks.

    Attributes:
        character: it.
        count: how often it stands in the transcripts.
        rows: names of the first rows that have it.
    """

    character: str
    count: int
    rows: tuple[str, ...]

    def __str__(self) -> str:
        name = unicodedata.name(self.character, "unnamed")
        return f"{self.character!r} (U+{ord(self.character):04X} {name}): {self.count} times, in {'; '.join(self.rows)}"


def out_of_vocabulary(
    vocabulary: Vocabulary, rows: Iterable[tuple[str, str]], *, max_rows: int = 3
) -> tuple[UnknownCharacter, ...]:
    """The characters of the transcripts that the vocabulary lacks, most frequent first.

    Args:
        vocabulary: to look in.
        rows: (name of the row for messages, transcript).
        max_rows: names kept a character.
    """
    counts: Counter[str] = Counter()
    seen: dict[str, list[str]] = {}
    for name, text in rows:
        missing = [c for c in vocabulary.normalize(text) if c != " " and vocabulary.lacks(c)]
        counts.update(missing)
        for character in dict.fromkeys(missing):
            names = seen.setdefault(character, [])
            if len(names) < max_rows:
                names.append(name)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(UnknownCharacter(c, n, tuple(seen[c])) for c, n in ordered)
