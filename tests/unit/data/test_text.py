"""Characters and back, and what CTC needs."""

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
