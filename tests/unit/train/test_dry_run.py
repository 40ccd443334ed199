"""A dry run does real updates on the dearest and the median batch, tells what the run will take, and leaves nothing."""

import io
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from rich.console import Console
from typer.testing import CliRunner

from audio_ssl.cli.main import app
from audio_ssl.config import FinetuneConfig, PretrainConfig, dump_config
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import TrainingError
from audio_ssl.train import dry_run
from audio_ssl.train.distributed import World
from audio_ssl.train.finetune import finetune
from audio_ssl.train.pretrain import open_data, pretrain
from audio_ssl.train.updates import open_updates

RATE = 16000
LENGTHS_S = (0.5, 0.6, 0.7, 1.0, 1.1, 1.2, 1.95)
MODEL = {
    "preset": "tiny_cpu", "conv_dims": (8,) * 7, "dim": 24, "num_heads": 3, "num_layers": 2, "ffn_dim": 31,
    "pos_conv_groups": 4, "pos_conv_kernel": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dry")
    generator = np.random.default_rng(0)
    rows = []
    for i, seconds in enumerate(LENGTHS_S):
        sf.write(root / f"{i}.wav", 0.1 * generator.standard_normal(round(seconds * RATE)), RATE)
        rows.append(Utterance(f"u{i}", f"{i}.wav", 0, round(seconds * RATE), RATE, text="ab"))
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    return root / "list.tsv"


def settings(manifest: Path, run_dir: Path, **more) -> dict:
    data = {"train": [manifest], "batch_s": 2.0, "micro_batch_s": 2.0, "max_s": 2.0, "num_workers": 0}
    run = {"dir": run_dir, "device": "cpu", "precision": "fp32", "num_updates": 3600, "keep_last": 3, **more}
    return {"model": MODEL, "data": data, "run": run, "optim": {"ema_decay": 0.9}}


def dry(config) -> str:
    console = Console(width=400, file=io.StringIO())
    if isinstance(config, PretrainConfig):
        assert pretrain(config, resume="never", init_from=None, console=console, is_dry=True) is None
    else:
        assert finetune(config, resume="never", console=console, is_dry=True) is None
    return console.file.getvalue()


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in [folder, *folder.rglob("*")]
    }


def test_it_tells_what_the_run_will_take_and_makes_no_folder(manifest, tmp_path):
    said = dry(PretrainConfig(**settings(manifest, tmp_path / "runs" / "one")))
    assert list(tmp_path.iterdir()) == []
    # 1.95 s in one row, padded to quarters of a second, is dearer than 2 rows of 1 s: attention.
    assert re.search(r"dearest micro-batch: 1 row of up to 2\.0 s, 1 x in an update: [\d.]+ s, [\d.]+ GiB", said)
    assert re.search(r"median micro-batch: 1 row of up to 1\.2 s, 1 x in an update", said)
    assert "effective batch: " in said
    assert "finished model/ are of the running average" in said
    assert "enough\nthis was a dry run: nothing is kept" in said


@pytest.mark.parametrize(("verb", "kind"), [("pretrain", PretrainConfig), ("finetune", FinetuneConfig)])
def test_both_verbs_take_the_option(manifest, tmp_path, tmp_path_factory, verb, kind):
    file = tmp_path_factory.mktemp("settings") / "run.toml"
    file.write_text(dump_config(kind(**settings(manifest, tmp_path / "run"))))
    done = CliRunner().invoke(app, [verb, str(file), "--dry-run"], catch_exceptions=False)
    assert (done.exit_code, "this was a dry run" in done.output) == (0, True)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_as_large_as_it_says(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "GIB", 1)
    config = PretrainConfig(**{**settings(manifest, tmp_path / "run", num_updates=1, save_every=1)})
    checkpoint, most = (
        float(x) for x in re.search(r"disk: ([\d.]+) GiB a checkpoint, ([\d.]+) GiB for run.dir", dry(config)).groups()
    )
    pretrain(config, resume="never", init_from=None, console=Console(quiet=True))
    place = tmp_path / "run" / "checkpoints" / "step_00000001"
    real = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    assert checkpoint == pytest.approx(real, rel=0.1)  # names and settings come on top
    weights = (place / "model.safetensors").stat().st_size
    assert most == pytest.approx(5 * checkpoint + weights, rel=0.1)  # three kept, the best, and one in the making

    before = everything(tmp_path)
    dry(config)
    assert everything(tmp_path) == before


def test_fine_tuning_is_tried_as_it_is_after_the_frozen_updates(manifest, tmp_path, monkeypatch):
    updates = []

    def watched(task, parallel, batches, around, *, update, is_stop_asked):
        updates.append(update)
        return run_update(task, parallel, batches, around, update=update, is_stop_asked=is_stop_asked)

    run_update = dry_run.run_update
    monkeypatch.setattr(dry_run, "run_update", watched)
    base = settings(manifest, tmp_path / "run")
    config = FinetuneConfig(**{**base, "ctc": {"freeze_encoder_updates": 10}})
    assert "this was a dry run" in dry(config)
    assert updates == [3599] * 4
    assert list(tmp_path.iterdir()) == []


def test_time_and_speed_follow_from_the_median(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=itertools.count().__next__))  # 1 s an update
    base = settings(manifest, tmp_path / "run")
    said = dry(PretrainConfig(**{**base, "data": {**base["data"], "batch_s": 6.0}}))
    assert "dearest micro-batch: 1 row of up to 2.0 s, 1 x in an update: 1.00 s" in said
    assert re.search(r"median micro-batch: .* 2 x in an update: 1.00 s", said)
    # A pass of 7.05 s is 5 micro-batches in 2 updates: 2.5 of half a second each.
    assert "speed: 1.25 s an update, 3 audio-seconds a second" in said
    assert "time to finish: 1:15:00 for 3600 updates" in said


@pytest.mark.parametrize(
    ("length", "planned", "time_left"),
    [
        ({"budget": "2m"}, "the updates that fit into run.budget = 2m", "run.budget 2m: 96 updates at most"),
        ({"audio_hours": 2.35}, "2400 updates = 2.35 h of audio", "time to finish: 0:50:00 for 2400 updates"),
    ],
)
def test_another_length_is_told_by_the_speed_it_saw(manifest, tmp_path, monkeypatch, length, planned, time_left):
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    base = settings(manifest, tmp_path / "run", **length)
    del base["run"]["num_updates"]
    said = dry(PretrainConfig(**{**base, "data": {**base["data"], "batch_s": 6.0}}))
    assert f"planned: {planned}" in said
    assert time_left in said  # 1.25 s an update of 3.525 s of audio
    assert list(tmp_path.iterdir()) == []


def test_lack_of_memory_names_the_setting_and_leaves_nothing(manifest, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dry_run, "run_update", fail)
    with pytest.raises(TrainingError, match=r"2 s \(data.micro_batch_s\) do not; lower it"):
        dry(PretrainConfig(**settings(manifest, tmp_path / "run")))
    assert list(tmp_path.iterdir()) == []


def test_groups_are_ordered_by_what_their_dearest_pass_costs(manifest, tmp_path):
    from audio_ssl.train.pretrain import build_module

    config = PretrainConfig(**settings(manifest, tmp_path / "run"))
    data = open_data(config, build_module(config, None).encoder, is_train=True)
    updates = open_updates(data, config.data, seed=1, world=World(1, 2, torch.device("cpu")))
    plan = updates.plan(0)

    def cost(micro_batch: int) -> float:
        rows = plan.order[plan.bounds[micro_batch] : plan.bounds[micro_batch + 1]]
        longest = data.num_samples[rows].max() / RATE
        return len(rows) * (longest + longest**2 / 20)

    by_cost = updates.groups_by_cost(0)
    assert sorted(by_cost) == list(range(len(plan.groups)))
    costs = [max(cost(m) for m in plan.groups[g]) for g in by_cost]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]
    (batch,) = updates.read_groups(0, [by_cost[-1]])
    mine = plan.groups[by_cost[-1], 1]
    assert batch.rows == tuple(data.rows[plan.order[plan.bounds[mine] : plan.bounds[mine + 1]]].tolist())
