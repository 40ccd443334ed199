"""What single characters say about a transcript: their script, and whether they belong into one at all."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

# Written together in one language, so counted as one.
_FAMILIES = dict.fromkeys(
    ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "BOPOMOFO"), "HAN AND KANA"
)
# Letters whose name does not start with a script.
_NO_SCRIPT = {
    "MODIFIER", "MATHEMATICAL", "MICRO", "FEMININE", "MASCULINE", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "KELVIN",
    "ANGSTROM", "OHM", "TURNED", "EULER", "ALEF", "BET", "GIMEL", "DALET", "INFORMATION", "ROTATED",
}  # fmt: skip
# Scripts whose words are not parted by spaces, or that take letters of others into a word.
UNSPACED = {"HAN AND KANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "YI"}


@lru_cache(maxsize=65536)
def script_of(character: str) -> str | None:
    """The script of a letter such as ``LATIN``, after its Unicode name; None for marks, digits, signs and spaces.

    Han, Hiragana and Katakana are one: they stand together in one language.
    """
    if not unicodedata.category(character).startswith("L"):
        return None
    words = unicodedata.name(character, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split()
    if not words or words[0] in _NO_SCRIPT:
        return None
    return _FAMILIES.get(words[0], words[0])


@lru_cache(maxsize=65536)
def is_damage(character: str) -> bool:
    """Whether a character has no place in any transcript: control, private, unassigned, or standing for a lost one.

    White space is not, and neither are formats without a width, which the text rules know.
    """
    if character.isspace():
        return False
    return unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs") or character == "\N{REPLACEMENT CHARACTER}"


@lru_cache(maxsize=65536)
def is_digit(character: str) -> bool:
    """Digits and numbers such as ``5`` and ``½``; not numerals that are letters, such as those of Han."""
    return unicodedata.category(character) in ("Nd", "No")


@lru_cache(maxsize=65536)
def is_word_character(character: str) -> bool:
    """Letters, marks and numbers: what a transcript needs at least one of."""
    return unicodedata.category(character)[0] in "LMN"


def name_of(character: str) -> str:
    """``U+00F1 LATIN SMALL LETTER N WITH TILDE``."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'unnamed')}"
