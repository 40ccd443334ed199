"""What a run tells: rows, as a table or as JSON lines, and the record of ratios that a later run is held to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Spread

LOWEST_SHARE = 0.9  # of its record that a ratio may fall to
BETTER_WHEN_LOWER = ("memory_ratio",)


class BenchError(Exception):
    """The run cannot go on, or would say nothing."""


def note(text: str) -> None:
    """Say something beside the figures, on stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Row:
    """A figure.

    Attributes:
        bench: ``step``, ``forward``, ...
        case: what was measured; with the candidate's name where it is one candidate's figure.
        metric: name.
        value: median where it was measured in rounds.
        unit: ``audio-s/s``, ``s``, ``GFLOP/s``, ``MiB``, ``share``, or ``ratio``: what is recorded.
        spread: quartiles, where there are several rounds.
    """

    bench: str
    case: str
    metric: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None

    @classmethod
    def of(cls, place: tuple[str, str, str], spread: Spread, unit: str) -> Row:
        """A row of (bench, case, metric) with quartiles."""
        return cls(*place, spread.median, unit, (spread.low, spread.high))

    @property
    def key(self) -> str:
        """What a ratio is recorded under."""
        return f"{self.bench}/{self.case}/{self.metric}"

    def lines(self) -> Iterator[str]:
        """JSON: the value and, as metrics of their own, its quartiles (``_q1``, ``_q3``)."""
        values = {"": self.value}
        if self.spread:
            values |= {"_q1": self.spread[0], "_q3": self.spread[1]}
        for end, value in values.items():
            row = {"bench": self.bench, "case": self.case, "metric": self.metric + end, "value": value}
            yield json.dumps({**row, "unit": self.unit})


def show(rows: Sequence[Row], *, is_json: bool, repeats: int) -> None:
    """Print the rows on stdout."""
    if is_json:
        for row in rows:
            for line in row.lines():
                print(line)
        return
    table = Table("case", "metric", "value", "quartiles", "unit", title=rows[0].bench if rows else None)
    for row in rows:
        spread = f"{row.spread[0]:.4g} – {row.spread[1]:.4g}" if row.spread else ""
        table.add_row(row.case, row.metric, f"{row.value:.4g}", spread, row.unit)
    console = Console(width=None if sys.stdout.isatty() else 120)  # a file has no width to cut names to
    console.print(table)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {repeats} rounds in turn")


def ratios_in(rows: Sequence[Row]) -> dict[str, float]:
    """The ratios of a run by their keys."""
    return {row.key: row.value for row in rows if row.unit == "ratio"}


def record(rows: Sequence[Row], path: Path) -> None:
    """Put the run's ratios into a JSON file; those of other runs stay."""
    known = read_record(path) if path.exists() else {}
    rounded = {key: float(f"{value:.4g}") for key, value in ratios_in(rows).items()}
    path.write_text(json.dumps(dict(sorted((known | rounded).items())), indent=2) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict[str, float]:
    """The recorded ratios.

    Raises:
        BenchError: there is no such file, or it holds something else.
    """
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in known.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} must hold ratios as --record writes them: {error}") from error


def regressions(rows: Sequence[Row], known: dict[str, float]) -> list[str]:
    """A line for every ratio that is worse than nine tenths of its record; what has no partner is noted.

    Raises:
        BenchError: nothing that was measured is on record.
    """
    found = ratios_in(rows)
    if not found.keys() & known.keys():
        raise BenchError("no ratio of this run is on record, so nothing was checked: record it with --record")
    for key in sorted(found.keys() - known.keys()):
        note(f"not on record: {key}")
    faults = []
    for key in sorted(found.keys() & known.keys()):
        is_worse = found[key] < LOWEST_SHARE * known[key]
        if key.endswith(BETTER_WHEN_LOWER):
            is_worse = found[key] > known[key] / LOWEST_SHARE
        if is_worse:
            faults.append(f"{key}: {found[key]:.3g}, on record {known[key]:.3g}")
    return faults
