"""The verbs extract, transcribe, align, evaluate and doctor, as the command line runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from audio_ssl.cli import doctor as doctor_module
from audio_ssl.cli.align import align
from audio_ssl.cli.doctor import doctor
from audio_ssl.cli.evaluate import evaluate
from audio_ssl.cli.extract import extract
from audio_ssl.cli.transcribe import transcribe
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioSSLError
from tests.unit.inference.conftest import noise, write_wav

app = typer.Typer()
for verb in (extract, transcribe, align, evaluate, doctor):
    app.command()(verb)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for i, text in enumerate(["a Cat", "tab", None, "", "act"]):
        write_wav(tmp_path / f"speech/u{i}.wav", noise(9_000 + 1_000 * i, seed=i))
        speaker = "anna" if i % 2 else "ben"
        rows.append(Utterance(f"u{i}", f"speech/u{i}.wav", 0, 9_000 + 1_000 * i, 16_000, text, speaker))
    (tmp_path / "speech/u4.wav").unlink()
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "m.tsv")
    return tmp_path / "m.tsv"


def test_extract_says_what_it_did(model_dir: Path, manifest: Path, tmp_path: Path) -> None:
    result = call("extract", model_dir, manifest, tmp_path / "out", "--layer", "2", "--dtype", "fp16")
    assert "4 utterances" in result.output
    assert "1 without a result" in result.output
    assert "u4.wav" in result.output
    assert np.load(tmp_path / "out/u0.npy").shape == (27, 16)
    assert (
        "4 were there already"
        in call("extract", model_dir, manifest, tmp_path / "out", "--layer", "2", "--dtype", "fp16").output
    )


def test_extract_of_nothing_usable_is_a_failure(model_dir: Path, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "short.wav", noise(200))
    assert "it must last 25 ms" in call("extract", model_dir, path, tmp_path / "out", code=1).output


def test_extract_in_bf16_is_close(model_dir: Path, manifest: Path, tmp_path: Path) -> None:
    call("extract", model_dir, manifest, tmp_path / "full")
    call("extract", model_dir, manifest, tmp_path / "bf16", "--precision", "bf16")
    full, low = np.load(tmp_path / "full/u1.npy"), np.load(tmp_path / "bf16/u1.npy")
    assert 0 < np.abs(full - low).max() < 0.2
    assert low.dtype == np.float32


def test_transcripts_come_in_input_order(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    lines = call("transcribe", ctc_dir, manifest, "--batch-s", "1").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["u0", "u1", "u2", "u3"]
    call("transcribe", ctc_dir, manifest, "--format", "jsonl", "--times", "-o", tmp_path / "new/t.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "new/t.jsonl").read_text().splitlines()]
    assert [f"{row['id']}\t{row['text']}" for row in rows] == lines
    assert rows[0]["words"][0].keys() == {"text", "start_s", "end_s", "confidence"}


def test_transcribe_with_a_lexicon_gives_its_words(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\nact\n")
    lines = call("transcribe", ctc_dir, manifest, "--decoder", "beam", "--lexicon", tmp_path / "words.txt").stdout
    words = {word for line in lines.splitlines() for word in line.split("\t")[1].split()}
    assert words <= {"cat", "act"}


@pytest.mark.parametrize(
    ("options", "named"), [(["--times"], "--format jsonl"), (["--lexicon", "w.txt"], "--decoder beam")]
)
def test_options_that_contradict_are_refused(ctc_dir: Path, manifest: Path, options: list[str], named: str) -> None:
    with pytest.raises(AudioSSLError, match=named):
        call("transcribe", ctc_dir, manifest, *options)


def test_align_writes_each_format(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    result = call("align", ctc_dir, manifest, "-o", tmp_path / "a.ctm")
    lines = [line.split() for line in (tmp_path / "a.ctm").read_text().splitlines()]
    assert [(line[0], line[4]) for line in lines] == [("u0", "a"), ("u0", "cat"), ("u1", "tab")]
    assert "u2.wav: it has no text to align" in result.output
    call("align", ctc_dir, manifest, "-o", tmp_path / "grids", "--format", "textgrid")
    assert sorted(p.name for p in (tmp_path / "grids").iterdir()) == ["u0.TextGrid", "u1.TextGrid"]
    single = tmp_path / "speech/u1.wav"
    call("align", ctc_dir, single, "--text", "TAB", "-o", tmp_path / "a.json", "--format", "json")
    assert json.loads((tmp_path / "a.json").read_text())["text"] == "tab"


def test_align_needs_one_text_an_utterance(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(AudioSSLError, match="single audio file, INPUT holds 5"):
        call("align", ctc_dir, manifest, "--text", "tab", "-o", tmp_path / "a.ctm")
    with pytest.raises(AudioSSLError, match="--strict stops here"):
        call("align", ctc_dir, manifest, "--strict", "-o", tmp_path / "a.ctm")
    assert not (tmp_path / "a.ctm").exists()


def test_evaluate_scores_what_transcribe_says(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    result = call("evaluate", ctc_dir, manifest, "-o", tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    said = dict(line.split("\t") for line in call("transcribe", ctc_dir, manifest).stdout.splitlines())
    lines = [json.loads(line) for line in (tmp_path / document["utterances_file"]).read_text().splitlines()]
    assert [(u["id"], u["reference"], u["hypothesis"]) for u in lines if "refused" not in u] == [
        ("u0", "a cat", said["u0"]), ("u1", "tab", said["u1"]), ("u3", "", said["u3"]),
    ]  # fmt: skip
    assert document["overall"]["words"]["reference_length"] == 3
    assert document["num_empty_references"] == 1
    assert [r["id"] for r in document["refused"]] == ["u2", "u4"]
    assert document["refused"][0]["reason"] == "it has no text"
    assert {s["name"]: s["words"]["reference_length"] for s in document["speakers"]} == {"anna": 1, "ben": 2}
    for shown in ("WER (words)", "CER (chars)", "by speaker", "2 without a result"):
        assert shown in result.output


def test_evaluate_needs_text(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    Manifest.read(manifest).select([2]).write(tmp_path / "none.tsv")
    with pytest.raises(AudioSSLError, match="none of its 1 rows has any"):
        call("evaluate", ctc_dir, tmp_path / "none.tsv")


def test_devices_that_do_not_exist_are_refused(model_dir: Path, manifest: Path, tmp_path: Path) -> None:
    for device in ("cuda:99", "tpu9"):
        with pytest.raises(AudioSSLError, match=r"--device.*must"):
            call("extract", model_dir, manifest, tmp_path / "out", "--device", device)


def test_doctor_finds_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    # imports of the optional giants are their own tests' business
    monkeypatch.setattr(doctor_module, "OPTIONAL", (("no_such_module", "no-such-thing", "wonders", "lm"),))
    shown = " ".join(call("doctor").output.split())
    assert "pip install 'audio_ssl[lm]'" in shown
    assert "all core parts work" in shown
    for codec in ("WAV/PCM_16 ok", "FLAC/PCM_16 ok", "OGG/VORBIS ok", "OGG/OPUS ok", "MP3/MPEG_LAYER_III ok"):
        assert codec in shown


def test_doctor_fails_without_a_traceback_when_a_core_part_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall() -> list[doctor_module.Finding]:
        raise OSError("libsndfile is gone")

    core = (*doctor_module.CORE[:1], ("no_such_module", "no-such-thing", "everything"))
    monkeypatch.setattr(doctor_module, "CORE", core)
    sections = (("core", doctor_module.core_parts), ("codecs", fall))
    monkeypatch.setattr(doctor_module, "SECTIONS", sections)
    result = call("doctor", code=1)
    assert "OSError: libsndfile is gone" in result.output
    assert "2 core parts are broken" in result.output
    assert "Traceback" not in result.output
