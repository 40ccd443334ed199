"""What people see of a run while it goes on: a live table on a terminal, one readable line a row elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.logging import RichHandler
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from audio_ssl.train.sinks import Sink

HEADLINE = (
    # metric, label, format
    ("loss", "loss", "{:.3f}"),
    ("contrastive_loss", "contrastive", "{:.3f}"),
    ("accuracy", "acc", "{:.1%}"),
    ("code_perplexity", "codes", "{:.0f}"),
    ("cer", "CER", "{:.1%}"),
    ("wer", "WER", "{:.1%}"),
    ("blank_share", "blank", "{:.0%}"),
    ("lr", "lr", "{:.1e}"),
    ("grad_norm", "gnorm", "{:.2f}"),
    ("audio_h", "heard", "{:.2f} h"),
    ("audio_s_per_s", "speed", "{:.0f} s/s"),
)
OF_THE_WORK = ("audio_h", "audio_s_per_s")  # in the live table these have a line of their own
TRENDS = ("contrastive_loss", "loss")  # the first that a row has is drawn
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*#@"
REFRESH_HZ = 2.0
LABEL, CELL = 12, 9  # columns of a figure's name and of its value
MIN_TREND_WIDTH = 8  # columns; a narrower trend is left out


def open_terminal(
    console: Console, *, num_updates: int, first_update: int, checkpoints: Callable[[], Sequence[str]]
) -> Sink:
    """The live table where ``console`` is a terminal, else lines.

    Args:
        console: where to print.
        num_updates: length of the run.
        first_update: where the run starts.
        checkpoints: names of those that are whole, oldest first.
    """
    lines = Lines(console, num_updates=num_updates)
    if not console.is_terminal or console.is_dumb_terminal:
        return lines
    return LiveView(console, lines, first_update=first_update, checkpoints=checkpoints)


class Lines:
    """One readable line a row.

    Args:
        console: where to print.
        num_updates: length of the run.
    """

    def __init__(self, console: Console, *, num_updates: int) -> None:
        self._console = console
        self.num_updates = num_updates
        self._width = len(str(num_updates))

    def write(self, row: Mapping[str, Any]) -> None:
        """Print the row's headline figures, the time left as measured among them; what guards say was said."""
        if row["split"] == "guard":
            return
        if row["split"] == "probe":
            told = f"probe {row['update']:>{self._width}}/{self.num_updates}  {_of_tasks(row)}"
            self._console.print(told, style="bold", highlight=False, soft_wrap=True)
            return
        shown = [f"{label} {form.format(row[name])}" for name, label, form in HEADLINE if row.get(name) is not None]
        if "time_left_s" in row:
            shown.append(f"left {_span(row['time_left_s'])}")
        self._console.print(
            f"{row['split']} {row['update']:>{self._width}}/{self.num_updates}  " + "  ".join(shown),
            style="bold" if row["split"] == "valid" else None, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""


class LiveView:
    """A table at the foot of the terminal that is drawn anew; warnings and lines of validation scroll above it.

    Args:
        console: a terminal.
        lines: prints rows of validation.
        first_update: where the run starts.
        checkpoints: names of those that are whole, oldest first.
    """

    def __init__(
        self, console: Console, lines: Lines, *, first_update: int, checkpoints: Callable[[], Sequence[str]]
    ) -> None:
        self._lines = lines
        self._update = first_update
        self._checkpoints = checkpoints
        self._newest: tuple[str, float] | None = None  # and when it was first seen
        self._rows: dict[str, tuple[Mapping[str, Any], float]] = {}  # split to its last row, and when it came
        self._trend: list[float] = []
        self._started = time.monotonic()
        self._warnings = _Warnings()
        self._stack = ExitStack()
        self._live = Live(self, console=console, refresh_per_second=REFRESH_HZ, vertical_overflow="crop")
        self._stack.enter_context(self._live)
        self._stack.enter_context(_logs_above(console))
        logger = logging.getLogger("audio_ssl")
        logger.addHandler(self._warnings)
        self._stack.callback(logger.removeHandler, self._warnings)

    def write(self, row: Mapping[str, Any]) -> None:
        """Take the row into the table; one of validation is printed too, so that it stays."""
        now = time.monotonic()
        if row["split"] == "guard":
            self._warnings.add(row["message"])
            return
        self._update = row["update"]
        self._rows[row["split"]] = (row, now)
        names = self._checkpoints()
        if names and (self._newest is None or names[-1] != self._newest[0]):
            self._newest = (names[-1], now)
        if row["split"] != "train":
            self._lines.write(row)
            return
        shown = next((row[name] for name in TRENDS if row.get(name) is not None), None)
        if shown is not None:
            self._trend.append(shown)

    def close(self) -> None:
        """Leave the table as it is and give the terminal back."""
        self._live.refresh()
        self._stack.close()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many lines as the terminal has room for, each cut to its width."""
        yield self._progress(options.max_width)
        room = max(0, console.size.height - 2)
        figures, notes = list(self._figures(options)), list(self._notes())[:room]
        for line in [*figures[: room - len(notes)], *notes]:
            line.truncate(options.max_width, overflow="ellipsis")
            yield line

    def _progress(self, width: int) -> Table:
        total, done = self._lines.num_updates, self._update
        row, came = self._rows.get("train", ({}, 0.0))
        left = row.get("time_left_s")
        told = f" {done}/{total} {done / total:.0%}"
        if left is not None:
            told += f"  left {_span(max(0.0, left - (time.monotonic() - came)))}"
        told += f"  running {_span(time.monotonic() - self._started)}"
        bar = Table.grid(expand=False)
        bar.add_column(no_wrap=True)
        bar.add_column(no_wrap=True, overflow="ellipsis")
        bar_width = width - len(told)
        if bar_width < MIN_TREND_WIDTH:
            bar.add_row("", told.strip())
        else:
            bar.add_row(ProgressBar(total=total, completed=done, width=min(bar_width, 60)), told)
        return bar

    def _figures(self, options: ConsoleOptions) -> Iterator[Text]:
        """A line a figure: name, train, validation where there is room for it, and the trend beside the loss."""
        train, valid = (self._rows.get(split, ({}, 0.0))[0] for split in ("train", "valid"))
        names = [entry for entry in HEADLINE if entry[0] not in OF_THE_WORK and _either(entry[0], train, valid)]
        if not names:
            yield Text("waiting for the first figures", style="dim")
            return
        cells = {"train": train, "valid": valid} if options.max_width >= LABEL + 2 * CELL else {"train": train}
        yield Text(" " * LABEL + "".join(f"{split:>{CELL}}" for split in cells), style="dim")
        drawn = next((name for name in TRENDS if train.get(name) is not None), None)
        for name, label, form in names:
            told = [form.format(row[name]) if row.get(name) is not None else "" for row in cells.values()]
            line = Text(f"{label:<{LABEL}}" + "".join(f"{text:>{CELL}}" for text in told))
            room = options.max_width - len(line) - 2
            if name == drawn and room >= MIN_TREND_WIDTH and len(self._trend) > 1:
                bars = ASCII_BARS if options.ascii_only else BARS
                line.append(f"  {sparkline(self._trend, width=min(room, 40), bars=bars)}", style="cyan")
            yield line

    def _notes(self) -> Iterator[Text]:
        now = time.monotonic()
        if "train" in self._rows:
            row, came = self._rows["train"]
            parts = [f"heard {row['audio_h']:.2f} h"] if "audio_h" in row else []
            if "audio_s_per_s" in row:
                parts.append(f"{row['audio_s_per_s']:.0f} audio-seconds a second")
                parts.append(f"waits for data {row['data_wait_share']:.0%}")
            parts.append(f"figures of update {row['update']}, {_ago(now - came)}")
            yield _note("speed", ", ".join(parts))
        if "valid" in self._rows:
            row, came = self._rows["valid"]
            best = ", the best so far" if row.get("is_best") else ""
            yield _note("validation", f"at update {row['update']}, {_ago(now - came)}{best}")
        if "probe" in self._rows:
            row, _ = self._rows["probe"]
            yield _note("probe", f"at update {row['update']}: {_of_tasks(row)}")
        if self._newest is not None:
            name, seen = self._newest
            yield _note("checkpoint", f"{name}, {_ago(now - seen)}")
        if self._warnings.count:
            told = f"{self._warnings.count}, the last: {self._warnings.last}"
            yield _note("warnings", told, style="yellow")


def sparkline(values: Sequence[float], *, width: int, bars: str = BARS) -> str:
    """Bars whose heights are means of ``values`` in ``width`` parts, between the least and the greatest of these."""
    num_parts = min(width, len(values))
    edges = [len(values) * i // num_parts for i in range(num_parts + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    top = len(bars) - 1
    return "".join(bars[round((mean - low) / (high - low) * top) if high > low else 0] for mean in means)


class _Warnings(logging.Handler):
    """Counts warnings and remembers the last."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.count = 0
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.getMessage())

    def add(self, message: str) -> None:
        """Count a warning."""
        self.count += 1
        self.last = " ".join(message.split())


@contextmanager
def _logs_above(console: Console) -> Iterator[None]:
    """Let log handlers of the terminal write through ``console``, which knows where the table is."""
    with ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, RichHandler):
                stack.callback(setattr, handler, "console", handler.console)
                handler.console = console
            elif isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
                stack.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)  # the live table's own, which prints above it
        yield


def _either(name: str, *rows: Mapping[str, Any]) -> bool:
    return any(row.get(name) is not None for row in rows)


def _of_tasks(row: Mapping[str, Any]) -> str:
    """What a probe found of each task, beside log-mel, and how long it took."""
    found = []
    for name, about in row["tasks"].items():
        figure = about["figure"]
        beside = f"{about['log_mel']} {row[f'{figure}_log_mel']:.1%}"
        found.append(f"{name} {about['metric'].replace('_', ' ')} {row[figure]:.1%} ({beside})")
    return "  ".join([*found, f"{row['probe_s']:.1f} s"])


def _note(label: str, text: str, *, style: str = "") -> Text:
    return Text.assemble((f"{label:<{LABEL}}", "dim"), (text, style))


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _ago(seconds: float) -> str:
    return f"{_span(seconds)} ago"
