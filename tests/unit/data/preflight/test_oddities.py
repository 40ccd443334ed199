"""Transcripts that are odd in themselves are found, row by row; ordinary ones of many scripts are not."""

import pytest

from audio_ssl.data.preflight.characters import is_damage, is_digit, script_of
from audio_ssl.data.preflight.notices import Split
from audio_ssl.data.preflight.oddities import KINDS, count_scripts, find_oddities

from .splits import row, split

ORDINARY = (
    ("en", "She couldn't go, well-known as she is."),
    ("de", "Straße, Übermut und Äpfel"),
    ("vi", "Tôi không biết"),
    ("ru", "Ёлка стоит в лесу"),
    ("ar", "مرحبا بالعالم"),
    ("fa", "می\u200cخواهم"),  # with a joiner of zero width
    ("he", "שלום עולם"),
    ("hi", "नमस्ते दुनिया"),
    ("th", "สวัสดีครับ"),
    ("zh", "今天天气很好一二三"),
    ("ja", "東京タワーへ行きます。Tシャツ"),
    ("ko", "안녕하세요 여러분"),
    ("fr", "ça va, naïve Noël"),
    ("pt", "É você"),
)


STRAYS = (("привет", "en"), ("привет", "ru"), ("the", "ru"))


def checks(found: dict[str, dict[int, str]]) -> dict[str, list[int]]:
    return {check: list(rows) for check, rows in found.items()}


def test_ordinary_transcripts_of_many_scripts_are_not_odd():
    rows = [row(i, 3, text, language=language) for i, (language, text) in enumerate(ORDINARY)]
    assert find_oddities(split(*rows)) == {}


@pytest.mark.parametrize(
    ("text", "expected", "about"),
    [
        ("a\x07b", {"damaged"}, "U+0007"),
        ("caf\ufffd", {"damaged"}, "U+FFFD REPLACEMENT CHARACTER"),
        ("\ue000x", {"damaged"}, "U+E000"),
        ("cafÃ© au lait", {"damaged"}, "'café au lait'"),
        ("itâ€™s late", {"damaged"}, "'it’s late'"),
        ("well <noise> then", {"markup"}, "'<noise>'"),
        ("[laughter]", {"markup"}, "'[laughter]'"),
        ("he (inaudible) left", {"markup"}, "'(inaudible)'"),
        ("you &amp; me", {"markup"}, "'&amp;'"),
        ("a|b", {"markup"}, "'|'"),
        ("half [open", {"markup"}, "'['"),
        ("...", {"no_word"}, "'...'"),
        ("— ?!", {"no_word"}, ""),
        ("room 5", {"digits"}, "'room 5'"),
        ("२ बजे", {"digits"}, ""),
        ("he is from the u s a", set(), ""),
        ("u s a n a t o", set(), ""),
        ("hell\u043e there", {"mixed_scripts"}, "'hell\u043e'"),  # a Cyrillic o
        ("[5]", {"markup", "digits"}, ""),
    ],
)
def test_each_kind_is_found_and_told(text, expected, about):
    ordinary = [row(i, 3, "die привет wörter слова", language="xx") for i in range(1, 9)]
    found = find_oddities(split(row(0, 3, text, language="xx"), *ordinary))
    assert {check for check, rows in found.items() if 0 in rows} == expected
    assert all(set(rows) == {0} for rows in found.values())
    assert all(about in rows[0] for rows in list(found.values())[:1])
    assert found.keys() <= KINDS.keys()


def test_letters_apart_are_odd_where_they_are_the_rule():
    spelled = ["h e l l o", "T H E Y | L E F T", "y e s s"]
    found = find_oddities(split(*((1, text) for text in (*spelled, "the usual way", "n a", "字 字 字 字 字", ""))))
    assert checks(found) == {"markup": [1], "spelled_out": [0, 1, 2]}
    assert find_oddities(split(*((1, text) for text in ("h e l l o", "a word", "one more")))) == {}


def test_rows_without_a_transcript_are_nobodys_business_here():
    assert find_oddities(split((1, None), (1, ""), (1, "   "))) == {}


def test_a_rare_script_is_foreign_in_its_own_language_alone():
    english = [row(i, 3, "the quick brown fox jumps over the lazy dog", language="en") for i in range(20)]
    strays = [
        row(20, 3, "привет", language="en"),
        row(21, 3, "привет", language="ru"),
        row(22, 3, "the", language="ru"),
    ]
    found = find_oddities(split(*english, *strays))
    # three letters of nine are not rare; six of seven hundred are
    assert checks(found) == {"other_script": [20]}
    assert found["other_script"][20].startswith("CYRILLIC in ")
    russian = [row(i, 3, "съешь ещё этих мягких французских булок", language="ru") for i in range(20)]
    assert checks(find_oddities(split(*russian, row(20, 3, "the", language="ru")))) == {"other_script": [20]}


def test_letters_are_counted_by_language_and_script():
    found = count_scripts(split(row(0, 1, "ab 1 я", language="x"), row(1, 1, "日本ご", language="y"), row(2, 1, "c")))
    assert found == {"x": {"LATIN": 2, "CYRILLIC": 1}, "y": {"HAN AND KANA": 3}, "": {"LATIN": 1}}


@pytest.mark.parametrize(
    ("character", "script"),
    [("a", "LATIN"), ("Ａ", "LATIN"), ("ñ", "LATIN"), ("я", "CYRILLIC"), ("ー", "HAN AND KANA"), ("々", "HAN AND KANA"),
     ("한", "HANGUL"), ("ع", "ARABIC"), ("ไ", "THAI"), ("1", None), (" ", None), ("\u0301", None), ("ʼ", None),
     ("µ", None), ("ª", None)],
)  # fmt: skip
def test_scripts_of_characters(character, script):
    assert script_of(character) == script


def test_white_space_is_no_damage_and_numerals_of_han_are_no_digits():
    assert [c for c in "\t\n\r \u00a0\u200b\u200dé漢" if is_damage(c)] == []
    assert [c for c in "5½²٣一〇ⅷ" if is_digit(c)] == ["5", "½", "²", "٣"]


def test_what_the_rules_took_away_is_still_markup():
    rows = split((1, "<noise> yes"), (1, "yes"))
    assert checks(find_oddities(Split("train", rows.manifest, ["noise yes", "yes"]))) == {"markup": [0]}
