"""The verbs units fit and units assign, as the command line runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from audio_ssl.cli.extract import extract
from audio_ssl.cli.units import app as units_app
from audio_ssl.errors import AudioSSLError
from tests.unit.inference.conftest import noise, write_wav
from tests.unit.inference.units.conftest import blobs, write_embeddings

app = typer.Typer()
app.add_typer(units_app, name="units")
app.command()(extract)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def embeddings(model_dir: Path, tmp_path: Path) -> Path:
    for i in range(3):
        write_wav(tmp_path / f"speech/u{i}.wav", noise(16_000 + 3_000 * i, seed=i))
    call("extract", model_dir, tmp_path / "speech", tmp_path / "e", "--layer", "2")
    return tmp_path / "e"


def test_from_speech_to_the_labels_of_hubert(model_dir: Path, embeddings: Path, tmp_path: Path) -> None:
    fit = ("units", "fit", embeddings, tmp_path / "u", "--clusters", "5", "--epochs", "1", "--restarts", "2")
    said = call(*fit).output
    assert "166 of 176 frames an epoch, 10 held out; about" in said
    assert "MiB of memory beside the program" in said
    assert "start 2 of 2:" in said
    assert "epoch 1 of 1:" in said
    assert "5 units of layer 2 written to" in said
    document = json.loads((tmp_path / "u/units.json").read_text())
    assert f"{document['figures']['held_out_distance_per_frame']:.6g} held out" in said
    assert "holds these units already" in call(*fit).output

    said = call("units", "assign", tmp_path / "u", embeddings, tmp_path / "l/a.km").output
    assert "3 utterances (4 s, 176 frames) labelled" in said
    assert "5 of 5 units used, perplexity" in said
    assert 'task.labels=["km"] task.label_rate=50' in said
    audio = ("units", "assign", tmp_path / "u", tmp_path / "speech", "--model", model_dir)
    assert "needs about" in call(*audio, tmp_path / "l/b.km").output
    assert (tmp_path / "l/a.km").read_text() == (tmp_path / "l/b.km").read_text()
    write_wav(tmp_path / "speech/short.wav", noise(300))
    said = call(*audio, tmp_path / "c.txt", "--dedup").output
    assert "1 without a result" in said
    assert "c.txt.errors.jsonl" in said
    with pytest.raises(AudioSSLError, match="--strict stops here"):
        call(*audio, tmp_path / "d.txt", "--strict")


def test_audio_needs_its_model(embeddings: Path, tmp_path: Path) -> None:
    call("units", "fit", embeddings, tmp_path / "u", "-k", "2", "--epochs", "1", "--restarts", "1", "--frames", "50%")
    with pytest.raises(AudioSSLError, match="or audio with --model MODEL"):
        call("units", "assign", tmp_path / "u", tmp_path / "speech", tmp_path / "t.txt")
    assert json.loads((tmp_path / "u/units.json").read_text())["fit"]["frames_per_epoch"] == 88


def test_nothing_to_label_is_a_failure(model_dir: Path, embeddings: Path, tmp_path: Path) -> None:
    call("units", "fit", embeddings, tmp_path / "u", "-k", "2", "--epochs", "1", "--restarts", "1")
    short = write_wav(tmp_path / "short.wav", noise(300))
    result = call("units", "assign", tmp_path / "u", short, tmp_path / "t.txt", "--model", model_dir, code=1)
    assert "it must last 25 ms" in result.output


def test_options_are_checked(tmp_path: Path) -> None:
    folder = write_embeddings(tmp_path / "e", blobs(2)[0])
    with pytest.raises(AudioSSLError, match="--clusters must be >= 2, got 1"):
        call("units", "fit", folder, tmp_path / "u", "-k", "1")
    with pytest.raises(AudioSSLError, match="--frames must be"):
        call("units", "fit", folder, tmp_path / "u", "-k", "2", "--frames", "0")
    with pytest.raises(AudioSSLError, match="a folder that `audio-ssl units fit` wrote"):
        call("units", "assign", folder, folder, tmp_path / "t.txt")
