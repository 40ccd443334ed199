"""Codes beside labels: counts frame by frame, what codes tell of labels, and that this is chance where it should be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from sklearn.metrics import mutual_info_score
from typer.testing import CliRunner

from audio_ssl.cli.main import app
from audio_ssl.errors import ConfigError
from audio_ssl.inference.layers import model_quantizer
from audio_ssl.interop.source import load_encoder, read_model
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from audio_ssl.probe import code_labels, looks
from audio_ssl.probe.code_labels import code_figures, code_tables, open_for_codes
from audio_ssl.probe.items import Segment
from audio_ssl.probe.outcome import Amounts, Measured, Outcome, TaskOutcome
from tests.unit.evaluate.runs import MODEL, OBJECTIVE, rows, write_checkpoint, write_run
from tests.unit.probe.in_memory import items_of
from tests.unit.probe.outcomes import CANDIDATES, TASK, asked, candidate
from tests.unit.probe.tones import write_tones


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_tones(tmp_path_factory.mktemp("codes"), num=2).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    return write_checkpoint(run)


def codes_by_hand(model: Path, path: Path) -> np.ndarray:
    """(T, G) of a file, from the logits of the quantizer's own projection."""
    encoder, quantizer = load_encoder(model), model_quantizer(read_model(model))
    samples, _ = sf.read(path, dtype="float32")
    samples = (samples - samples.mean()) / samples.std()
    with torch.no_grad():
        latents, _ = encoder.feature_encoder(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        logits = quantizer.logits(encoder.feature_projection.norm(latents))[0]  # (T, G * V)
    return logits.view(len(logits), OBJECTIVE.num_groups, OBJECTIVE.num_entries).argmax(-1).numpy()


def test_counts_and_pnmi_are_those_of_frames_gone_through_one_by_one(corpus, model):
    task = open_for_codes(str(corpus / "classify.toml"), corpus)
    together, first, second = code_tables(model, task)
    assert [together.name, first.name, second.name] == ["all groups together", "group 1", "group 2"]
    counts, labels, pairs = np.zeros((7, 2), dtype=int), [], []
    for path in sorted((corpus / "tones").glob("*.wav")):
        label = path.stem.split("_")[1]
        for one, two in codes_by_hand(model, path).tolist():
            counts[one, ("high", "low").index(label)] += 1
            labels.append(label)
            pairs.append(f"{one} {two}")
    assert first.joint.labels == ("high", "low")
    assert first.counts.tolist() == counts.tolist()
    entropy = mutual_info_score(labels, labels)
    assert together.pnmi == pytest.approx(mutual_info_score(labels, pairs) / entropy)
    assert together.num_codes == len(set(pairs))
    assert together.counts.sum() == second.counts.sum() == len(labels)


def test_codes_that_are_labels_tell_all_of_them_and_by_chance_little():
    labels = [str(n) for _ in range(2) for n in range(8) for _ in range(6)]  # by label, as files of a folder lie
    items = items_of(labels, ["ann"] * 48 + ["bob"] * 48)
    codes = {row: np.full(5, int(label)) for row, label in enumerate(labels)}
    own = code_labels._labels(items, {row: found[:, None] for row, found in codes.items()}, hop_s=0.02)
    table = code_labels._table("codes", items, own, codes, num_codes=8)
    assert table.pnmi == pytest.approx(1.0)
    assert table.pnmi_of_chance < 0.5
    assert table.counts.tolist() == (60 * np.eye(8, dtype=int)).tolist()


@pytest.mark.parametrize("of", ["speaker", "file"])
def test_chance_is_no_more_where_all_a_speaker_says_has_one_label(of):
    labels = [f"s{row % 5}" for row in range(40)]
    items = items_of(labels, labels if of == "speaker" else [f"file {row}" for row in range(40)])
    codes = {row: np.random.default_rng(row).integers(1 + row % 5, size=30) for row in range(40)}
    own = code_labels._labels(items, {row: found[:, None] for row, found in codes.items()}, hop_s=0.02)
    table = code_labels._table("codes", items, own, codes, num_codes=5)
    assert table.pnmi > 0.2
    assert table.pnmi_of_chance < 0.5 * table.pnmi


def test_frames_take_the_label_of_the_segment_that_holds_their_centre():
    segments = ((Segment(0.02, 0.05, "a"), Segment(0.05, 0.07, "b")), ())
    items = items_of(["x", "y"], ["ann", "bob"], segments=segments)
    found = code_labels._labels(items, {0: np.zeros((5, 1)), 1: np.zeros((3, 1))}, hop_s=0.02)
    assert [(places.tolist(), names) for places, names in found] == [([1, 2], ["a", "b"]), ([], [])]
    # frame centres 10, 30, 50, 70 ms: the third begins b, the fourth is at its end


def test_codes_of_all_groups_are_numbered_by_those_that_are_there():
    codes = {1: np.array([[2, 0], [0, 1]]), 0: np.array([[0, 1], [2, 1]])}
    found, num = code_labels._together(codes)
    assert num == 3
    assert {row: own.tolist() for row, own in found.items()} == {0: [0, 2], 1: [1, 0]}


def test_a_model_without_a_quantizer_says_nothing(corpus, tmp_path):
    save_model_dir(tmp_path / "model", encoder_document(MODEL), {"encoder": build_encoder(MODEL)})
    task = open_for_codes(str(corpus / "classify.toml"), corpus)
    assert code_figures(tmp_path / "model", task, heading="bare") == ""


def test_a_figure_has_its_pnmi_and_every_group(corpus, model):
    task = open_for_codes(str(corpus / "classify.toml"), corpus)
    html = code_figures(model, task, heading="<first>")
    assert html.count("<figure") == 3
    assert html.count("PNMI 0.") + html.count("PNMI 1.") == 3
    assert "&lt;first&gt;: group 2" in html
    assert "12 utterances of classify; each frame has its utterance&#x27;s label" in html


def test_what_cannot_stand_beside_codes_is_told(corpus, model):
    write_tones(corpus, num=2, kind="retrieve", split="speakers")
    assert open_for_codes(str(corpus / "retrieve.toml"), corpus) is None
    words = items_of([("a", "b")], ["ann"])
    with pytest.raises(ConfigError, match="one name an utterance, or have times"):
        code_labels._labels(words, {0: np.zeros((2, 1))}, hop_s=0.02)
    silent = items_of(["a"], ["ann"], segments=((Segment(0.0, 0.001, "a"),),))
    with pytest.raises(ConfigError, match="frames inside segments"):
        code_labels._labels(silent, {0: np.zeros((2, 1))}, hop_s=0.02)
    assert "cannot be shown" in code_figures(
        model / "none", open_for_codes(str(corpus / "classify.toml"), corpus), heading="x"
    )


@pytest.mark.parametrize("section", ["init_from", "objective"])
def test_a_report_with_a_task_of_a_run_without_codes_is_refused(corpus, tmp_path, section):
    figures = [] if section == "init_from" else rows()  # of fine-tuning, of pre-training
    run = write_run(tmp_path / "run", figures=figures, **{section: {}})
    write_checkpoint(run, is_ctc=True)  # a model without a quantizer, whatever the run was
    task = ["--task", str(corpus / "classify.toml"), "--corpora", str(corpus)]
    found = CliRunner().invoke(app, ["report", str(run), *task])
    assert isinstance(found.exception, ConfigError)
    assert str(found.exception).startswith("--task must go with a run of pre-training that has a quantizer")
    assert not (run / "report.html").exists()


def test_the_page_of_a_probe_has_the_codes_of_its_models_and_of_nothing_else(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(looks, "_look", lambda *_: "")
    monkeypatch.setattr(looks, "code_figures", lambda path, asked, heading: calls.append((path, heading)) or "codes")
    task = asked(tmp_path)
    measured = tuple(Measured(one, ()) for one in (*CANDIDATES[:1], replace(candidate("first"), path=Path("m"))))
    found = TaskOutcome(task.name, TASK, "", {}, Amounts(1, 1.0, 1), True, None, measured)
    assert looks.looks_of(Outcome((found,), (), (1,), 1.0), [task], None) == {task.name: "codes"}
    assert calls == [(Path("m"), "first")]
