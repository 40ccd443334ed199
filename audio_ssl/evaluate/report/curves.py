"""The curves of a run, and what they say beside the healthy bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from audio_ssl.evaluate.report.charts import Line, Point, brief, frame_of, key, legend, plot, shown
from audio_ssl.evaluate.report.panels import EARLY_SHARE, GROUPS, Panel, is_number, names_of, panels
from audio_ssl.evaluate.report.run_folder import RunFolder
from audio_ssl.evaluate.report.usefulness import SPLIT as PROBE
from audio_ssl.evaluate.report.usefulness import task_panels

NUM_STYLES = 4
FEW_POINTS = {"train": 12, "valid": 40, PROBE: 100}  # which are drawn as points, too
SPLITS = (("train", "training", "train"), ("valid", "validation", "valid"), (PROBE, "the encoder", "g1"))
Verdict = Literal["healthy", "look", "early"]


@dataclass(frozen=True)
class Check:
    """A figure beside its band.

    Attributes:
        panel: the figure.
        split: that was looked at.
        value: newest.
        verdict: ``early`` where the run is too young to say.
    """

    panel: Panel
    split: str
    value: float
    verdict: Verdict


def checks(run: RunFolder) -> list[Check]:
    """Every figure that has a band, newest value first of validation, else of training; groups by their worst."""
    found = []
    is_early = run.update < EARLY_SHARE * (run.num_updates or 0)
    for panel in panels(run.config, run.rows, is_pretraining=run.is_pretraining):
        if panel.band is None:
            continue
        for split in ("valid", "train"):
            values = [points[-1][1] for name in names_of(panel, run.rows) if (points := _points(run, name, split))]
            if values:
                outside, value = max((_outside(value, panel.band), value) for value in values)
                is_in = outside <= 0
                found.append(Check(panel, split, value, "healthy" if is_in else "early" if is_early else "look"))
                break
    return found


def _outside(value: float, band: tuple[float, float]) -> float:
    return max(band[0] - value, value - band[1])


def told(value: float, panel: Panel) -> str:
    """A value of a panel with its unit, for people."""
    return f"{brief(panel.scale * value)} %" if panel.is_percent else shown(value)


def curves(run: RunFolder) -> str:
    """HTML of all charts, by heading."""
    found = panels(run.config, run.rows, is_pretraining=run.is_pretraining) + task_panels(run.rows)
    if not run.rows:
        return "<p>No figures yet.</p>"
    parts = []
    for group in GROUPS:
        figures = "".join(_figure(run, panel) for panel in found if panel.group == group)
        if not figures:
            continue
        parts.append(f'<h3>{escape(group)}</h3><div class="charts">{figures}</div>')
    return "".join(parts)


def _figure(run: RunFolder, panel: Panel) -> str:
    lines = _lines(run, panel)
    scale = panel.scale
    band = None if panel.band is None or panel.band[0] == panel.band[1] else panel.band
    band = None if band is None else (scale * band[0], scale * band[1])
    include = [scale * value for value in panel.include]
    level = None if panel.level is None else scale * panel.level[0]
    frame = frame_of(lines, include=include if level is None else [*include, level], is_log=panel.is_log)
    heading = f"{panel.title}" + (f", {panel.unit}" if panel.unit else "")
    picture = plot(
        lines, frame, label=_in_words(panel, lines), band=band, level=level, x_label="update",
        unit=" %" if panel.is_percent else "",
    )  # fmt: skip
    percent = " %" * panel.is_percent
    last = [told(line.points[-1][1] / scale, panel) if line.points else "" for line in lines]
    notes = []
    if band is not None:
        notes.append(key("band", f"healthy: {brief(band[0])} to {brief(band[1])}{percent}"))
    if panel.level is not None and level is not None:
        notes.append(key("level", f"{panel.level[1]}: {told(panel.level[0], panel)}"))
    keys = f'<p class="keys">{"".join(notes)}</p>' if notes else ""
    unit = f' <span class="unit">{escape(panel.unit)}</span>' if panel.unit else ""
    return (
        f"<figure "
        f'aria-label="{escape(heading)}"><h4>{escape(panel.title)}{unit}</h4>{picture}{legend(lines, last)}{keys}'
        f"<figcaption>{escape(panel.text)}</figcaption></figure>"
    )


def _lines(run: RunFolder, panel: Panel) -> list[Line]:
    names = names_of(panel, run.rows)
    lines = []
    for i, name in enumerate(names):
        for split, word, own_style in SPLITS:
            points = [(x, panel.scale * y) for x, y in _points(run, name, split)]
            if not points or (split == "valid" and len(names) > 1):
                continue
            label = word if len(names) == 1 else f"group {i + 1}"
            style = own_style if len(names) == 1 else f"g{i % NUM_STYLES}"
            lines.append(Line(label, points, style, is_dotted=len(points) <= FEW_POINTS[split]))
    return lines


def _points(run: RunFolder, name: str, split: str) -> list[Point]:
    return [(row["update"], row[name]) for row in run.of(split) if is_number(row.get(name))]


def _in_words(panel: Panel, lines: Sequence[Line]) -> str:
    """What a chart shows, for those who do not see it."""
    said = []
    for line in lines:
        values = [y for _, y in line.points]
        said.append(
            f"{line.label}: {len(values)} points, from {shown(values[0])} at update {shown(line.points[0][0])} to "
            f"{shown(values[-1])} at update {shown(line.points[-1][0])}, least {shown(min(values))}, most "
            f"{shown(max(values))}"
        )
    return f"{panel.title}{f' ({panel.unit})' if panel.unit else ''}. {'; '.join(said)}."
