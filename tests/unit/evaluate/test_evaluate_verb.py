"""``audio-ssl evaluate`` as the command line runs it, on finished transcripts and on a model that knows nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from audio_ssl.cli.evaluate import evaluate
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from audio_ssl.errors import AudioSSLError
from tests.unit.evaluate.runs import write_audio, write_checkpoint

app = typer.Typer()
app.command()(evaluate)
SAID = {"u0": "Hello, world", "u1": "good morning", "u2": "", "u3": "one two three"}


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == status, (result.output, result.exception)
    return result


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A report and its utterances."""
    document = json.loads(path.read_text(encoding="utf-8"))
    lines = path.with_name(document["utterances_file"]).read_text(encoding="utf-8").splitlines()
    return document, list(map(json.loads, lines))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four rows with text and one without; nobody opens their audio."""
    rows = [
        Utterance(name, f"{name}.wav", 0, 8_000 * (i + 1), 16_000, text=text, speaker=f"s{i % 2}")
        for i, (name, text) in enumerate(SAID.items())
    ]
    rows.append(Utterance("u4", "u4.wav", 0, 8_000, 16_000))
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "test.arrow")
    return tmp_path / "test.arrow"


def heard(path: Path, texts: dict[str, str]) -> Path:
    path.write_text("".join(f"{name}\t{text}\n" for name, text in texts.items()), encoding="utf-8")
    return path


def test_finished_transcripts_are_scored_against_a_manifest(manifest: Path, tmp_path: Path) -> None:
    texts = heard(tmp_path / "h.txt", {"u3": "one two", "x": "who", "u0": "hello world", "u2": "noise"})
    said = call(manifest, "--hypotheses", texts, "-o", tmp_path / "new" / "r.json", "--text", "plain")
    document, lines = read(tmp_path / "new" / "r.json")
    assert (document["schema"], document["schema_version"]) == ("audio_ssl.evaluation", 1)
    assert (document["model"], document["hypotheses"], document["text"]["rule"]) == (None, str(texts), "plain")
    assert document["overall"]["words"] == {
        **document["overall"]["words"], "errors": 2, "reference_length": 5, "deletions": 1, "insertions": 1,
    }  # fmt: skip
    assert [line["id"] for line in lines] == ["u4", "u0", "u1", "u2", "u3", "x"]  # rows without text are seen first
    assert {line["id"]: line["refused"].split(" ")[1] for line in lines if "refused" in line} == {
        "u4": "has", "u1": "has", "x": "row",
    }  # fmt: skip
    assert document["num_refused"] == 3
    assert [r["id"] for r in document["refused"]] == ["u4", "u1", "x"]
    assert lines[1]["reference"] == "hello world"
    assert (lines[1]["speaker"], lines[1]["duration_s"]) == ("s0", 0.5)
    assert document["overall"]["interval_over"] == "speakers"
    for words in ("3 without a result", "WER (words)", "by speaker", "1 references are empty", "over 2 speakers"):
        assert words in said.output


def test_case_and_punctuation_count_where_nothing_else_is_asked(manifest: Path, tmp_path: Path) -> None:
    texts = heard(tmp_path / "h.txt", {name: text.lower() for name, text in SAID.items()})
    call(manifest, "--hypotheses", texts, "-o", tmp_path / "r.json")
    document, _ = read(tmp_path / "r.json")
    assert (document["text"]["rule"], document["overall"]["words"]["errors"]) == ("exact", 1)


def test_a_file_with_references_needs_no_manifest_and_a_report_is_one(tmp_path: Path) -> None:
    lines = [{"id": f"u{i}", "text": "a b", "pred_text": "a b" if i else "a", "duration": 1.0} for i in range(4)]
    lines.append({"id": "v", "hypothesis": "a"})
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = call("--hypotheses", tmp_path / "n.jsonl", "-o", tmp_path / "r.json")
    assert "it has no reference" in said.output
    first, _ = read(tmp_path / "r.json")
    assert first["overall"]["words"]["rate"] == pytest.approx(1 / 8)
    assert first["durations"][0]["name"] == "1–2 s"
    call("--hypotheses", tmp_path / "r.utterances.jsonl", "-o", tmp_path / "again.json")
    again, _ = read(tmp_path / "again.json")
    assert again["overall"] == first["overall"]


def test_two_sets_of_transcripts_are_compared(manifest: Path, tmp_path: Path) -> None:
    old = heard(tmp_path / "old.txt", {"u0": "x", "u1": "x", "u2": "", "u3": "one two"})
    new = heard(tmp_path / "new.txt", {"u0": "Hello, world", "u1": "good morning", "u2": "", "u3": "one two"})
    call(manifest, "--hypotheses", old, "-o", tmp_path / "old.json")
    page = tmp_path / "page.html"
    words = [manifest, "--hypotheses", new, "--compare", tmp_path / "old.json"]
    said = call(*words, "-o", tmp_path / "new.json", "--html", page)
    found = read(tmp_path / "new.json")[0]["comparison"]
    assert (found["baseline"], found["num_utterances"]) == (str(old), 4)
    assert (found["words"]["baseline_rate"], found["words"]["rate"]) == (pytest.approx(5 / 7), pytest.approx(1 / 7))
    assert found["words"]["difference"]["value"] == pytest.approx(-4 / 7)
    assert (found["words"]["difference_over"], found["mapsswe"]["num_segments"]) == ("speakers", 3)
    assert [u["id"] for u in found["most_better"]] == ["u0", "u1"]
    assert "MAPSSWE" in said.output
    assert '<section id="comparison"' in page.read_text()
    with pytest.raises(AudioSSLError, match="same --text rule"):
        call(*words, "--text", "plain")


def test_reports_that_cannot_be_compared_with_are_told(manifest: Path, tmp_path: Path) -> None:
    texts = heard(tmp_path / "h.txt", SAID)
    call(manifest, "--hypotheses", texts, "-o", tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    for name, change, message in (
        ("newer", {"schema_version": 2}, "newer audio_ssl"),
        ("other", {"schema": "x"}, "is not: make it again"),
        ("alone", {"utterances_file": "gone.jsonl"}, "keep both files"),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(AudioSSLError, match=message):
            call(manifest, "--hypotheses", texts, "--compare", tmp_path / f"{name}.json")
    with pytest.raises(AudioSSLError, match="--compare must be the JSON report"):
        call(manifest, "--hypotheses", texts, "--compare", texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got 0 arguments"),
        (["m"], "got 1 argument$"),
        (["a", "b", "c", "d"], "got 4 arguments"),
        (["a", "b", "--hypotheses", "h"], "a MODEL has nothing to do"),
        (["a", "b", "c", "--compare", "r.json"], "two are compared with each other"),
        (["--hypotheses", "h", "--text", "model"], "--text model must come with a MODEL"),
        (["--hypotheses", "h", "--decoder", "beam"], "--decoder and its options must come with a MODEL"),
        (["--hypotheses", "h", "--lm-weight", "2"], "--decoder and its options must come with a MODEL"),
        (["--hypotheses", "none.txt"], "--hypotheses must be a file"),
        (["a", "b", "--html", "."], "--html must be a file"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, monkeypatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioSSLError, match=message):
        call(*arguments)


def test_nothing_that_can_be_scored_is_a_failure(manifest: Path, tmp_path: Path) -> None:
    said = call(manifest, "--hypotheses", heard(tmp_path / "h.txt", {"z": "a"}), status=1)
    assert "and 1 more" not in said.output
    assert "6 without a result" in said.output


def test_models_are_measured_and_compared(tmp_path: Path) -> None:
    manifest = write_audio(tmp_path, texts=True)
    (tmp_path / "run").mkdir()
    model = write_checkpoint(tmp_path / "run", is_ctc=True)
    call(model, model, manifest, "-o", tmp_path / "r.json", "--html", tmp_path / "r.html", "--device", "cpu")
    document, lines = read(tmp_path / "r.json")
    assert document["model"] == str(model)
    assert document["decoder"]["name"] == "greedy"
    assert document["text"]["references"]["case"] == "lower"
    assert [line["reference"] for line in lines] == ["ab a<i>b"] * 3
    baseline, same = read(tmp_path / "r.baseline.json")
    assert same == lines
    assert baseline["comparison"] is None
    assert document["comparison"]["winner"] is None
    assert document["comparison"]["mapsswe"]["p_value"] == 1.0
    html = (tmp_path / "r.html").read_text()
    assert html.count("data:audio/flac") == 3
    assert "&lt;b&gt;two&lt;/b&gt;" in html


def test_models_of_other_text_rules_are_compared_by_rules_that_both_go_through(tmp_path: Path) -> None:
    manifest = write_audio(tmp_path, texts=True)
    models = []
    for name in ("lower", "keep"):
        (tmp_path / name).mkdir()
        models.append(write_checkpoint(tmp_path / name, is_ctc=True))
    config = models[1] / "config.toml"
    assert 'case = "lower"' in config.read_text()
    config.write_text(config.read_text().replace('case = "lower"', 'case = "keep"'))
    with pytest.raises(AudioSSLError, match="case: 'lower' and 'keep'; give --text plain"):
        call(*models, manifest, "--device", "cpu")
    said = call(*models, manifest, "--device", "cpu", "--text", "plain")
    assert "no winner" in said.output
