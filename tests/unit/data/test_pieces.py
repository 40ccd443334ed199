"""Parts of words: what SentencePiece spells is what it would spell itself, and reads back as the text."""

import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.config import TextRules
from audio_ssl.data.pieces import PieceVocabulary, train_pieces
from audio_ssl.errors import ConfigError

sentencepiece = pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")

RULES = TextRules()
TEXTS = ["Hello world", "the cat sat on the mat", "don't go", "the dog ate the cat", "worlds apart"] * 9


def trained(kind="unigram", num_pieces=26, texts=TEXTS, **settings) -> PieceVocabulary:
    model = train_pieces(texts, rules=RULES, num_pieces=num_pieces, kind=kind, **settings)
    return PieceVocabulary.of_model(model, rules=RULES, source="here")


def own_model(texts=TEXTS, **settings) -> bytes:
    """A model as a user trains one, with the package's own defaults."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, vocab_size=30, minloglevel=2, hard_vocab_limit=False,
        **settings,
    )  # fmt: skip
    return file.getvalue()


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def vocabulary(request) -> PieceVocabulary:
    return trained(request.param)


def test_rows_are_the_models_own_with_the_blank_first(vocabulary):
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    assert vocabulary.symbols == tuple(processor.id_to_piece(i) for i in range(len(vocabulary)))
    assert vocabulary.symbols[:2] == ("<pad>", "<unk>")
    assert vocabulary.separator is None
    text = "the cat don't sat on hello worlds"
    assert vocabulary.encode(text) == processor.encode(text)


def test_text_comes_back_word_by_word(vocabulary):
    labels = vocabulary.encode("The dog's MAT")
    assert vocabulary.decode_ids(labels) == "the dog's mat"
    assert [vocabulary.decode_ids(labels[part]) for part in vocabulary.words_of(labels)] == ["the", "dog's", "mat"]
    assert vocabulary.spell("mat") == tuple(labels[vocabulary.words_of(labels)[2]])


@given(data=st.data())
def test_words_of_labels_are_the_words_of_their_text(vocabulary, data):
    ids = data.draw(st.lists(st.integers(0, len(vocabulary) - 1), max_size=12))
    words = [vocabulary.decode_ids(ids[part]) for part in vocabulary.words_of(ids)]
    assert words == vocabulary.decode_ids(ids).split()


def test_unknown_characters_are_one_symbol_each(vocabulary):
    # ▁ marks the start of a word here, so in a text it is unknown, as is what stands for an unknown symbol
    labels = vocabulary.encode("cat xyz ▁a ⁇o <pad>")
    assert 0 not in labels
    assert vocabulary.decode_ids(labels) == "cat ⁇⁇⁇ ⁇a ⁇o ⁇pad⁇"
    assert [vocabulary.lacks(c) for c in "ax<"] == [False, True, True]


def test_the_same_transcripts_give_the_same_model_without_rare_characters():
    texts = [*TEXTS, "a~b", "x" * 9000]
    first = trained(texts=texts, num_pieces=28, min_count=2)
    assert first == trained(texts=texts, num_pieces=28, min_count=2)
    assert "~" not in "".join(first.symbols)
    assert "x" in "".join(first.symbols)  # the long one was heard


def test_pieces_of_writing_without_spaces():
    vocabulary = trained(texts=["你好世界", "世界和平", "你好朋友"] * 5, num_pieces=14)
    labels = vocabulary.encode("世界你好")
    assert vocabulary.decode_ids(labels) == "世界你好"
    assert vocabulary.words_of(labels) == [slice(0, len(labels))]


@pytest.mark.parametrize(
    ("num_pieces", "message"), [(7, "16 characters, got 7: .*smaller"), (9000, "got 9000: .*too high")]
)
def test_as_many_pieces_as_the_transcripts_have(num_pieces, message):
    with pytest.raises(ConfigError, match=message):
        trained(num_pieces=num_pieces)


def test_a_model_of_the_users_own_keeps_its_normalisation_and_loses_its_control_symbols():
    vocabulary = PieceVocabulary.of_model(
        own_model(normalization_rule_name="nmt_nfkc_cf"), rules=TextRules(case="keep"), source="x.model"
    )
    assert vocabulary.symbols[:2] == ("<pad>", "<unk>")
    assert not {"<s>", "</s>"} & {*vocabulary.symbols}
    assert vocabulary.normalize("ＴＨＥ ⁇ Cat ﬁ") == "the ⁇ cat fi"
    assert vocabulary.decode_ids(vocabulary.encode("ＴＨＥ Cat")) == "the cat"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_by_whitespace": False}, "reaches over words"),
        ({"byte_fallback": True}, "falls back to bytes"),
        ({"treat_whitespace_as_suffix": True}, "the piece 'the▁' reaches over words"),
        ({"add_dummy_prefix": False}, "do not start with their mark"),
    ],
)
def test_models_whose_pieces_are_no_parts_of_words(settings, message):
    texts = ["of the", "in the"] * 50 if "split_by_whitespace" in settings else TEXTS
    settings = {**settings, "vocab_size": 300} if "byte_fallback" in settings else settings
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, minloglevel=2, hard_vocab_limit=False,
        **{"vocab_size": 30, **settings},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=f"x.model must have pieces that are parts of words, but .*{message}"):
        PieceVocabulary.of_model(file.getvalue(), rules=RULES, source="x.model")


def test_something_else_than_a_model():
    with pytest.raises(ConfigError, match=r"x.model must be a SentencePiece model"):
        PieceVocabulary.of_model(b"abc", rules=RULES, source="x.model")


def test_pieces_do_not_grow_but_may_suffice(vocabulary):
    assert vocabulary.grown(["THE cat"]) is vocabulary
    assert vocabulary.grown(["the cat x"], min_count=2) is vocabulary
    with pytest.raises(ConfigError, match="cannot grow, but they have 'x' 'é'"):
        vocabulary.grown(["the cat éx"])


def test_a_vocabulary_goes_to_other_processes(vocabulary):
    vocabulary.encode("the cat")
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again == vocabulary
    assert again.encode("the cat") == vocabulary.encode("the cat")
