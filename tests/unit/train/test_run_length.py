"""Whole runs whose length is given in audio or in time: fitted, told, kept in checkpoints, and kept by a resume."""

import json
import re
import tomllib
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from rich.console import Console

from audio_ssl.checkpoint import load_tensors
from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import TrainingError
from audio_ssl.train import budget
from audio_ssl.train import pretrain as pretraining
from audio_ssl.train.pretrain import pretrain

RATE = 16_000


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Twelve utterances of a second: 4 updates of 3 s each a pass."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    for i in range(12):
        sf.write(root / f"{i}.flac", 0.1 * generator.standard_normal(RATE), RATE)
    Manifest.from_rows([Utterance(f"u{i}", f"{i}.flac", 0, RATE, RATE) for i in range(12)], root=root).write(
        root / "list.tsv"
    )
    return root / "list.tsv"


def run(speech: Path, run_dir: Path, *words: str, resume: str = "never"):
    """What a run left, and what it said."""
    settings = [
        f"data.train=['{speech}']", f"run.dir={run_dir}", "data.batch_s=3", "data.micro_batch_s=6",
        "data.num_workers=0", "data.engine=threads",
        "run.device=cpu", "run.precision=fp32", "run.log_every=1", "run.save_every=3",
        f"model.conv_dims={[8] * 7}", "model.dim=16", "model.num_layers=1", "model.num_heads=2", "model.ffn_dim=32",
        "objective.code_dim=8", "objective.target_dim=8", "objective.num_entries=5",
    ]  # fmt: skip
    config = load_config(PretrainConfig, find_config("pretrain/conv_tiny"), [*settings, *words])
    said = StringIO()
    outcome = pretrain(config, resume=resume, init_from=None, console=Console(file=said, width=400))
    return outcome.progress, said.getvalue()


def metrics(run_dir: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(row["update"], row["loss"], row["lr"]) for row in rows]


def test_hours_of_audio_end_the_schedule_and_are_kept_by_a_resume(speech, tmp_path, monkeypatch):
    warmups = []
    monkeypatch.setattr(
        pretraining, "pretraining_signs", lambda *_, warmup_updates: warmups.append(warmup_updates) or ()
    )
    progress, said = run(speech, tmp_path, f"run.audio_hours={15 / 3600!r}")
    assert progress.update == 5
    assert progress.audio_s == pytest.approx(15)
    assert warmups == [1]  # guards know of the fitted number, too: 5 % of 5 updates
    assert "planned: 5 updates = 0.00 h of audio = 1.2 passes over the data" in said
    assert "train 5/5 " in said
    assert metrics(tmp_path)[-1][2] == 0.0  # the last rate of the line
    saved = json.loads((tmp_path / "checkpoints" / "step_00000005" / "state" / "progress.json").read_text())
    assert saved["fitted_updates"] == 5
    assert "num_updates" not in tomllib.loads((tmp_path / "config.toml").read_text())["run"]
    progress, said = run(speech, tmp_path, f"run.audio_hours={15 / 3600!r}", resume="auto")
    assert progress.update == 5
    assert "length: 5 updates, as fitted" in said


def test_a_run_with_a_budget_is_the_run_of_the_fitted_number(speech, tmp_path, monkeypatch):
    seconds = iter(range(10**6))
    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    monkeypatch.setattr("audio_ssl.train.run.time", SimpleNamespace(perf_counter=lambda: 0.0))
    # Each look at the clock takes a second: 5 and 1 updates are timed as 2 s, and the tenth and last look is at 9 s.
    # 9 s are left: one to write the last checkpoint, 12 / 3 s for updates, and 1 s for each of 4 checkpoints.
    progress, said = run(speech, tmp_path / "a", "run.budget=18s", "optim.optimizer=muon")
    fitted = int(re.search(r"fitted: (\d+) updates", said)[1])
    assert progress.update == fitted == 12
    assert f"planned: {fitted} updates" in said
    run(speech, tmp_path / "b", f"run.num_updates={fitted}", "optim.optimizer=muon")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    ours, theirs = (load_tensors(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in (tmp_path / "b").iterdir())


def test_a_budget_that_is_spent_before_it_begins_is_told(speech, tmp_path):
    with pytest.raises(TrainingError, match=r"run\.budget must have room for an update .* got 0\.01s"):
        run(speech, tmp_path, "run.budget=0.01s")
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not list(tmp_path.rglob("step_*"))
