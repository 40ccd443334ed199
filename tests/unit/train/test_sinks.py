"""Figures: every row once, also after a resume; JSON that every reader takes."""

import io
import json

from rich.console import Console

from audio_ssl.train.sinks import JsonLines, Terminal


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


def test_a_figure_that_is_not_finite_is_null(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl", keep_until=0)
    sink.write({"update": 1, "split": "train", "loss": float("nan"), "lr": 0.5})
    sink.close()
    assert rows(tmp_path / "m.jsonl") == [{"update": 1, "split": "train", "loss": None, "lr": 0.5}]


def test_the_terminal_line_names_its_figures_and_the_time_left():
    out = io.StringIO()
    sink = Terminal(Console(file=out, width=200), num_updates=100, first_update=0)
    sink.write(
        {"update": 7, "split": "train", "contrastive_loss": 4.6151, "accuracy": 0.0123, "code_perplexity": 301.4,
         "audio_h": 0.5, "audio_s_per_s": 71.2, "time_left_s": 3725.0}
    )  # fmt: skip
    sink.close()
    line = out.getvalue()
    for part in ("7/100", "contrastive 4.615", "acc 1.2%", "codes 301", "heard 0.50 h", "speed 71 s/s", "1:02:05"):
        assert part in line


def test_a_run_that_was_taken_back_has_no_rows_of_the_way_it_left(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl", keep_until=0)
    for update in (5, 10, 15):
        sink.write({"update": update, "split": "train"})
    sink.write({"update": 10, "split": "guard", "action": "rollback", "message": "a spike"})
    sink.write({"update": 15, "split": "train"})
    sink.close()
    found = [(row["update"], row["split"]) for row in rows(tmp_path / "m.jsonl")]
    assert found == [(5, "train"), (10, "train"), (10, "guard"), (15, "train")]


def test_the_terminal_leaves_what_guards_say_to_the_console():
    out = io.StringIO()
    sink = Terminal(Console(file=out, width=200), num_updates=100, first_update=0)
    sink.write({"update": 10, "split": "guard", "action": "warning", "message": "a spike"})
    sink.close()
    assert out.getvalue().strip() == ""
