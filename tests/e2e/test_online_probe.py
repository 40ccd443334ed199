"""``[probe]`` of a run as users have it: the run stays the same, and its report says what it becomes worth."""

import json
from pathlib import Path

import pytest

from audio_ssl.checkpoint import load_tensors
from audio_ssl.data.scan import scan
from tests.e2e.console import sets
from tests.unit.probe.tones import write_tones

SMALL = [
    "model.dim=24", "model.num_heads=2", "model.num_layers=1", "model.ffn_dim=48", "model.pos_conv_groups=4",
    "model.pos_conv_kernel=8", "data.batch_s=2.4", "data.micro_batch_s=2.4", "data.max_s=1", "data.min_s=0.1",
    "run.log_every=2", "run.save_every=3", "run.validate_every=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    folder = write_tones(tmp_path_factory.mktemp("tones"), num=2).parent
    scan(folder / "tones").manifest.write(folder / "tones.arrow")
    return folder


def training(speech: Path, run: Path, *settings: str) -> list[str]:
    manifest = json.dumps([str(speech / "tones.arrow")])
    given = [*SMALL, f"data.train={manifest}", f"data.valid={manifest}", f"run.dir={run}", *settings]
    return ["pretrain", "pretrain/tiny_cpu", *sets(*given)]


def probed(speech: Path, run: Path, *settings: str) -> list[str]:
    tasks = json.dumps([str(speech / "classify.toml")])
    return training(speech, run, f"probe.tasks={tasks}", f"probe.corpora={speech}", "probe.every=2", *settings)


def figures(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_probes_is_the_same_run_and_says_what_it_becomes_worth(speech, tmp_path, say):
    say(*training(speech, tmp_path / "plain", "run.num_updates=5"))
    said = say(*probed(speech, tmp_path / "run", "run.num_updates=5", "probe.max_items=9"))
    plain, own = (load_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "run"))
    assert all(own[name].equal(value) for name, value in plain.items())
    rows = figures(tmp_path / "run")
    assert [row["update"] for row in rows if row["split"] == "probe"] == [0, 2, 4, 5]
    losses = [
        [(r["update"], r["split"], r["loss"]) for r in found if "loss" in r]
        for found in (rows, figures(tmp_path / "plain"))
    ]
    assert losses[0] == losses[1]
    assert "probe: classify: low or high; 9 items of 3 speakers; linear head on a learned sum of all layers" in said
    assert "probe 4/5  classify accuracy " in said
    say("report", tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "classify, % accuracy" in page
    assert "classify: codes and labels" in page  # of the run's own task
    say("report", tmp_path / "plain", "--task", speech / "classify.toml", "--corpora", speech)
    assert "PNMI" in (tmp_path / "plain" / "report.html").read_text()
    write_tones(speech, num=2, kind="retrieve", split="speakers")
    assert "must be of kind classify, frames, units" in say(
        "report", tmp_path / "plain", "--task", speech / "retrieve.toml", "--corpora", speech, status=2
    )


def test_a_task_without_its_files_ends_the_run_before_its_start(speech, tmp_path, say):
    (tmp_path / "gone.toml").write_text((speech / "classify.toml").read_text().replace('"tones"', '"gone"'))
    task = json.dumps([str(tmp_path / "gone.toml")])
    for more in ([], ["--dry-run"]):
        said = say(*probed(speech, tmp_path / "run", f"probe.tasks={task}"), *more, status=2)
        assert "probe.tasks" in said
        assert "must hold a folder gone" in said
        assert not list(tmp_path.glob("run/metrics*"))
    assert "probe.layer must be 0 to model.num_layers = 1" in say(*probed(speech, tmp_path, "probe.layer=2"), status=2)
