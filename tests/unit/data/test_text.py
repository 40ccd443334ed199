"""Characters and back, and what CTC needs."""

import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.config import TextRules
from audio_ssl.data.normalize import Normalizer
from audio_ssl.data.text import (
    Vocabulary,
    collapse,
    min_ctc_frames,
    out_of_vocabulary,
)
from audio_ssl.errors import ConfigError

AS_WRITTEN = TextRules(case="keep")


def test_the_vocabulary_is_the_special_symbols_and_the_letters_in_order():
    vocabulary = Vocabulary.from_texts(["Bad  cab", "it's\ta DAD"], rules=TextRules())
    assert vocabulary.symbols == ("<pad>", "<unk>", "|", "'", "a", "b", "c", "d", "i", "s", "t")
    assert len(vocabulary) == 11
    assert vocabulary.encode(" A  bad ") == [4, 2, 5, 4, 7]


def test_rare_characters_become_unknown():
    vocabulary = Vocabulary.from_texts(["aab", "ab~"], rules=AS_WRITTEN, min_count=2)
    assert vocabulary.symbols[3:] == ("a", "b")
    assert vocabulary.encode("a~A|b") == [3, 1, 1, 1, 4]
    assert vocabulary.decode_ids([3, 1, 2, 4, 0]) == "a⁇ b"


def test_composed_and_decomposed_characters_are_one():
    assert Normalizer(AS_WRITTEN)("Cafe\u0301\u00a0\n ole\u0301") == "Caf\u00e9 ol\u00e9"
    vocabulary = Vocabulary.from_texts(["caf\u00e9"], rules=AS_WRITTEN)
    assert vocabulary.encode("cafe\u0301") == vocabulary.encode("caf\u00e9") == [4, 3, 5, 6]


@given(st.text(alphabet=st.characters(exclude_characters="|<>", exclude_categories=("Cs",)), max_size=30))
def test_decoding_an_encoded_text_gives_the_normalised_text(text: str):
    vocabulary = Vocabulary.from_texts([text], rules=AS_WRITTEN)
    normalized = vocabulary.normalize(text)
    assert vocabulary.decode_ids(vocabulary.encode(text)) == normalized
    assert vocabulary.normalize(normalized) == normalized


SCRIPTS = {
    "diacritics": "Žluťoučký kůň, příliš", "cyrillic": "Съешь же ещё", "arabic": "السَّلامُ عليكم",
    "hebrew": "שָׁלוֹם עולם", "devanagari": "नमस्ते दुनिया", "thai": "ภาษาไทย ที่นี่",
    "chinese": "你好世界", "japanese": "東京へ 行く", "korean": "안녕 한국어",
    "mixed": "hello мир 世界 don't",
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_spelled_and_read_back(script: str):
    text = SCRIPTS[script]
    vocabulary = Vocabulary.from_texts([text], rules=AS_WRITTEN)
    labels = vocabulary.encode(text)
    assert 1 not in labels
    assert vocabulary.decode_ids(labels) == unicodedata.normalize("NFC", text)
    words = vocabulary.normalize(text).split()
    assert [tuple(labels[part]) for part in vocabulary.words_of(labels)] == [vocabulary.spell(word) for word in words]


def test_a_mark_follows_its_letter_and_may_be_known_without_it():
    # क्षि is one sign on paper, four code points here: ka, virama, ssa, vowel i, in this order
    vocabulary = Vocabulary.from_texts(["क्षि"], rules=AS_WRITTEN)
    assert [vocabulary.symbols[i] for i in vocabulary.encode("क्षि")] == ["\u0915", "\u094d", "\u0937", "\u093f"]
    assert vocabulary.decode_ids(vocabulary.encode("खि")) == "⁇ि"  # an unknown letter leaves its vowel


def test_words_are_found_among_labels():
    vocabulary = Vocabulary(("<pad>", "<s>", "<unk>", "|", "a", "b"))
    assert vocabulary.separator == 3
    ids = [3, 4, 5, 3, 3, 2, 1, 3, 1, 3, 4]  # | a b | | ? <s> | <s> | a
    assert vocabulary.decode_ids(ids) == "ab ⁇ a"
    assert vocabulary.words_of(ids) == [slice(1, 3), slice(5, 7), slice(10, 11)]
    assert vocabulary.words_of([]) == []


@given(st.lists(st.integers(0, 5), max_size=15))
def test_words_of_labels_are_the_words_of_their_text(ids: list[int]):
    vocabulary = Vocabulary(("<pad>", "<s>", "<unk>", "|", "a", "b"))
    words = [vocabulary.decode_ids(ids[part]) for part in vocabulary.words_of(ids)]
    assert words == vocabulary.decode_ids(ids).split()


def test_a_vocabulary_grows_at_its_end():
    small = Vocabulary(("<pad>", "c", "<unk>", "|", "a"))
    grown = small.grown(["Zebra a|b ⁇", "zoo"])
    assert grown.symbols == ("<pad>", "c", "<unk>", "|", "a", "b", "e", "o", "r", "z")
    assert grown.rules == small.rules
    assert grown.encode("ca") == small.encode("ca")
    assert small.grown(["Zebra", "zoo"], min_count=2).symbols[5:] == ("o", "z")
    assert grown.grown(["zebra"]) is grown


def test_a_vocabulary_goes_to_other_processes():
    vocabulary = Vocabulary.from_texts(["Bad cab"], rules=TextRules())
    vocabulary.encode("bad")
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again == vocabulary
    assert again.encode("BAD cab") == vocabulary.encode("bad cab")


@given(st.lists(st.integers(0, 3), max_size=12))
def test_collapse_undoes_the_shortest_alignment(labels_with_blanks: list[int]):
    labels = [label for label in labels_with_blanks if label]
    alignment: list[int] = []
    for label in labels:
        if alignment and alignment[-1] == label:
            alignment.append(0)
        alignment.append(label)
    assert collapse(alignment) == labels
    assert min_ctc_frames(labels) == len(alignment)


def test_collapse_by_hand():
    assert collapse([0, 5, 5, 0, 5, 2, 2, 2, 0, 0, 7]) == [5, 5, 2, 7]
    assert min_ctc_frames([5, 5, 2, 2, 2]) == 8


def test_unseen_characters_are_counted_with_their_rows():
    vocabulary = Vocabulary(("<pad>", "<unk>", "|", "a", "b"))
    rows = [("row 1", "ABz"), ("row 2", "zz é"), ("row 3", "a|b"), ("row 4", "ab")]
    unknown = out_of_vocabulary(vocabulary, rows)
    assert [(u.character, u.count, u.rows) for u in unknown] == [
        ("z", 3, ("row 1", "row 2")),
        ("|", 1, ("row 3",)),
        ("é", 1, ("row 2",)),
    ]
    assert str(unknown[2]) == "'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE): 1 times, in row 2"


def test_special_symbols_of_other_tools_are_not_text():
    vocabulary = Vocabulary(("<pad>", "<s>", "</s>", "<unk>", "|", "E", "T"))
    assert vocabulary.decode_ids([1, 6, 5, 4, 5, 2, 0]) == "TE E"


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (("a", "<pad>", "<unk>", "|"), "first symbol"),
        (("<pad>", "<unk>", "a"), r"'\|' is missing"),
        (("<pad>", "<unk>", "|", "a", "a"), "'a' is there 2 times"),
        ((), "'<pad>' is missing"),
    ],
)
def test_a_vocabulary_without_its_special_symbols_is_refused(symbols: tuple[str, ...], message: str):
    with pytest.raises(ConfigError, match=message):
        Vocabulary(symbols)
