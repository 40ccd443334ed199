"""Transcripts that are odd in themselves: damaged, marked up, with digits, of another script, without a word.

What is spoken is looked for after the model's text rules, for that is what the model is to write; damage and markup
before them, for rules may take the brackets of ``<noise>`` away and leave a word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress

from audio_ssl.data.preflight.characters import (
    UNSPACED,
    is_damage,
    is_digit,
    is_word_character,
    name_of,
    script_of,
)
from audio_ssl.data.preflight.notices import Split, shown_text

MARKUP = re.compile(
    r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\)|（[^（）]*）|【[^【】]*】"  # <noise> [laughter] {uh} (inaudible)
    r"|&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z]+);"  # &amp; &#39;
    r"|\\[nrtux]|https?://|www\.|[\[\]<>{}()|_*#@^~=\\/]"
)
MINOR_SCRIPT_SHARE = 0.01  # of the letters of a language: a script below it is not the language's own
SPELLED_WORDS, SPELLED_SHARE = 4, 0.8  # words of one letter: so many at least, and this share of all words
SPELLED_TEXTS = 0.5  # of the transcripts; where fewer are so, they spell names

KINDS: Mapping[str, tuple[str, str]] = {
    # check: (what such transcripts are, what to do)
    "damaged": (
        "are damaged: control characters, characters that stand for lost ones, or a wrong encoding",
        "Read the corpus in the encoding that it was written in, and take such characters out",
    ),
    "markup": (
        "have markup or signs that nobody speaks, which the model would learn as letters",
        "Take tags, brackets and entities out of the transcripts, or leave the rows out",
    ),
    "no_word": (
        "have no letter and no digit",
        "Empty the transcript, so that the row is left out, or correct it",
    ),
    "digits": (
        "have digits, which are spoken in several ways",
        "Write numbers as they are spoken; let it be where the model is to write digits and the transcripts always do",
    ),
    "spelled_out": (
        "have letters parted by spaces, as fairseq's .ltr files do",
        "Give the words: `manifest convert` reads .ltr files as what they are",
    ),
    "other_script": (
        f"have letters of a script that makes up less than {MINOR_SCRIPT_SHARE:.0%} of their language",
        "Look whether these rows are of another language, or fill in the column `language`",
    ),
    "mixed_scripts": (
        "have words in more than one script, such as a Cyrillic 'а' among Latin letters: they look right and are not",
        "Write each word in one script",
    ),
}  # fmt: skip


def find_oddities(split: Split) -> dict[str, dict[int, str]]:
    """Look at every transcript; one may be odd in several ways.

    Returns:
        Check (a key of :data:`KINDS`) to row number to what is odd about it; checks without a row are left out.
    """
    foreign = _foreign_scripts(split)
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for row, (raw, text) in enumerate(zip(split.raw, split.texts, strict=True)):
        if not text:
            continue
        for check, about in _of_text(raw, text, foreign=foreign[split.languages[row]]):
            found[check][row] = f"{about} in {shown_text(raw)}" if about else shown_text(raw)
    if len(found["spelled_out"]) < SPELLED_TEXTS * split.num_texts:
        del found["spelled_out"]
    return {check: found[check] for check in KINDS if found.get(check)}


def _of_text(raw: str, text: str, *, foreign: set[str]) -> Iterator[tuple[str, str]]:
    damage = _damage(raw)
    if damage:
        yield "damaged", damage
    markup = MARKUP.search(raw)
    if markup:
        yield "markup", repr(markup[0])
    if not any(map(is_word_character, text)):
        yield "no_word", ""
        return
    if any(map(is_digit, text)):
        yield "digits", ""
    if _is_spelled_out(text):
        yield "spelled_out", ""
    if text.isascii():
        if "LATIN" in foreign and any(map(str.isalpha, text)):
            yield "other_script", "LATIN"
        return
    scripts = {script for script in map(script_of, text) if script is not None}
    if scripts & foreign:
        yield "other_script", ", ".join(sorted(scripts & foreign))
    if len(scripts - UNSPACED) > 1:
        mixed = next(filter(_is_mixed, text.split()), None)
        if mixed is not None:
            yield "mixed_scripts", repr(mixed)


def _damage(raw: str) -> str:
    """What is damaged about a transcript; empty where nothing is."""
    if raw.isascii() and raw.isprintable():
        return ""
    broken = next(filter(is_damage, raw), None)
    if broken is not None:
        return name_of(broken)
    meant = _misread(raw)
    return f"UTF-8 read in another encoding (of {shown_text(meant)}?)" if meant is not None else ""


def _misread(text: str) -> str | None:
    """The text that was meant where bytes of UTF-8 were read as if each were a character: ``Ã©`` for ``é``.

    Real words practically never are valid UTF-8 when written in an encoding of one byte a character.
    """
    for encoding in ("cp1252", "latin-1"):
        with suppress(UnicodeError):
            meant = text.encode(encoding).decode("utf-8")
            return meant if meant != text else None
    return None


def _is_spelled_out(text: str) -> bool:
    words = text.split()
    if len(words) < SPELLED_WORDS:
        return False
    single = [word for word in words if len(word) == 1 and script_of(word) not in UNSPACED]
    return len(single) >= max(SPELLED_WORDS, SPELLED_SHARE * len(words))


def _is_mixed(word: str) -> bool:
    scripts = {script for script in map(script_of, word) if script is not None}
    return len(scripts) > 1 and not scripts & UNSPACED


def count_scripts(split: Split) -> dict[str, Counter[str]]:
    """Letters of each script, by language ("" where it is unknown)."""
    by_language: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for language, text in zip(split.languages, split.texts, strict=True):
        by_language[language].update(text)
    scripts: dict[str, Counter[str]] = {}
    for language, characters in by_language.items():
        counts = scripts[language] = Counter()
        for character, count in characters.items():
            script = script_of(character)
            if script is not None:
                counts[script] += count
    return scripts


def _foreign_scripts(split: Split) -> dict[str, set[str]]:
    """By language, the scripts that are not its own for being so rare."""
    return {
        language: {script for script, n in counts.items() if n < MINOR_SCRIPT_SHARE * counts.total()}
        for language, counts in count_scripts(split).items()
    }
