"""Figures of a probe as tables of text, for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from audio_ssl.evaluate.intervals import Interval
from audio_ssl.probe.outcome import BASELINES, Amounts, Measured, Row, TaskOutcome, rows_of
from audio_ssl.probe.scores import Gain, Score

METRICS = {
    "accuracy": "accuracy", "error_rate": "error rate", "eer": "equal error rate", "min_dcf": "minDCF",
    "macro_f1": "macro F1", "pnmi": "PNMI",
}  # fmt: skip
SURE = "✓"
_PLAIN = ("nats", "dcf", "loss", "perplexity")  # parts of the names of metrics that are no shares


@dataclass(frozen=True)
class TextTable:
    """A table in letters.

    Attributes:
        title: above it.
        headings: of the columns; the first ``num_names`` of them hold names, the others numbers.
        rows: cells.
        num_names: columns that stand to the left.
        caption: below it.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_names: int = 1
    caption: str = ""


def metric_name(metric: str) -> str:
    """A metric for people."""
    return METRICS.get(metric, metric.replace("_", " "))


def is_share(metric: str) -> bool:
    """Whether a metric is told in percent."""
    return not any(part in metric for part in _PLAIN)


def number(value: float, metric: str) -> str:
    """A value of a metric: percent with one digit, or as it is with three; without its unit."""
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.3f}"


def spread(interval: Interval | None, metric: str) -> str:
    """Both ends of an interval."""
    return "" if interval is None else f"{number(interval.low, metric)}–{number(interval.high, metric)}"


def gain_text(gain: Gain, metric: str) -> str:
    """A difference with its interval, and a mark where it is sure; above 0 is better."""
    scale, digits = (100.0, 1) if is_share(metric) else (1.0, 3)
    value = f"{scale * gain.value:+.{digits}f}"
    if gain.interval is None:
        return value
    ends = " to ".join(f"{scale * end:+.{digits}f}" for end in (gain.interval.low, gain.interval.high))
    return f"{value} ({ends}){f' {SURE}' if gain.is_sure else ''}"


def task_table(found: TaskOutcome) -> TextTable:
    """The table of a task: a line a head and candidate."""
    rows = rows_of(found)
    baselines = [name for name in BASELINES if any(name in row.gains for row in rows)]
    others = {name: score.metric for row in rows for name, score in row.result.others.items()}
    has_heads = len(found.heads) > 1
    metrics = list(dict.fromkeys(row.result.score.metric for row in rows))
    headings = [
        "features", *(["head"] if has_heads else []), " / ".join(map(_heading, metrics)), "95 %",
        *(f"over {name}" for name in baselines), *(_heading(name, metric) for name, metric in others.items()),
    ]  # fmt: skip
    cells = tuple(_cells(row, baselines, list(others), has_heads=has_heads) for row in rows)
    return TextTable(
        f"{found.name}: {found.task.title}", tuple(headings), cells, 2 if has_heads else 1, caption(found, rows)
    )  # fmt: skip


def _heading(name: str, metric: str | None = None) -> str:
    return f"{metric_name(name)}{' %' if is_share(metric or name) else ''}"


def _cells(row: Row, baselines: Sequence[str], others: Sequence[str], *, has_heads: bool) -> tuple[str, ...]:
    score = row.result.score
    return (
        row.measured.candidate.name, *([row.result.head] if has_heads else []), number(score.value, score.metric),
        spread(score.interval(), score.metric),
        *(gain_text(row.gains[name][1], score.metric) if name in row.gains else "" for name in baselines),
        *(_other(row.result.others.get(name)) for name in others),
    )  # fmt: skip


def _other(score: Score | None) -> str:
    return "" if score is None else number(score.value, score.metric)


def caption(found: TaskOutcome, rows: Sequence[Row]) -> str:
    """How many there are, what chance is, and beside whom models are put."""
    parts = [amounts_text(found.amounts, are_speakers=found.are_speakers)]
    parts += [folds_text(found)]
    if found.chance is not None:
        parts.append(f"chance {number(found.chance, 'accuracy')} %")
    for name in BASELINES:
        others = {row.gains[name][0] for row in rows if name in row.gains}
        if others:
            parts.append(f"over {name}: {' or '.join(sorted(others))}")
    lower = [row for row in rows if not row.result.score.higher_is_better]
    parts.append("less is better; differences are turned so that above 0 is better" if lower else "more is better")
    parts.append(f"95 % over {'speakers' if found.are_speakers else 'recordings'} and seeds; {SURE}: 0 is left out")
    return "; ".join(parts)


def amounts_text(amounts: Amounts, *, are_speakers: bool) -> str:
    """How much, for people."""
    voices = f" of {amounts.num_speakers} speakers" if are_speakers else ""
    return f"{amounts.num_items:,} items{voices}, {amounts.hours:.2f} h"


def folds_text(found: TaskOutcome) -> str:
    """Who is learned from and measured on."""
    if len(found.folds) > 1:
        return f"{len(found.folds)} folds"
    (parts,) = found.folds.values()
    return ", ".join(f"{name} {own.num_items:,}" for name, own in parts.items() if own.num_items)


def layer_table(found: TaskOutcome) -> TextTable | None:
    """Each layer by itself; None where nobody asked."""
    layered = [one for one in found.measured if one.layers]
    if not layered:
        return None
    metric = layered[0].layers[0].score.metric
    most = max(len(one.layers) for one in layered)
    rows = tuple((str(n), *(_layer_cell(one, n) for one in layered)) for n in range(most))
    head = layered[0].layers[0].head
    title = f"{found.name} by layer: {_heading(metric)}, {head}, one seed"
    headings = ("layer", *(one.candidate.name for one in layered))
    return TextTable(title, headings, rows, caption="layer 0 is the input of the first block")


def _layer_cell(one: Measured, layer: int) -> str:
    if layer >= len(one.layers):
        return ""
    score = one.layers[layer].score
    interval = score.interval()
    return number(score.value, score.metric) + ("" if interval is None else f" ({spread(interval, score.metric)})")


def tables(found: TaskOutcome) -> list[TextTable]:
    """All tables of a task."""
    return [table for table in (task_table(found), layer_table(found)) if table is not None]


def markdown(found: Sequence[TaskOutcome]) -> str:
    """The tables of all tasks, with what is odd about them."""
    parts = []
    for one in found:
        parts += [_markdown_table(table) for table in tables(one)]
        told = [f"- warning: {text}" for text in one.warnings] + [f"- note: {text}" for text in one.notes]
        parts += ["\n".join([*told, ""])] if told else []
    return "\n".join(parts)


def _markdown_table(table: TextTable) -> str:
    lines = [f"## {table.title}", "", _line(table.headings)]
    lines.append(_line(["---" if i < table.num_names else "---:" for i in range(len(table.headings))]))
    lines += [_line(row) for row in table.rows]
    return "\n".join([*lines, "", *([f"{table.caption}.", ""] if table.caption else [])])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
