"""What transformers writes of an exported recogniser is what we write: characters of any script, and pieces."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import random_config, random_encoder

import audio_ssl
from audio_ssl.config import TextRules, VocabularyConfig
from audio_ssl.data.text import Vocabulary
from audio_ssl.data.vocabulary import build_vocabulary, parts_of, vocabulary_in
from audio_ssl.interop.convert import convert
from audio_ssl.interop.source import read_any
from audio_ssl.model.files import ctc_document, save_model_dir

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TEXTS = ["Straße, Élan! Ça?", "नमस्ते दुनिया", "Привет мир", "שָׁלוֹם", "東京 へ"]
WORDS = ["hello world", "the cat sat on the mat", "don't go", "the dog ate the cat", "worlds apart"] * 9
WAVEFORMS = [3 * np.random.default_rng(i).standard_normal(n).astype(np.float32) for i, n in enumerate((19_001, 9_001))]
VOCABULARIES = {
    "as written": (TEXTS, TextRules(case="keep"), VocabularyConfig()),
    "upper": (TEXTS, TextRules(case="upper", punctuation="remove"), VocabularyConfig()),
    "unigram": (WORDS, TextRules(), VocabularyConfig(units="pieces", num_pieces=26)),
    "bpe": (WORDS, TextRules(), VocabularyConfig(units="pieces", num_pieces=26, piece_model="bpe")),
}


@pytest.fixture(params=VOCABULARIES)
def vocabulary(request) -> Vocabulary:
    if request.param in ("unigram", "bpe"):
        pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    return build_vocabulary(*VOCABULARIES[request.param])


@pytest.fixture
def ours(tmp_path, vocabulary) -> Path:
    """A recogniser with random weights that babbles in its vocabulary."""
    config = random_config(3)
    torch.manual_seed(7)
    head = torch.nn.Linear(config.dim, len(vocabulary))
    head.weight.data.mul_(4)
    head.weight.data[1:3] *= 3  # often unknown, and often between words
    document = ctc_document(config, **parts_of(vocabulary))
    save_model_dir(tmp_path / "ours", document, {"encoder": random_encoder(config), "head": head})
    return tmp_path / "ours"


def transcribed(model: Path) -> list[str]:
    return audio_ssl.transcribe(model, WAVEFORMS, sample_rate_hz=16_000)


def test_the_pipeline_writes_our_text(ours, vocabulary):
    path = convert(ours, ours.parent / "theirs", to="transformers", check=False).path
    recognise = transformers.pipeline("automatic-speech-recognition", model=str(path), device="cpu")
    theirs = [result["text"] for result in recognise([w.copy() for w in WAVEFORMS], batch_size=1)]
    expected = transcribed(ours)
    assert all(len(text) > 10 for text in expected)
    assert "⁇" in "".join(expected)  # also what is unknown looks alike
    assert [" ".join(text.split()) for text in theirs] == expected


def test_two_separators_in_a_row_are_the_only_difference(ours, vocabulary):
    """Characters: transformers keeps two spaces where a blank stands between two separators; we write one."""
    path = convert(ours, ours.parent / "theirs", to="transformers", check=False).path
    tokenizer = transformers.AutoProcessor.from_pretrained(path).tokenizer
    start = vocabulary.index["▁"] if vocabulary.separator is None else vocabulary.separator
    frames = [start, 5, 5, 0, 5, start, 0, start, 0, 6, 1, start]
    text = vocabulary.decode_ids([start, 5, 5, start, start, 6, 1, start])
    a, b = (symbol.removeprefix("▁") for symbol in vocabulary.symbols[5:7])
    assert tokenizer.decode(frames) in (f"{a}{a}  {b}⁇", text)
    assert text.replace(" ", "") == f"{a}{a}{b}⁇"


def test_normalised_text_gets_our_labels(ours, vocabulary):
    path = convert(ours, ours.parent / "theirs", to="transformers", check=False).path
    tokenizer = transformers.AutoProcessor.from_pretrained(path).tokenizer
    letters = [c for symbol in vocabulary.symbols[3:] for c in symbol if c != "▁"]
    draws = random.Random(5)
    texts = [" ".join("".join(draws.choices(letters, k=draws.randint(1, 9))) for _ in range(4)) for _ in range(60)]
    known = [text for text in texts if 1 not in vocabulary.encode(text)]  # runs of unknown ones may be one there
    assert len(known) > 40
    for text in [*known, vocabulary.normalize("the cat don't sat on worlds")]:
        assert tokenizer(vocabulary.normalize(text)).input_ids == vocabulary.encode(text)
    assert tokenizer("⁇").input_ids[-1] == 1


@pytest.mark.parametrize("vocabulary", ["upper", "unigram"], indirect=True)
@pytest.mark.parametrize("system", ["transformers", "torchaudio", "fairseq2", "fairseq"])
def test_every_format_brings_vocabulary_and_rules_back(ours, vocabulary, system):
    name = "theirs" if system == "transformers" else "theirs.pt"
    there = convert(ours, ours.parent / system / name, to=system, check=False).path
    back = convert(there, ours.parent / "back", to="audio_ssl", check=False).path
    assert vocabulary_in(read_any(back).files.document["ctc"], source=back) == vocabulary
    assert transcribed(back) == transcribed(there) == transcribed(ours)
