"""A probe as one HTML page (``evaluate/report/skeleton``): tables with bars of intervals, layers, maps, neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from audio_ssl import __version__
from audio_ssl.config import dump_config
from audio_ssl.evaluate.report.charts import key
from audio_ssl.evaluate.report.recognition_sections import bar
from audio_ssl.evaluate.report.sections import table, when
from audio_ssl.evaluate.report.skeleton import whole
from audio_ssl.probe.looks import layer_figure
from audio_ssl.probe.outcome import Outcome, Row, TaskOutcome, rows_of
from audio_ssl.probe.pictures import style
from audio_ssl.probe.record import slug
from audio_ssl.probe.scores import Score
from audio_ssl.probe.tables import (
    TextTable,
    amounts_text,
    folds_text,
    gain_text,
    is_share,
    layer_table,
    metric_name,
    number,
    spread,
    task_table,
)


def build_probe_page(outcome: Outcome, looks: Mapping[str, str], *, now: datetime | None = None) -> str:
    """The whole page.

    Args:
        outcome: the figures.
        looks: HTML of pictures of a task, by its name.
        now: the time that stands in the page.
    """
    models = [c.name for c in outcome.candidates if c.role == "model"]
    names = ", ".join(models)
    num_others = len(outcome.candidates) - len(models)
    about = (
        f"frozen representations on {_counted(len(outcome.tasks), 'task')}, beside {_counted(num_others, 'baseline')}; "
        f"{_counted(len(outcome.seeds), 'seed')}"
    )
    header = f'<header><h1>{escape(names)}</h1><div class="sub">{escape(about)}</div></header>'
    sections = [("doubts", "Read this first", _doubts(outcome.tasks))]
    for found in outcome.tasks:
        body = _task(found, looks.get(found.name, ""))
        sections.append((f"task-{slug(found.name)}", escape(found.name), body))
    sections += [
        ("measured", "How it was measured", _measured(outcome)),
        ("notes", "Left out", _listed([(found.name, text) for found in outcome.tasks for text in found.notes])),
    ]
    footer = (
        f"Written by audio_ssl {escape(__version__)} on {when(now or datetime.now(UTC))}. How to read it: "
        "docs/probing.md."
    )
    return whole(
        f"{names}: probe", sections, header=header, footer=footer, styles=("recognition.css",), own_style=style()
    )


def _counted(num: int, what: str) -> str:
    return f"{num} {what}{'s' * (num != 1)}"


def _doubts(tasks: Sequence[TaskOutcome]) -> str:
    return _listed([(found.name, text) for found in tasks for text in found.warnings])


def _listed(texts: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in texts)
    return f"<ul>{items}</ul>" if texts else ""


def _task(found: TaskOutcome, looks: str) -> str:
    parts = [f"<p>{escape(found.task.title)}.</p>", _bars(found)]
    parts.append(f"<details><summary>as numbers</summary>{_letters(task_table(found))}</details>")
    curves, by_layer = layer_figure(found), layer_table(found)
    if by_layer is not None:
        parts.append(f"<h3>By layer</h3>{curves}")
        parts.append(f"<details><summary>as numbers</summary>{_letters(by_layer)}</details>")
    return "".join([*parts, looks])


def _bars(found: TaskOutcome) -> str:
    """A table whose figures are also drawn, with the best log-mel as a line through all rows of a head."""
    rows = rows_of(found)
    known = [row for row in rows if not math.isnan(row.result.score.value)]
    if not known:
        return ""
    metric = known[0].result.score.metric
    most = max(_end(row.result.score) for row in known) or 1.0
    lines = [_bar_row(found, row, most) for row in rows]
    share = " %" if is_share(metric) else ""
    head = "".join(
        f'<th class="number">{name[1:]}</th>' if name.startswith("#") else f"<th>{name}</th>"
        for name in (
            "features",
            "head",
            f"#{escape(metric_name(metric))}{share}",
            f"0 to {number(most, metric)}{share}",
            "#95 %",
            "#over log-mel",
            "#over random weights",
        )
    )
    better = "more" if known[0].result.score.higher_is_better else "less"
    keys = (
        f'<p class="keys">{key("at", f"{metric_name(metric)}; {better} is better")}{key("span", "95 % interval")}'
        f"{key('level', 'the better log-mel')}</p>"
    )
    return f"{keys}{table(head, lines)}"


def _bar_row(found: TaskOutcome, row: Row, most: float) -> str:
    score, name = row.result.score, row.measured.candidate.name
    level = _log_mel(found, row.result.head)
    is_model = row.measured.candidate.role == "model"
    label = f"<b>{escape(name)}</b>" if is_model else escape(name)
    drawn = bar(score.value, score.interval(), most=most, overall=score.value if level is None else level)
    gains = "".join(
        f'<td class="number">{escape(_gain(row, baseline))}</td>' for baseline in ("log-mel", "random weights")
    )  # fmt: skip
    return (
        f'<th scope="row">{label}</th><td>{escape(row.result.head)}</td>'
        f'<td class="number">{number(score.value, score.metric)}</td><td class="range">{drawn}</td>'
        f'<td class="number">{spread(score.interval(), score.metric)}</td>{gains}'
    )


def _gain(row: Row, baseline: str) -> str:
    return gain_text(row.gains[baseline][1], row.result.score.metric) if baseline in row.gains else ""


def _log_mel(found: TaskOutcome, head: str) -> float | None:
    """The value of the better log-mel with a head."""
    scores = [
        result.score
        for one in found.measured
        if one.candidate.role == "log_mel" and (result := one.of_head(head)) is not None
    ]
    if not scores:
        return None
    return (max if scores[0].higher_is_better else min)(score.value for score in scores)


def _end(score: Score) -> float:
    interval = score.interval()
    return min(score.value if interval is None else max(interval.high, score.value), 2.0)


def _letters(found: TextTable) -> str:
    """A table of text as HTML."""
    head = "".join(
        f"<th>{escape(name)}</th>" if i < found.num_names else f'<th class="number">{escape(name)}</th>'
        for i, name in enumerate(found.headings)
    )
    rows = [
        "".join(
            f'<th scope="row">{escape(cell)}</th>' if i < found.num_names else f'<td class="number">{escape(cell)}</td>'
            for i, cell in enumerate(cells)
        )
        for cells in found.rows
    ]
    return table(head, rows) + (f"<p>{escape(found.caption)}.</p>" if found.caption else "")


def _measured(outcome: Outcome) -> str:
    """Who took part, and the settings of the tasks."""
    rows = [
        f'<th scope="row">{escape(c.name)}</th><td>{escape(c.role.replace("_", "-"))}</td>'
        f'<td class="number">{c.num_layers}</td>'
        f'<td class="number">{c.dim}</td><td class="number">{1000 * c.hop_s:g}</td>'
        f'<td class="mono">{escape(c.model_hash or "")}</td>'
        for c in outcome.candidates
    ]
    numbers = "".join(f'<th class="number">{name}</th>' for name in ("layers", "numbers a frame", "ms a frame"))
    parts = [table(f"<th>features</th><th>what</th>{numbers}<th>hash of the weights</th>", rows)]
    for found in outcome.tasks:
        amounts = amounts_text(found.amounts, are_speakers=found.are_speakers)
        parts.append(
            f"<details><summary>{escape(found.name)}: {escape(amounts)}, {escape(folds_text(found))}</summary>"
            f'<pre class="scroll" tabindex="0">{escape(dump_config(found.task))}</pre></details>'
        )
    return "".join(parts)
