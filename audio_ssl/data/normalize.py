"""A model's text rules at work: any writing of a text becomes the one that its recogniser was trained on.

Knows no vocabulary. Combining marks stay behind the letter that they belong to: nothing is reordered beyond Unicode's
own forms, and what is removed goes with the marks on it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from audio_ssl.config.text import TextRules, cased

UNKNOWN_SHOWN = "\N{DOUBLE QUESTION MARK}"  # how an unknown symbol is written
_STANDS_FOR_UNKNOWN = "\U0010ffff"  # no character: neither NFKC nor removal of punctuation takes it for "??"
_JOIN_CONTROLS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # they shape letters: Persian, Malayalam, Sinhala
_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"  # parts words in Thai, Khmer and Burmese
_VISIBLE_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")  # Arabic signs

_Kind = Literal["word", "mark", "accent", "join", "space", "hidden"]


@dataclass(frozen=True)
class Normalizer:
    """Text rules, ready to run; picklable.

    Attributes:
        rules: what a text goes through.
    """

    rules: TextRules

    def __call__(self, text: str) -> str:
        """The text as its model spells it; once normalised, it stays as it is."""
        kinds = set(map(_kind, set(text)))
        is_marked = UNKNOWN_SHOWN in text
        if is_marked:
            text = text.replace(UNKNOWN_SHOWN, _STANDS_FOR_UNKNOWN)
        if "hidden" in kinds:
            text = "".join(map(_seen, text))
        form = self.rules.unicode_form
        text = unicodedata.normalize(form, text).translate(self._before)
        text = cased(text, self.rules.case).translate(self._after)
        if self.rules.punctuation == "remove" or "join" in kinds:
            text = self._without_marks(text)
        text = unicodedata.normalize(form, " ".join(text.split()))
        return text.replace(_STANDS_FOR_UNKNOWN, UNKNOWN_SHOWN) if is_marked else text

    @cached_property
    def _before(self) -> dict[int, str]:
        return {ord(k): v for k, v in self.rules.replace.items()}

    @cached_property
    def _after(self) -> dict[int, str]:
        return {ord(k): cased(v, self.rules.case) for k, v in self.rules.replace.items()}

    def _without_marks(self, text: str) -> str:
        """Marks become spaces, and the accents on them go; joiners stay behind letters alone."""
        kept, previous, is_gone = list[str](), "space", False
        for i, c in enumerate(text):
            kind = _kind(c)
            if kind in ("accent", "join"):
                if not is_gone and (kind == "accent" or previous == "word"):
                    kept.append(c)
                continue
            is_gone = kind == "mark" and not self._stays(c, previous, _kind_at(text, i + 1))
            kept.append(" " if is_gone else c)
            previous = "space" if is_gone else kind
        return "".join(kept)

    def _stays(self, mark: str, before: str, behind: str) -> bool:
        rules = self.rules
        if rules.punctuation == "keep" or mark in rules.keep:
            return True
        return mark in rules.inside_words and before == behind == "word"


def _seen(character: str) -> str:
    """The character, or nothing for one that nobody sees: soft hyphens, marks of direction, byte order marks ..."""
    if _kind(character) != "hidden":
        return character
    return " " if character == _ZERO_WIDTH_SPACE else ""


def _kind_at(text: str, position: int) -> str:
    return _kind(text[position]) if position < len(text) else "space"


@cache
def _kind(character: str) -> _Kind:
    """What a character is to the rules, by Unicode's general category."""
    if character in _JOIN_CONTROLS:
        return "join"
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category == "Cf" and character not in _VISIBLE_FORMATS:
        return "hidden"
    kinds: dict[str, _Kind] = {"P": "mark", "S": "mark", "M": "accent"}
    return kinds.get(category[0], "word")
