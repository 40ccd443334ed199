"""Text rules by hand, in the scripts that they must not harm, and as laws over any text."""

import pickle
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_ssl.config import TextRules
from audio_ssl.data.normalize import Normalizer

BARE = {"punctuation": "remove"}


def normalized(text: str, **rules) -> str:
    return Normalizer(TextRules(**rules))(text)


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        ({}, "  The CAT\tsat.\n", "the cat sat."),
        ({"case": "upper"}, "straße", "STRASSE"),
        ({"case": "keep"}, "Cafe\u0301 \u00a0 OLE\u0301", "Caf\u00e9 OL\u00c9"),
        ({}, "ΟΔΟΣ ΣΟΦΙΑ", "οδος σοφια"),  # a final sigma has its own form
        ({"unicode_form": "NFKC"}, "ﬁve ㎏ Ａ²", "five kg a2"),
        ({"unicode_form": "NFC"}, "ﬁ²", "ﬁ²"),
        (BARE, "Well-known, isn't it? (Yes!)", "well known isn't it yes"),
        (BARE, "'tis the dogs' «day»", "tis the dogs day"),
        (BARE, "don’t l·l a'1", "don’t l·l a'1"),
        ({**BARE, "keep": "?!"}, "No?! - yes.", "no?! yes"),
        ({**BARE, "inside_words": "-"}, "re-read - don't", "re-read don t"),
        ({**BARE, "replace": {"’": "'", "&": " and "}}, "Rock&Roll won’t", "rock and roll won't"),
        ({"replace": {"I": "ı"}}, "ISPARTA İzmir", "ısparta i\u0307zmir"),
        ({"replace": {"I": "ı", "İ": "i"}}, "ISPARTA İzmir", "ısparta izmir"),
        ({"replace": {"ß": "ss"}, "case": "upper"}, "ß", "SS"),
        ({"replace": {"e\u0301": "e"}}, "E\u0301t\u00e9", "ete"),  # found composed or not, and in the other case
        (BARE, "1️⃣ 👩\u200d💻 ❤\ufe0f ok", "1\ufe0f\u20e3 ok"),  # accents and joiners go with what they stood on
        ({}, "soft\u00adhyphen \ufeffmark\u200f", "softhyphen mark"),
        ({}, "\u200dab \u200cc, \u200d a\u200cb", "ab c, a\u200cb"),  # joiners join letters alone
        ({"case": "upper"}, "\u0390", "\u03aa\u0301"),  # what the case takes apart is composed again
        ({}, "a⁇ b", "a⁇ b"),
        ({**BARE, "unicode_form": "NFKC"}, "a⁇, b??", "a⁇ b"),  # how an unknown symbol is shown is no punctuation
        (BARE, "...", ""),
    ],
)
def test_by_hand(rules, text, expected):
    assert normalized(text, **rules) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Œuvre, Łódź — ñandú ş!", "œuvre łódź ñandú ş"),  # Latin
        ("Ёлка, съезд… Й", "ёлка съезд й"),  # Cyrillic: й stays one letter
        ("السَّلامُ، عليكم؟", "السَّلامُ عليكم"),  # Arabic with vowel signs, its comma and question mark
        ("نمی\u200cخواهم.", "نمی\u200cخواهم"),  # Persian: a joiner that shapes letters
        ("צה״ל, ג׳ירפה", "צה״ל ג׳ירפה"),  # Hebrew: gershayim and geresh inside words
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया"),  # Devanagari: vowel signs and virama; the danda goes
        ("സ്വന്\u200d, ക", "സ്വന്\u200d ക"),  # Malayalam: a joiner at a word's end
        ("สวัสดี\u200bครับ ๆ", "สวัสดี ครับ ๆ"),  # Thai: tone marks; the zero width space parts words
        ("你好，世界！", "你好 世界"),  # Chinese
        ("「東京」へ、ー", "東京 へ ー"),  # Japanese: the long vowel is a letter
        ("안녕, 한국어", "안녕 한국어"),  # Korean
        ("Привет-hello 世界3", "привет hello 世界3"),
    ],
)
def test_scripts_without_their_punctuation(text, expected):
    assert normalized(text, **BARE) == expected
    assert normalized(unicodedata.normalize("NFD", text), **BARE) == unicodedata.normalize("NFC", expected)


RULES = (
    TextRules(), TextRules(case="upper", unicode_form="NFKC"), TextRules(case="keep", punctuation="remove", keep="?"),
    TextRules(unicode_form="NFKC", punctuation="remove", replace={"’": "'", "&": " and ", "ё": "е", "ß": "ss"}),
)  # fmt: skip
ANYTHING = st.text(alphabet=st.characters(exclude_categories=("Cs",)) | st.sampled_from("'’-⁇\u200d\u200b\u00ad ́ß"))


@pytest.mark.parametrize("rules", RULES)
@settings(max_examples=200, deadline=None)
@given(text=ANYTHING)
def test_once_is_enough_and_composed_or_not_is_one(rules: TextRules, text: str):
    normalize = Normalizer(rules)
    once = normalize(text)
    assert normalize(once) == once
    assert unicodedata.is_normalized(rules.unicode_form, once)
    assert once.split(" ") == once.split() or not once


@settings(max_examples=200, deadline=None)
@given(text=ANYTHING)
def test_every_letter_and_digit_stays_in_its_order(text: str):
    def letters(of: str) -> list[str]:
        return [c for c in unicodedata.normalize("NFD", of) if unicodedata.category(c)[0] in "LN"]

    assert letters(normalized(text, case="keep", **BARE)) == letters(text)


def test_rules_go_to_other_processes():
    normalize = Normalizer(RULES[-1])
    normalize("x")
    assert pickle.loads(pickle.dumps(normalize))("Rock & Roll’s") == "rock and roll's"
