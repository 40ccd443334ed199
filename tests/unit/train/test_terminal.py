"""What people see of a run: lines in a file, a table on a terminal of any size, and log lines above it."""

import io
import logging
import re

import pytest
from rich.console import Console
from rich.logging import RichHandler

from audio_ssl.train.terminal import BARS, Lines, LiveView, open_terminal, sparkline

TRAIN = {
    "update": 7, "split": "train", "contrastive_loss": 4.6151, "accuracy": 0.0123, "code_perplexity": 301.4,
    "audio_h": 0.5, "audio_s_per_s": 71.2, "data_wait_share": 0.02, "time_left_s": 3725.0,
}  # fmt: skip
VALID = {"update": 7, "split": "valid", "contrastive_loss": 4.5, "accuracy": 0.02, "is_best": True}
LOGGER = logging.getLogger("audio_ssl.data.loader")


def terminal(width: int, height: int) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=width, height=height, color_system=None), out


@pytest.fixture
def view(request):
    width, height = getattr(request, "param", (100, 30))
    console, out = terminal(width, height)
    made = open_terminal(console, num_updates=100, first_update=0, checkpoints=lambda: ["step_00000004"])
    yield made, out, console
    made.close()


def last_drawing(out: io.StringIO) -> list[str]:
    """The lines after the cursor last went up to the table's first line."""
    drawn = re.split(r"(?:\x1b\[2K|\x1b\[1A|\r)+", out.getvalue())[-1]
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", drawn).rstrip("\n").split("\n")


def test_a_line_names_its_figures_and_the_time_left():
    out = io.StringIO()
    sink = open_terminal(Console(file=out, width=200), num_updates=100, first_update=0, checkpoints=list)
    assert isinstance(sink, Lines)
    sink.write(TRAIN)
    sink.close()
    line = out.getvalue()
    for part in ("7/100", "contrastive 4.615", "acc 1.2%", "codes 301", "heard 0.50 h", "speed 71 s/s", "1:02:05"):
        assert part in line
    assert len(line.splitlines()) == 1


def test_the_table_shows_both_splits_and_where_the_run_stands(view):
    sink, out, _ = view
    assert isinstance(sink, LiveView)
    sink.write(TRAIN)
    sink.write({**TRAIN, "update": 9, "contrastive_loss": 4.2})
    sink.write(VALID)
    sink._live.refresh()
    lines = last_drawing(out)
    assert "9/100 9%" not in lines[0]  # the row of validation was of update 7
    assert "7/100 7%  left 1:02:0" in lines[0]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["contrastive"][1:] == ["4.200", "4.500", "█▁"]
    assert rows["acc"][1:] == ["1.2%", "2.0%"]
    assert rows["codes"][1:] == ["301"]
    assert "waits for data 2%, figures of update 9" in " ".join(rows["speed"])
    assert rows["validation"][1:4] == ["at", "update", "7,"]
    assert " ".join(rows["validation"]).endswith("the best so far")
    assert rows["checkpoint"][1] == "step_00000004,"
    assert "warnings" not in rows


def test_rows_of_validation_stay_above_the_table(view):
    sink, out, _ = view
    sink.write(VALID)
    sink.write({**TRAIN, "update": 20})
    sink.close()
    assert "valid   7/100  contrastive 4.500  acc 2.0%" in out.getvalue()
    assert "valid   7/100" not in "\n".join(last_drawing(out))


def test_warnings_are_printed_above_and_counted_in_the_table(view):
    sink, out, _ = view
    elsewhere, lost = terminal(100, 30)  # the console script's own, which knows nothing of the table
    handler = RichHandler(console=elsewhere, show_time=False, show_path=False, markup=False)
    sink.close()
    logging.getLogger().addHandler(handler)
    try:
        again = open_terminal(terminal_of(out), num_updates=100, first_update=0, checkpoints=list)
        LOGGER.warning("row 3 cannot be\nread: [bold]x[/bold].wav")
        again.write(TRAIN)
        again.close()
        table = "\n".join(last_drawing(out))
        assert "1, the last: row 3 cannot be read: [bold]x[/bold].wav" in table
        assert "WARNING" in out.getvalue()
        assert "WARNING" not in table
        assert not lost.getvalue()
        LOGGER.warning("after the run")
        assert "after the run" in lost.getvalue()
    finally:
        logging.getLogger().removeHandler(handler)


def terminal_of(out: io.StringIO) -> Console:
    return Console(file=out, force_terminal=True, width=100, height=30, color_system=None)


@pytest.mark.parametrize("view", [(1, 1), (7, 3), (22, 5), (30, 8), (60, 12)], indirect=True)
def test_it_fits_into_any_terminal(view):
    sink, out, console = view
    sink.write({**TRAIN, "loss": 5.0, "lr": 5e-4, "grad_norm": 2.0, "cer": 0.5, "wer": 0.5, "blank_share": 0.9})
    LOGGER.warning("発話 3 cannot be read")
    sink._live.refresh()
    lines = last_drawing(out)
    assert len(lines) <= max(1, console.height - 1)
    assert all(cells(line) <= console.width for line in lines)
    if console.width >= 22 and console.height >= 5:
        assert any(line.startswith("warnings    1, the") for line in lines)


def test_it_follows_a_terminal_that_changes_its_size(view):
    sink, out, console = view
    sink.write(TRAIN)
    console.width = 24
    sink._live.refresh()
    lines = last_drawing(out)
    assert all(cells(line) <= 24 for line in lines)
    assert any(line.split() == ["contrastive", "4.615"] for line in lines)


def cells(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(line.rstrip())


def test_a_sparkline_holds_means_between_its_least_and_greatest():
    assert sparkline([0, 7], width=5) == "▁█"
    assert sparkline([3.0, 3.0], width=5) == "▁▁"
    assert sparkline([0, 2, 5, 9, 14, 14], width=3) == "▁▄█"  # means 1, 7, 14: (7 - 1) / 13 * 7 = 3.2
    assert sparkline(list(range(8)), width=8) == BARS
