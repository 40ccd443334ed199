"""The curve of what an encoder is worth, as the report and the terminal show it."""

import io
import re

from rich.console import Console

from audio_ssl.evaluate.report.curves import curves
from audio_ssl.evaluate.report.examples import Examples
from audio_ssl.evaluate.report.page import build_page
from audio_ssl.evaluate.report.run_folder import read_run
from audio_ssl.evaluate.report.usefulness import task_panels
from audio_ssl.train.terminal import Lines
from tests.unit.evaluate.runs import rows, write_run

ABOUT = {
    "figure": "digits_accuracy", "title": "digits <b>", "metric": "accuracy", "higher_is_better": True,
    "how": "linear head on layer 1", "num_items": 600, "log_mel": "log-mel, 140 ms", "chance": 0.1,
    "interval_95": [0.5, 0.7], "heard": "this run heard 3 of 4 test recordings",
}  # fmt: skip


def probe_row(update: int, value: float | None) -> dict:
    return {
        "update": update, "split": "probe", "digits_accuracy": value, "digits_accuracy_log_mel": 0.557, "probe_s": 3.25,
        "tasks": {"digits": ABOUT},
    }  # fmt: skip


ROWS = [probe_row(0, 0.37), *rows(), probe_row(25, 0.48), probe_row(50, 0.62)]


def test_a_task_is_a_curve_beside_the_loss_with_log_mel_as_a_line(tmp_path):
    found = curves(read_run(write_run(tmp_path / "run", figures=ROWS)))
    learning = found.split("<h3>Learning</h3>")[1].split("<h3>")[0]
    figure = re.search(r'<figure aria-label="digits, % accuracy">.*?</figure>', learning).group()
    assert "Contrastive loss" in learning
    assert "the encoder: 3 points, from 37 at update 0 to 62 at update 50" in figure
    assert "log-mel, 140 ms: 55.7 %" in figure
    assert "600 items; higher is better" in figure
    assert "Chance is 10.0 %" in figure
    assert "50.0 to 70.0 % (95 %)" in figure
    assert "this run heard 3 of 4 test recordings" in figure
    assert "digits &lt;b&gt;" in figure
    assert "probe s" not in found  # nothing of it is among the other figures


def test_the_summary_has_the_newest_figure_beside_log_mel_and_the_first(tmp_path):
    page = build_page(read_run(write_run(tmp_path / "run", figures=ROWS)), Examples())
    assert re.search(r"digits, accuracy.*?62 %.*?log-mel, 140 ms 55\.7 %, first 37 %", page)


def test_rows_that_somebody_spoilt_draw_nothing():
    assert task_panels([{"update": 1, "split": "probe", "tasks": "x"}, {"update": 2, "split": "probe"}]) == []
    assert task_panels([{"update": 1, "split": "probe", "tasks": {"a": 3, "b": {"figure": ["x"]}}}]) == []
    assert task_panels([probe_row(0, None)]) == []
    assert [panel.level for panel in task_panels([probe_row(3, 0.5), probe_row(4, None)])] == [
        (0.557, "log-mel, 140 ms")
    ]


def test_a_line_on_the_terminal_says_task_figure_log_mel_and_time():
    out = io.StringIO()
    Lines(Console(file=out, width=200), num_updates=500).write(probe_row(25, 0.48))
    assert out.getvalue() == "probe  25/500  digits accuracy 48.0% (log-mel, 140 ms 55.7%)  3.2 s\n"
