"""Run folders of any state are read; what is none is refused with what to do."""

import re

import pytest

from audio_ssl.errors import CheckpointError
from audio_ssl.evaluate.report.run_folder import read_run
from tests.unit.evaluate.runs import event, rows, write_checkpoint, write_run


def test_a_run_is_read_with_its_checkpoints(tmp_path):
    run = write_run(tmp_path / "run", events=[event("start"), event("end", 50, how="done", message="")])
    write_checkpoint(run, name="step_00000040")
    (run / "checkpoints" / "step_00000050").mkdir()
    (run / "checkpoints" / "step_00000050" / "x").write_bytes(b"12345")
    found = read_run(run)
    assert (found.update, found.num_updates, found.state) == (50, 50, "done")
    assert [row["update"] for row in found.of("train")] == [10, 20, 30, 40, 50]
    assert [(c.name, c.is_best, c.is_newest) for c in found.checkpoints] == [
        ("step_00000040", True, False), ("step_00000050", False, True),
    ]  # fmt: skip
    assert found.checkpoints[1].num_bytes == 5
    assert not found.notes


@pytest.mark.parametrize(
    ("events", "num_rows", "state"),
    [
        ([event("start"), event("end", how="stopped", message="signal 15")], 2, "stopped: signal 15"),
        ([event("start"), event("end", how="failed", message="x"), event("start")], 2, "going on, or killed: "),
        ([], 2, "going on, or killed: "),
        ([], 5, "done"),  # of before events were written: all updates are there
    ],
)
def test_how_a_run_stands(tmp_path, events, num_rows, state):
    assert read_run(write_run(tmp_path, figures=rows(num_rows), events=events)).state.startswith(state)


def test_half_written_files_are_read_as_far_as_they_go(tmp_path):
    run = write_run(tmp_path, events=[event("start")])
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n{"update": "7", "split": "train"}\n\xff\xfe\n{"update": 60, "spl')
    with (run / "events.jsonl").open("a") as file:
        file.write('{"time')
    found = read_run(run)
    assert found.update == 50
    assert list(found.notes) == [
        "metrics.jsonl: 4 lines cannot be read and are left out", "events.jsonl: 1 line cannot be read and is left out",
    ]  # fmt: skip


def test_a_run_that_has_just_begun(tmp_path):
    found = read_run(write_run(tmp_path, figures=[]))
    assert found.update == 0
    assert found.notes[0].startswith("metrics.jsonl holds no figures yet")


def test_damaged_settings_are_a_note(tmp_path):
    run = write_run(tmp_path)
    (run / "config.toml").write_text("[run")
    found = read_run(run)
    assert (found.num_updates, found.is_pretraining) == (None, True)
    assert found.notes[0].startswith("the settings cannot be read")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        read_run(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=re.escape("which holds metrics.jsonl and the run's config.toml")):
        read_run(tmp_path)
    model = write_checkpoint(write_run(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="it is a model: give the folder of the run"):
        read_run(model)
