"""tools/kill_test.py sees what a kill could do to a run folder, and a process that is left over."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from survival import folders
from survival.processes import MARK, Family

CHECKPOINTS = ("step_00000002", "step_00000004", "step_00000006")


@pytest.fixture
def whole(tmp_path) -> Path:
    """What an uninterrupted run leaves that kept every checkpoint; the second is the best."""
    run = tmp_path / "whole"
    for name in CHECKPOINTS:
        state = run / "checkpoints" / name / "state"
        state.mkdir(parents=True)
        (state.parent / "model.safetensors").write_bytes(name.encode())
        (state / "progress.json").write_text(json.dumps({"update": int(name[-1]), "wall_time_s": 3.0}))
    for file, name in (("best.json", CHECKPOINTS[1]), ("latest.json", CHECKPOINTS[2])):
        (run / "checkpoints" / file).write_text(json.dumps({"name": name}))
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    (run / "config.toml").write_text("[run]\ndir = 'a'\nkeep_last = 9\nseed = 1\n")
    (run / ".lock").write_text("1")
    rows = [{"update": u, "loss": 1 / u, "update_s": 0.1, "audio_s_per_s": 9.0, "time_left_s": 1.0} for u in (2, 4, 6)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.fixture
def run(whole) -> Path:
    """The same run after kills: other speeds, another folder, the last checkpoint and the best."""
    run = whole.with_name("run")
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / CHECKPOINTS[0])
    (run / "config.toml").write_text("[run]\ndir = 'b'\nkeep_last = 1\nseed = 1\n")
    (run / ".lock").write_text("2")
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace("9.0", "7.0"))
    progress = run / "checkpoints" / CHECKPOINTS[1] / "state" / "progress.json"
    progress.write_text(progress.read_text().replace("3.0", "4.0"))
    return run


def test_speeds_and_places_may_differ_and_nothing_else_does(run, whole):
    assert folders.different_runs(run, whole, keep_last=1) == []
    assert folders.half_written(run, whole) == []
    assert folders.left_behind(run, whole) == []
    assert not folders.drafts(run)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


SPOILT = {
    "a bit of a checkpoint": ("checkpoints/step_00000006/model.safetensors", "step_00000007", "half"),
    "a file more in one": ("checkpoints/step_00000006/state/more", "", "half"),
    "progress": ("checkpoints/step_00000006/state/progress.json", '{"update": 5}', "half"),
    "half of a pointer": ("checkpoints/latest.json", '{"na', "half"),
    "a pointer to nothing": ("checkpoints/best.json", '{"name": "step_00000002"}', "half"),
    "half of the settings": ("config.toml", "[run", "half"),
    "other settings": ("config.toml", "[run]\nseed = 2", "half"),
    "half a row": ("metrics.jsonl", '{"update": 2}\n{"upd', "half"),
    "another loss": ("metrics.jsonl", '{"update": 2, "loss": 0.25}\n', "differs"),
    "other weights": ("model/model.safetensors", "others", "differs"),
    "an old best": ("checkpoints/best.json", '{"name": "step_00000006"}', "differs"),
    "a checkpoint too many": ("checkpoints/step_00000002/model.safetensors", "step_00000002", "differs"),
    "a draft": (".model.17.tmp", "", "left"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_a_kill_could_leave_is_seen(run, whole, name):
    path, text, kind = SPOILT[name]
    write(run / path, text)
    if kind == "left":
        assert folders.left_behind(run, whole) == [path]
        return
    if kind == "half":
        assert folders.half_written(run, whole)
    if not text.endswith("upd"):  # the tool does not come so far
        assert folders.different_runs(run, whole, keep_last=1)


def test_a_draft_is_told_from_that_of_an_earlier_life(run):
    (run / "checkpoints" / ".step_00000008.run.tmp").mkdir()
    before = folders.drafts(run)
    assert len(before) == 1
    write(run / "checkpoints" / ".step_00000008.run.tmp" / "config.toml", "")
    assert folders.drafts(run).items() - before.items()


def test_every_process_of_a_run_is_found_and_waited_for(tmp_path):
    family = Family(["--version"], launcher="one process", num_ranks=1, logs=tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={MARK: family.mark, "RANK": "3"}
    )
    try:
        assert family.statuses() == [0]
        while family.members().get(child.pid) != 3:
            assert child.poll() is None
        assert family.wait(0.1) is None  # and kills what is left
        assert child.wait() == -9
        assert family.wait(1) is not None
    finally:
        child.kill()
    assert "audio_ssl" in family.said()["one process"]
