"""A model's vocabulary: kept in its directory, of any age, and found again as it was."""

import sys

import pytest
import torch

from audio_ssl.checkpoint import read_document, read_files, save_model, write_files
from audio_ssl.config import ModelConfig, TextRules, VocabularyConfig
from audio_ssl.data.pieces import PieceVocabulary
from audio_ssl.data.text import Vocabulary
from audio_ssl.data.vocabulary import build_vocabulary, parts_of, vocabulary_in
from audio_ssl.errors import CheckpointError, ConfigError, MissingExtraError
from audio_ssl.interop.source import load_encoder
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, save_model_dir

SYMBOLS = ("<pad>", "<unk>", "|", "a", "b")
RULES = TextRules(case="upper", punctuation="remove", replace={"’": "'"})
TEXTS = ["the cat sat on the mat", "don't go", "the dog ate the cat"] * 9


def kept(tmp_path, vocabulary: Vocabulary):
    """The document of a model with this vocabulary, written and read."""
    document = ctc_document(ModelConfig(), **parts_of(vocabulary))
    tmp_path.mkdir(exist_ok=True)
    save_model(tmp_path, document=document, tensors={"a": torch.zeros(1)})
    return read_document(tmp_path)


def test_characters_and_their_rules_are_kept(tmp_path):
    vocabulary = Vocabulary(SYMBOLS, RULES)
    found = vocabulary_in(kept(tmp_path, vocabulary)["ctc"], source=tmp_path)
    assert found == vocabulary
    assert found.normalize("ab, ’b’ a’b") == "AB B A'B"


@pytest.mark.parametrize(("old", "case"), [(True, "lower"), (False, "keep")])
def test_directories_from_before_there_were_rules(old, case):
    found = vocabulary_in({"symbols": list(SYMBOLS), "lowercase": old}, source="model/config.toml")
    assert found == Vocabulary(SYMBOLS, TextRules(case=case))


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        ({}, CheckpointError, r"m.toml must have a section \[ctc.text\].*got 'neither'"),
        ({"lowercase": "yes"}, CheckpointError, r"got \{'lowercase': 'yes'\}"),
        ({"text": 3, "lowercase": True}, CheckpointError, r"got \{'text': 3, 'lowercase': True\}"),
        ({"text": {"case": "no"}}, ConfigError, r"m.toml \[ctc.text\]: 1 setting must be mended"),
        ({"text": {}, "sentencepiece": "x"}, CheckpointError, "ctc.sentencepiece must name a file and its sha256"),
    ],
)
def test_sections_that_are_none(section, error, message):
    with pytest.raises(error, match=message):
        vocabulary_in({"symbols": list(SYMBOLS), **section}, source="m.toml")


def test_files_of_a_document(tmp_path):
    document = {"kind": "ctc", "ctc": {"words": b"\x00\xff", "symbols": ["a"]}}
    plain = write_files(tmp_path, document, prefix="m.")
    assert plain["kind"] == "ctc"
    # sha256sum of the two bytes
    digest = "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312eb86dc7169389b8"
    assert plain["ctc"] == {"words": {"file": "m.words.model", "sha256": digest}, "symbols": ["a"]}
    assert (tmp_path / "m.words.model").read_bytes() == b"\x00\xff"
    assert read_files(tmp_path, plain) == document


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "b.model", "sha256": "0"}, "must hold b.model, which its settings name"),
        ({"file": "a.model", "sha256": "0"}, r"a.model must be the file that the model was made with \(SHA-256 0\)"),
        ({"file": "../a.model", "sha256": "0"}, r"must name files of its own, got '\.\./a.model'"),
    ],
)
def test_files_that_are_not_the_ones(tmp_path, entry, message):
    (tmp_path / "a.model").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=message):
        read_files(tmp_path, {"ctc": {"pieces": entry}})


@pytest.fixture
def pieces() -> Vocabulary:
    pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    return build_vocabulary(TEXTS, RULES, VocabularyConfig(units="pieces", num_pieces=18))


def test_trained_pieces_are_kept_with_their_file(tmp_path, pieces):
    found = vocabulary_in(kept(tmp_path, pieces)["ctc"], source=tmp_path)
    assert found == pieces
    assert (tmp_path / "sentencepiece.model").read_bytes() == pieces.model
    assert found.decode_ids(found.encode("The cat, don’t!")) == "THE CAT DON'T"


def test_given_pieces_are_taken_as_they_are(tmp_path, pieces):
    (tmp_path / "p.model").write_bytes(pieces.model)
    given = VocabularyConfig(units="pieces", pieces_from=tmp_path / "p.model")
    assert build_vocabulary(["other texts"], RULES, given) == pieces
    absent = VocabularyConfig(units="pieces", pieces_from=tmp_path / "q.model")
    with pytest.raises(ConfigError, match=r"vocabulary.pieces_from must be a SentencePiece .model file: .*q.model"):
        build_vocabulary(TEXTS, RULES, absent)


def test_a_damaged_file_of_pieces_is_refused(tmp_path, pieces):
    kept(tmp_path, pieces)
    (tmp_path / "sentencepiece.model").write_bytes(pieces.model + b"\x00")
    with pytest.raises(CheckpointError, match=r"sentencepiece.model must be the file that the model was made with"):
        read_document(tmp_path)


def test_symbols_of_another_model_are_refused(tmp_path, pieces):
    section = kept(tmp_path, pieces)["ctc"]
    section["symbols"][3], expected = "xyz", section["symbols"][3]
    with pytest.raises(CheckpointError, match=f"they have 'xyz' where the model has {expected!r}"):
        vocabulary_in(section, source=tmp_path)
    with pytest.raises(CheckpointError, match="they have None where the model has"):
        vocabulary_in({**kept(tmp_path, pieces)["ctc"], "symbols": list(pieces.symbols[:-1])}, source=tmp_path)


def test_characters_have_no_file(pieces):
    assert isinstance(pieces, PieceVocabulary)
    assert parts_of(pieces)["sentencepiece"] == pieces.model
    assert parts_of(Vocabulary(SYMBOLS))["sentencepiece"] is None


def test_without_sentencepiece_pieces_ask_for_it_and_encoders_do_without(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"must have SentencePiece: pip install 'audio_ssl\[sentencepiece\]'"):
        build_vocabulary(TEXTS, RULES, VocabularyConfig(units="pieces", num_pieces=18))
    config = ModelConfig(
        preset="tiny_cpu", conv_dims=(8,) * 7, dim=24, num_heads=3, num_layers=1, ffn_dim=31, pos_conv_groups=4,
        pos_conv_kernel=8,
    )  # fmt: skip
    encoder = build_encoder(config)
    document = ctc_document(config, symbols=("<pad>", "<unk>", "▁a"), sentencepiece=b"pieces")
    save_model_dir(tmp_path / "model", document, {"encoder": encoder, "head": torch.nn.Linear(24, 3)})
    loaded = load_encoder(tmp_path / "model")
    assert torch.equal(loaded.mask_embedding, encoder.mask_embedding)
