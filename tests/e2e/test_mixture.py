"""A mixture through the console script: what is heard, resuming inside an epoch, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from console import BATCHES, MODEL, sets
from safetensors.numpy import load_file

from audio_ssl.data.manifest import Manifest, Utterance

RATE = 16000
RHYTHM = ["run.num_updates=24", "run.log_every=1", "run.save_every=5", "run.keep_last=100", "run.validate_every=24"]


def corpus(folder: Path, name: str, num_rows: int, *, seconds: float, language: str | None) -> Path:
    generator = np.random.default_rng(num_rows)
    rows = []
    for i in range(num_rows):
        length = round(seconds * RATE) + 1000 * (i % 5)
        path = folder / name / f"{i}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, 0.1 * generator.standard_normal(length), RATE)
        rows.append(Utterance(f"{name}-{i}", f"{name}/{i}.flac", 0, length, RATE, text="ab a", language=language))
    Manifest.from_rows(rows, root=folder).write(folder / f"{name}.arrow")
    return folder / f"{name}.arrow"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[Path, Path]:
    """A large one and one of a sixth of it, whose rows are cropped."""
    folder = tmp_path_factory.mktemp("mixture")
    large = corpus(folder, "en", 48, seconds=2, language="en")
    return large, corpus(folder, "sv", 8, seconds=3, language=None)


def training(corpora, run_dir: Path, *more: str) -> list[str | Path]:
    data = [
        f"data.train=['{corpora[0]}','{corpora[1]}']", f"data.valid=['{corpora[1]}']", f"run.dir={run_dir}",
        *BATCHES, "data.max_s=2.5",
    ]  # fmt: skip
    return ["pretrain", "pretrain/conv_tiny", *sets(*MODEL, *data, *RHYTHM, *more)]


def figures(run_dir: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(row["split"], row["update"], row.get("epoch"), row["loss"], row.get("grad_norm")) for row in rows]


@pytest.fixture(scope="module")
def straight(corpora, say) -> tuple[Path, str]:
    run_dir = corpora[0].parent / "straight"
    return run_dir, say(*training(corpora, run_dir, "data.mixture.weights={ en = 1, sv = 1 }"))


def test_the_run_says_what_it_will_hear(corpora, straight):
    _, said = straight
    # 48 rows of 2 s and 2.125 s on average; 8 of 3 s and more, cropped to 2.5 s: 20 s
    lengths = [2 * RATE + 1000 * (i % 5) for i in range(48)]
    total_s = sum(lengths) / RATE + 20
    assert f"mixture, {total_s / 3600:.2f} h an epoch:" in said
    assert (
        f"  en: {sum(lengths) / RATE / 3600:.2f} h, 50.0% of an epoch, {total_s / 2 / (total_s - 20):.3g} times" in said
    )
    assert f"  sv: 0.01 h, 50.0% of an epoch, {total_s / 2 / 20:.3g} times" in said
    assert "warning: an epoch repeats" not in said
    assert max(epoch for split, _, epoch, *_ in figures(straight[0]) if split == "train") >= 1


@pytest.mark.parametrize(("update", "epoch"), [(5, 0), (15, 1)])
def test_a_mixed_run_resumes_inside_an_epoch_to_the_last_bit(corpora, straight, say, update: int, epoch: int):
    whole, _ = straight
    run_dir = whole.with_name(f"resumed_{update}")
    shutil.copytree(whole, run_dir)
    shutil.rmtree(run_dir / "model")
    for checkpoint in (run_dir / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > update:
            shutil.rmtree(checkpoint)
    progress = json.loads((run_dir / f"checkpoints/step_{update:08d}/state/progress.json").read_text())
    assert (progress["epoch"], progress["update_in_epoch"] > 0) == (epoch, True)
    said = say(*training(corpora, run_dir, "data.mixture.weights={ en = 1, sv = 1 }"), "--resume", "auto")
    assert f"resumed from update {update}" in said
    assert "have changed since" not in said
    assert figures(run_dir) == figures(whole)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (run_dir, whole))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_another_mixture_starts_the_next_epoch(corpora, straight, say):
    whole, _ = straight
    run_dir = whole.with_name("changed")
    shutil.copytree(whole, run_dir)
    mixture = "data.mixture.weights={ en = 1, sv = 2 }"
    said = say(*training(corpora, run_dir, mixture, "run.num_updates=25"), "--resume", "auto")
    assert "the data, its limits or mixture, the batch sizes or run.seed have changed since: the next pass" in said
    assert figures(run_dir)[-2][2] == figures(whole)[-2][2] + 1  # epochs of the last training updates


def test_a_recogniser_hears_languages_by_temperature(corpora, say):
    run_dir = corpora[0].parent / "recogniser"
    data = [f"data.train=['{corpora[0]}','{corpora[1]}']", f"run.dir={run_dir}", *BATCHES]
    rhythm = ["run.num_updates=6", "run.log_every=2", "run.save_every=6"]
    shape = ["model.preset=tiny_cpu", *MODEL[1:]]
    mixture = ["data.mixture.by=language", "data.mixture.temperature=100000"]
    said = say("finetune", "finetune/fresh", *sets(*shape, *data, *rhythm, *mixture))
    assert "50.0% of an epoch" in said
    assert "  en: 0.03 h" in said
    assert "  unknown: 0.01 h" in said


def test_names_that_do_not_fit_are_told_before_training(corpora, say):
    run_dir = corpora[0].parent / "refused"
    said = say(*training(corpora, run_dir, "data.mixture.weights={ en = 1, swe = 1 }"), status=2)
    assert (
        "data.mixture.weights must name each source by manifest (en, sv), got sv not named; swe not among them" in said
    )
    assert not (run_dir / "checkpoints").exists()
