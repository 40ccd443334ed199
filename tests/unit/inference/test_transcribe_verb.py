"""``audio-ssl transcribe`` and ``align`` from the outside: inputs, formats, and where results go."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from audio_ssl.cli import transcribe as transcribe_module
from audio_ssl.cli.align import align
from audio_ssl.cli.transcribe import transcribe
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioSSLError
from audio_ssl.inference.transcript_folder import TranscriptFolder
from tests.unit.inference.conftest import noise, write_wav

app = typer.Typer()
for verb in (transcribe, align):
    app.command()(verb)


def call(*arguments: object, code: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for i in range(4):
        write_wav(tmp_path / f"speech/u{i}.wav", noise(9_000 + 1_000 * i, seed=i))
        rows.append(Utterance(f"{'ab'[i % 2]}/u{i}", f"speech/u{i}.wav", 0, 9_000 + 1_000 * i, 16_000))
    (tmp_path / "speech/u2.wav").unlink()
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "m.tsv")
    return tmp_path / "m.tsv"


def test_a_file_has_what_standard_output_has(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    for form in ("text", "jsonl", "ctm"):
        shown = call("transcribe", ctc_dir, manifest, "--format", form)
        told = call("transcribe", ctc_dir, manifest, "--format", form, "-o", tmp_path / form)
        assert (tmp_path / form).read_text() == shown.stdout != ""
        assert "3 utterances transcribed" in told.output
        assert "u2.wav must be readable audio" in told.output
        (refused,) = map(json.loads, (tmp_path / f"{form}.errors.jsonl").read_text().splitlines())
        assert refused["id"] == "a/u2"
    assert not list(tmp_path.glob(".*"))


def test_a_folder_has_a_file_a_recording(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    lines = call("transcribe", ctc_dir, manifest).stdout.splitlines()
    texts = dict(line.split("\t") for line in lines)
    for form, suffix in [("text", "txt"), ("srt", "srt"), ("vtt", "vtt"), ("textgrid", "TextGrid"), ("jsonl", "json")]:
        out = tmp_path / form
        call("transcribe", ctc_dir, manifest, "--format", form, "-o", f"{out}/")
        names = sorted(str(path.relative_to(out)) for path in out.rglob(f"*.{suffix}") if path.parent != out)
        assert names == [f"a/u0.{suffix}", f"b/u1.{suffix}", f"b/u3.{suffix}"]
        content = (out / names[0]).read_text()
        assert texts["a/u0"].split()[0] in content
        assert [json.loads(line)["file"] for line in (out / "index.jsonl").open()] == names
    assert (tmp_path / "text/a/u0.txt").read_text() == texts["a/u0"] + "\n"
    again = call("transcribe", ctc_dir, manifest, "--format", "srt", "-o", tmp_path / "srt")
    assert "0 utterances transcribed" in again.output
    assert "3 were there already" in again.output
    with pytest.raises(AudioSSLError, match="format is 'srt', now it is 'vtt'"):
        call("transcribe", ctc_dir, manifest, "--format", "vtt", "-o", tmp_path / "srt")


def test_formats_of_one_recording_want_one_or_a_folder(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    for out in ([], ["-o", tmp_path / "all.srt"]):
        with pytest.raises(AudioSSLError, match="INPUT holds 4"):
            call("transcribe", ctc_dir, manifest, "--format", "srt", *out)
    one = tmp_path / "speech/u0.wav"
    shown = call("transcribe", ctc_dir, one, "--format", "vtt").stdout
    assert shown.startswith("WEBVTT\n\n00:00:0")
    call("transcribe", ctc_dir, one, "--format", "vtt", "-o", tmp_path / "one.vtt")
    assert (tmp_path / "one.vtt").read_text() == shown
    with pytest.raises(AudioSSLError, match="--format srt must come with a folder"):
        call("transcribe", ctc_dir, "-", "--format", "srt", stdin=b"")


def test_paths_on_standard_input(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"speech/u{i}.wav" for i in (3, 2, 0)]
    listed = "".join(f"{file}\n" for file in files).encode()
    texts = dict(line.split("\t") for line in call("transcribe", ctc_dir, manifest).stdout.splitlines())
    shown = call("transcribe", ctc_dir, "-", "--format", "jsonl", stdin=listed)
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(row["path"], row["text"]) for row in rows] == [
        (str(files[0]), texts["b/u3"]), (str(files[2]), texts["a/u0"]),
    ]  # fmt: skip
    assert "1 without a result" in shown.output
    call("transcribe", ctc_dir, "-", "--format", "jsonl", "-o", tmp_path / "t.jsonl", stdin=listed)
    assert (tmp_path / "t.jsonl").read_text() == shown.stdout
    call("transcribe", ctc_dir, "-", "--format", "srt", "-o", f"{tmp_path}/srt/", stdin=listed)
    assert (tmp_path / f"srt/{rows[0]['id']}.srt").is_file()


def test_audio_on_standard_input(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    audio = (tmp_path / "speech/u0.wav").read_bytes()
    expected = call("transcribe", ctc_dir, manifest).stdout.splitlines()[0].split("\t")[1]
    shown = call("transcribe", ctc_dir, "-", "--stdin-audio", "--format", "jsonl", stdin=audio)
    document = json.loads(shown.stdout)
    assert (document["id"], document["path"], document["text"]) == ("stdin", "-", expected)
    call("transcribe", ctc_dir, "-", "--stdin-audio", "--format", "srt", "-o", tmp_path / "a.srt", stdin=audio)
    assert (tmp_path / "a.srt").read_text().startswith("1\n00:00:00,")
    with pytest.raises(AudioSSLError, match="must come with INPUT -"):
        call("transcribe", ctc_dir, manifest, "--stdin-audio")


def test_results_are_told_when_they_come(ctc_dir: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Watched(io.StringIO):
        def flush(self) -> None:
            seen.append(self.getvalue())

    monkeypatch.setattr("sys.stdout", Watched())
    with pytest.raises(typer.Exit):
        transcribe(ctc_dir, str(manifest))
    assert [text.count("\n") for text in seen] == [1, 2, 3]


def test_several_processes_share_the_work(
    ctc_dir: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TranscriptFolder.__init__, "__defaults__", (False, 0.5))  # seconds a shard
    expected = call("transcribe", ctc_dir, manifest).stdout
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for options in ([manifest], ["-", "-o", tmp_path / "t"]):
        with pytest.raises(AudioSSLError, match="several processes must have -o"):
            call("transcribe", ctc_dir, *options, stdin=b"")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        told = call("transcribe", ctc_dir, manifest, "-o", tmp_path / "t").output
        assert f"rank {rank} of 2: " in told
        assert ("other ranks are not done" in told) == (rank == "0")
        assert (tmp_path / "t").exists() == (rank == "1")
    assert (tmp_path / "t").read_text() == expected


def test_strict_stops_and_keeps_what_was_done(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    for out in ([], ["-o", tmp_path / "t"]):
        with pytest.raises(AudioSSLError, match=r"a/u2 .*--strict stops here"):
            call("transcribe", ctc_dir, manifest, "--strict", *out)
    assert not (tmp_path / "t").exists()
    assert "2 were there already" in call("transcribe", ctc_dir, manifest, "-o", tmp_path / "t").output


def test_an_input_of_nothing_usable_is_a_failure(ctc_dir: Path, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "short.wav", noise(200))
    assert "it must last 25 ms" in call("transcribe", ctc_dir, path, code=1).output
    assert "it must last 25 ms" in call("transcribe", ctc_dir, path, "-o", tmp_path / "t", code=1).output


def test_files_of_the_decoder_are_looked_at_before_the_audio(
    ctc_dir: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(transcribe_module._Verb, "run", never)
    with pytest.raises(AudioSSLError, match=str(tmp_path / "none.txt")):
        call("transcribe", ctc_dir, manifest, "--decoder", "beam", "--lexicon", tmp_path / "none.txt")


def test_align_writes_subtitles_of_known_texts(ctc_dir: Path, manifest: Path, tmp_path: Path) -> None:
    one = tmp_path / "speech/u0.wav"
    call("align", ctc_dir, one, "--text", "a Cat", "--format", "srt", "-o", tmp_path / "a.srt")
    number, times, text, *_ = (tmp_path / "a.srt").read_text().split("\n")
    assert (number, text) == ("1", "a cat")
    assert times.startswith("00:00:00,")
    call("align", ctc_dir, one, "--text", "a Cat", "--format", "vtt", "-o", f"{tmp_path}/folder/")
    assert (tmp_path / "folder/u0.vtt").read_text().startswith("WEBVTT")
