"""How known words are spelled with a model's symbols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from audio_ssl.data.pieces import WORD_START
from audio_ssl.data.text import BLANK, PAD, UNKNOWN, Vocabulary
from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.tables import SYMBOL, Symbols, records

NUM_NAMED = 10
Spelling = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A word of a lexicon.

    Attributes:
        word: as it is written.
        symbols: as it is spelled, without separator.
    """

    word: str
    symbols: Spelling


class Speller:
    """The units of words: symbols, or characters where symbols are pieces of words.

    Pieces are taken apart, so that any way to cut a word into pieces spells it.

    Args:
        vocabulary: the model's symbols.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.has_pieces = vocabulary.separator is None
        self._starts = [self.has_pieces and symbol.startswith(WORD_START) for symbol in vocabulary.symbols]
        self._unit: dict[str, int] = {}
        self._units = [self._units_of(i) for i in range(len(vocabulary))]

    def _units_of(self, token: int) -> tuple[int, ...]:
        symbol = self.vocabulary.symbols[token]
        if not self.has_pieces or not self._is_text(token) or symbol == UNKNOWN:
            parts: Iterable[str] = (symbol,)
        else:
            parts = symbol.removeprefix(WORD_START)
        return tuple(self._unit.setdefault(part, len(self._unit)) for part in parts)

    def _is_text(self, token: int) -> bool:
        # decode_ids writes nothing for <s>, </s> and their kind, so no hypothesis needs them
        return token == self.vocabulary.separator or self._starts[token] or bool(self.vocabulary.decode_ids([token]))

    def units(self, symbols: Sequence[int]) -> tuple[int, ...]:
        """Units of labels, one label after another."""
        return tuple(unit for token in symbols for unit in self._units[token])

    def spell(self, word: str) -> Spelling | None:
        """The symbols of a normalised word; None where the model has none for it."""
        tokens = self.vocabulary.spell(word)
        unknown = self.vocabulary.index[UNKNOWN]
        if not tokens or unknown in tokens:
            return None
        return tuple(self.vocabulary.symbols[token] for token in tokens)

    def tables(self) -> Symbols:
        """What the search needs to know of the symbols."""
        num_symbols, separator = len(self.vocabulary), self.vocabulary.separator
        return Symbols(
            symbols=records(
                num_symbols + 1, SYMBOL,
                first_unit=list(accumulate((len(units) for units in self._units), initial=0)),
                is_text=[token != BLANK and self._is_text(token) for token in range(num_symbols)],
                starts_word=self._starts,
            ),
            units=np.array([unit for units in self._units for unit in units], dtype=np.int32),
            separator=-1 if separator is None else separator,
        )  # fmt: skip


def read_lexicon(path: Path, vocabulary: Vocabulary) -> list[Entry]:
    """Words with their spellings, in the order of the file.

    Args:
        path: UTF-8 text, one word a line, optionally a tab and its symbols parted by spaces; a word may have several.
        vocabulary: the symbols that may be used, and the rules that words go through.

    Raises:
        ConfigError: unreadable, empty, or with words that the vocabulary cannot spell; all in one message.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--lexicon must be a UTF-8 text file with one word a line: {error}") from error
    entries, faults = dict[Entry, None](), []
    separator = None if vocabulary.separator is None else vocabulary.symbols[vocabulary.separator]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, tab, given = line.partition("\t")
        word = vocabulary.normalize(text)
        if tab:
            symbols = tuple(s for s in given.split() if s != separator)
        else:
            symbols = tuple(vocabulary.symbols[token] for token in vocabulary.spell(word))
        odd = sorted({s for s in symbols if s not in vocabulary.index or s in (PAD, UNKNOWN)})
        if odd or not symbols or " " in word or not word:
            letters = [s for s in odd if s != UNKNOWN] or [c for c in word if UNKNOWN in _spelled(c, vocabulary)]
            named = f" ({' '.join(letters)})" if letters else ""
            faults.append(f"{path}:{number}: {line.strip()!r} cannot be spelled{named}")
        entries[Entry(word, symbols)] = None
    if faults or not entries:
        shown = "\n".join(f"  - {fault}" for fault in faults[:NUM_NAMED]) or "  - it holds no word"
        more = f"\n  - and {len(faults) - NUM_NAMED} more" if len(faults) > NUM_NAMED else ""
        raise ConfigError(f"--lexicon must hold words that this model's symbols can spell:\n{shown}{more}")
    return list(entries)


def _spelled(text: str, vocabulary: Vocabulary) -> Spelling:
    return tuple(vocabulary.symbols[token] for token in vocabulary.spell(text))
