"""Transcripts and characters: normalisation, the vocabulary, and what CTC needs of a label sequence.

Index 0 is ``<pad>`` and the CTC blank (as at Hugging Face), ``|`` separates words. This module knows no audio.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from audio_ssl.errors import ConfigError

PAD, UNKNOWN, WORD_SEPARATOR = "<pad>", "<unk>", "|"
SPECIAL = (PAD, UNKNOWN, WORD_SEPARATOR)
BLANK = 0
UNKNOWN_SHOWN = "\N{DOUBLE QUESTION MARK}"  # how decode_ids writes <unk>


def normalize_text(text: str, *, lowercase: bool) -> str:
    """NFC, white space collapsed to single spaces and stripped, lower case if asked."""
    composed = unicodedata.normalize("NFC", text.lower() if lowercase else text)
    return " ".join(composed.split())


@dataclass(frozen=True)
class Vocabulary:
    """Characters and their indices.

    Attributes:
        symbols: ``<pad>`` (the blank) at 0, ``<unk>``, ``|``, then one symbol a letter.
        lowercase: transcripts are lower-cased before they are looked up.
    """

    symbols: tuple[str, ...]
    lowercase: bool = False

    def __post_init__(self) -> None:
        faults = [f"{s!r} is missing" for s in SPECIAL if s not in self.symbols]
        if self.symbols and self.symbols[0] != PAD:
            faults.append(f"the first symbol (the CTC blank) must be {PAD!r}, got {self.symbols[0]!r}")
        faults += [f"{s!r} is there {n} times" for s, n in Counter(self.symbols).items() if n > 1]
        if faults:
            raise ConfigError(
                "symbols of a vocabulary must be different and hold the special ones: " + "; ".join(faults)
            )

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, lowercase: bool, min_count: int = 1) -> Vocabulary:
        """The characters of the transcripts in code point order, after the special symbols.

        Args:
            texts: transcripts, not yet normalised.
            lowercase: lower-case them, here and in :meth:`encode`.
            min_count: characters seen less often stay out, and become ``<unk>``.
        """
        counts = count_characters(texts, lowercase=lowercase)
        letters = sorted(c for c, n in counts.items() if n >= min_count and c not in (" ", WORD_SEPARATOR))
        return cls(symbols=(*SPECIAL, *letters), lowercase=lowercase)

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def index(self) -> dict[str, int]:
        """Symbol to index."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> list[int]:
        """Indices of a transcript after :func:`normalize_text`; spaces become ``|``, unknown characters ``<unk>``."""
        unknown, separator = self.index[UNKNOWN], self.index[WORD_SEPARATOR]
        return [
            # a bar in the transcript is no word separator
            separator if c == " " else unknown if c == WORD_SEPARATOR else self.index.get(c, unknown)
            for c in normalize_text(text, lowercase=self.lowercase)
        ]

    def decode_ids(self, ids: Iterable[int]) -> str:
        """Text of indices after :func:`collapse`: ``|`` becomes a space, ``<unk>`` a double question mark."""
        parts = []
        for i in ids:
            symbol = self.symbols[i]
            if symbol == WORD_SEPARATOR:
                parts.append(" ")
            elif symbol == UNKNOWN:
                parts.append(UNKNOWN_SHOWN)
            elif not (symbol.startswith("<") and symbol.endswith(">")):  # <pad>, <s> and their kind are not text
                parts.append(symbol)
        return " ".join("".join(parts).split())


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


def count_characters(texts: Iterable[str], *, lowercase: bool) -> Counter[str]:
    """How often each character stands in the normalised transcripts (the space included)."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalize_text(text, lowercase=lowercase))
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
        normalized = normalize_text(text, lowercase=vocabulary.lowercase)
        missing = [c for c in normalized if c != " " and (c == WORD_SEPARATOR or c not in vocabulary.index)]
        counts.update(missing)
        for character in dict.fromkeys(missing):
            names = seen.setdefault(character, [])
            if len(names) < max_rows:
                names.append(name)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(UnknownCharacter(c, n, tuple(seen[c])) for c, n in ordered)
