"""Settings of text: the rules that make transcripts alike, and how the symbols of a recogniser are found."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from audio_ssl.config.section import Count, Section

INSIDE_WORDS = "'’·׳״"
"""Apostrophes, the Catalan middle dot, Hebrew geresh and gershayim."""


class TextRules(Section):
    """What becomes of a text before it is spelled; a model keeps them, and every verb applies the model's own.

    In this order: Unicode form, ``replace``, ``case``, ``punctuation``; white space always becomes single spaces.
    """

    unicode_form: Literal["NFC", "NFKC"] = "NFC"
    """NFC makes composed and decomposed letters one; NFKC also wide, narrow and ligature forms, superscripts ..."""
    case: Literal["lower", "upper", "keep"] = "lower"
    punctuation: Literal["keep", "remove"] = "keep"
    """``remove``: punctuation and symbols (Unicode's P and S) become spaces, so that words stay apart."""
    keep: str = ""
    """Marks that stay wherever they are, although punctuation is removed: ``"?!"``."""
    inside_words: str = INSIDE_WORDS
    """Marks that stay between two letters or digits of a word, although punctuation is removed: ``don't``."""
    replace: Mapping[str, str] = {}
    """A character to what is written in its place, possibly nothing: ``{"’" = "'", "&" = " and "}``. It is looked for
    before and after the case is changed."""

    @field_validator("keep", "inside_words")
    @classmethod
    def _are_marks(cls, marks: str) -> str:
        odd = sorted({c for c in marks if unicodedata.category(c)[0] not in "PS"})
        if odd:
            raise ValueError(
                f"must hold punctuation and symbols alone, got {' '.join(map(_named, odd))}; letters, digits and "
                "accents are never removed"
            )
        return marks

    @field_validator("replace")
    @classmethod
    def _are_single(cls, replace: Mapping[str, str]) -> dict[str, str]:
        composed = {unicodedata.normalize("NFC", k): unicodedata.normalize("NFC", v) for k, v in replace.items()}
        odd = [k for k in composed if len(k) != 1 or k.isspace()]
        if odd:
            raise ValueError(
                f"must have one character (and no space) on the left, got {', '.join(map(repr, odd))}; longer "
                "passages are mended in the transcripts themselves"
            )
        return composed

    @model_validator(mode="after")
    def _replace_once(self) -> TextRules:
        outcomes = {k: cased(v, self.case) for k, v in self.replace.items()}
        chains = [
            f"{k!r} becomes {v!r}, of which {c!r} would be replaced in turn"
            for k, v in outcomes.items()
            for c in v
            if outcomes.get(c, c) != c
        ]
        if chains:
            raise ValueError(f"replace must end in one step, but {'; '.join(chains)}; give the last outcome itself")
        return self


def with_text_rules(ctc: Mapping[str, Any]) -> dict[str, Any]:
    """A ``[ctc]`` section of any age: before there were text rules, models said ``lowercase = true`` or ``false``."""
    if "text" in ctc or not isinstance(ctc.get("lowercase"), bool):
        return dict(ctc)
    rest = {key: value for key, value in ctc.items() if key != "lowercase"}
    return {**rest, "text": TextRules(case="lower" if ctc["lowercase"] else "keep").model_dump(mode="json")}


def cased(text: str, case: Literal["lower", "upper", "keep"]) -> str:
    """Text in a case; Unicode's own mapping, which knows no language (Turkish i: ``replace``)."""
    return text.lower() if case == "lower" else text.upper() if case == "upper" else text


def _named(character: str) -> str:
    return f"{character!r} ({unicodedata.name(character, 'unnamed')})"


class VocabularyConfig(Section):
    """How the symbols of a fresh head are found; a model that goes on keeps its own."""

    min_count: Count = 1
    """Characters seen less often become ``<unk>``, and are named."""
