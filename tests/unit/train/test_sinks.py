"""Figures: every row once, also after a resume; JSON that every reader takes."""

import io
import json

from rich.console import Console

from audio_ssl.train.sinks import JsonLines, TensorBoard, scalars
from audio_ssl.train.terminal import Lines


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_after_the_resumed_update_are_dropped_and_a_cut_line_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path, keep_until=0)
    for update in (5, 10, 15):
        first.write({"update": update, "split": "train", "loss": update / 10})
    first.close()
    with path.open("a") as file:
        file.write('{"update": 20, "spl')  # killed while writing
    again = JsonLines(path, keep_until=10)
    again.write({"update": 15, "split": "train", "loss": 7.0})
    again.close()
    assert [(row["update"], row["loss"]) for row in rows(path)] == [(5, 0.5), (10, 1.0), (15, 7.0)]


def test_a_validation_that_is_still_to_come_leaves_no_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path, keep_until=0)
    for split in ("train", "valid"):
        first.write({"update": 5, "split": split})
    first.close()
    JsonLines(path, keep_until=5).close()
    assert [row["split"] for row in rows(path)] == ["train", "valid"]
    JsonLines(path, keep_until=5, owes_validation=True).close()
    assert [row["split"] for row in rows(path)] == ["train"]


def test_a_figure_that_is_not_finite_is_null(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl", keep_until=0)
    sink.write({"update": 1, "split": "train", "loss": float("nan"), "lr": 0.5})
    sink.close()
    assert rows(tmp_path / "m.jsonl") == [{"update": 1, "split": "train", "loss": None, "lr": 0.5}]


def test_trackers_get_every_number_of_a_row_but_its_place():
    row = {"update": 7, "split": "train", "loss": 1.5, "skipped_updates": 0, "is_best": True, "note": "x"}
    assert scalars(row) == {"train/loss": 1.5, "train/skipped_updates": 0}


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(tmp_path, keep_until=0)
    sink.write({"update": 3, "split": "train", "code_perplexity_2": 17.5, "skipped_updates": 2})
    sink.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    for name, value in (("train/code_perplexity_2", 17.5), ("train/skipped_updates", 2.0)):
        assert [(event.step, event.value) for event in found.Scalars(name)] == [(3, value)]


def test_a_run_that_was_taken_back_has_no_rows_of_the_way_it_left(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl", keep_until=0)
    for update in (5, 10, 15):
        sink.write({"update": update, "split": "train"})
    sink.write({"update": 10, "split": "guard", "action": "rollback", "message": "a spike"})
    sink.write({"update": 15, "split": "train"})
    sink.close()
    found = [(row["update"], row["split"]) for row in rows(tmp_path / "m.jsonl")]
    assert found == [(5, "train"), (10, "train"), (10, "guard"), (15, "train")]


def test_lines_leave_what_guards_say_to_the_console():
    out = io.StringIO()
    sink = Lines(Console(file=out, width=200), num_updates=100)
    sink.write({"update": 10, "split": "guard", "action": "warning", "message": "a spike"})
    sink.close()
    assert out.getvalue().strip() == ""
