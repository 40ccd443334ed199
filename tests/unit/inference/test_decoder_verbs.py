"""The verbs around a beam search, on a tiny random recogniser: lm, tune-decoder, transcribe with what they wrote."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audio_ssl.cli.main import app
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ManifestError
from audio_ssl.inference.decoding.arpa import read_arpa
from tests.unit.inference.conftest import RATE, noise, write_wav


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    rows = []
    for number, text in enumerate(("A cat", "bat  at", None, "tab")):
        path = write_wav(tmp_path / "audio" / f"{number}.wav", noise(RATE // 2, seed=number))
        rows.append(Utterance(str(number), str(path), 0, RATE // 2, RATE, text=text))
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "valid.arrow")
    return tmp_path / "valid.arrow"


def test_a_model_is_made_from_texts_and_transcripts(tmp_path: Path, valid: Path, ctc_dir: Path) -> None:
    (tmp_path / "text.txt").write_text("A CAB\n\nact\n", encoding="utf-8")
    told = run("lm", tmp_path / "text.txt", valid, "-o", tmp_path / "lm.arpa.gz", "--order", 2, "--model", ctc_dir)
    assert "8 words in 5 sentences" in told
    assert "2 texts hold no word" in told
    model = read_arpa(tmp_path / "lm.arpa.gz")
    assert set(model.words) == {"<unk>", "<s>", "</s>", "a", "cab", "act", "cat", "bat", "at", "tab"}
    with pytest.raises(ManifestError, match="must be a text file"):
        run("lm", tmp_path / "none.txt", "-o", tmp_path / "x.arpa")


def test_tuned_weights_are_what_transcribe_takes(tmp_path: Path, valid: Path, ctc_dir: Path) -> None:
    run("lm", valid, "-o", tmp_path / "lm.arpa", "--order", 2)
    decoder = tmp_path / "tuned" / "decoder.toml"
    told = run("tune-decoder", ctc_dir, valid, "--lm", tmp_path / "lm.arpa", "-o", decoder, "--trials", 3, "--seed", 2,
               "--beam-size", 20)  # fmt: skip
    assert "it has no text" in told
    found = tomllib.loads(decoder.read_text())
    assert found["lm"] == "../lm.arpa"
    assert found["beam_size"] == 20
    head = decoder.read_text().splitlines()[0]
    assert head == "# Found by audio-ssl tune-decoder for ctc on valid.arrow: best of 3 trials, seed 2."
    (tmp_path / "words.txt").write_text("cat\nbat\n")
    told = run("transcribe", ctc_dir, tmp_path / "audio", "--decoder", decoder, "--lexicon", tmp_path / "words.txt")
    lines = [line.split("\t") for line in told.splitlines() if "\t" in line]
    assert len(lines) == 4
    assert {word for _, text in lines for word in text.split()} <= {"cat", "bat"}
