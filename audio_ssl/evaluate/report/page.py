"""The report of a run as one HTML page (``skeleton``): everything that comes from data goes through ``html.escape``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html import escape

from audio_ssl import __version__
from audio_ssl.evaluate.report.charts import brief
from audio_ssl.evaluate.report.codebook import codebook
from audio_ssl.evaluate.report.curves import Check, checks, curves, told
from audio_ssl.evaluate.report.examples import Examples
from audio_ssl.evaluate.report.panels import Panel, is_number
from audio_ssl.evaluate.report.pictures import utterance
from audio_ssl.evaluate.report.run_folder import RunFolder
from audio_ssl.evaluate.report.sections import (
    checkpoints,
    environment,
    events,
    notes,
    settings,
    table,
    transcripts,
    when,
)
from audio_ssl.evaluate.report.skeleton import tile, whole
from audio_ssl.evaluate.report.usefulness import SPLIT as PROBE
from audio_ssl.evaluate.report.usefulness import task_panels

MARKS = {"healthy": "✓ healthy", "look": "! look", "early": "… too early to say"}
CHECK_COLUMNS = ("figure", "verdict", "newest", "healthy", "measured in", "what to do")
TILES = (
    # figure, title, format
    ("contrastive_loss", "Contrastive loss", "{:.3f}"),
    ("loss", "CTC loss", "{:.3f}"),
    ("accuracy", "Accuracy", "{:.1%}"),
    ("code_perplexity", "Code perplexity", "{:.0f}"),
    ("cer", "Character errors", "{:.1%}"),
    ("wer", "Word errors", "{:.1%}"),
)


def build_page(
    run: RunFolder, examples: Examples, *, now: datetime | None = None, codes: str = "", own_style: str = ""
) -> str:
    """The whole page.

    Args:
        run: from :func:`~audio_ssl.evaluate.report.run_folder.read_run`.
        examples: from :func:`~audio_ssl.evaluate.report.examples.look`.
        now: the time that stands in the page.
        codes: HTML of codes beside labels, which this room knows nothing of.
        own_style: that it needs.
    """
    now = now or datetime.now(UTC)
    found = checks(run)
    sections = [
        ("summary", "Summary", _summary(run, found)),
        ("warnings", "Warnings", events(run)),
        ("curves", "Curves", curves(run)),
        ("codebook", "Codebook", codebook(examples) if run.is_pretraining else ""),
        ("codes", "Codes and labels", codes),
        ("utterance", "One utterance", utterance(examples) if run.is_pretraining else ""),
        ("transcripts", "Transcripts", "" if run.is_pretraining else transcripts(examples)),
        ("checkpoints", "Checkpoints", checkpoints(run)),
        ("settings", "Settings", settings(run)),
        ("environment", "Environment", environment(run)),
        ("notes", "Missing here", notes([*run.notes, *examples.notes])),
    ]
    name = run.path.resolve().name
    footer = f"Written by audio_ssl {escape(__version__)} on {when(now)}. How to read it: docs/runbook.md."
    return whole(
        f"{name}: audio_ssl report", sections, header=_header(run, name, now), footer=footer, own_style=own_style
    )


def _header(run: RunFolder, name: str, now: datetime) -> str:
    kind = "Pre-training" if run.is_pretraining else "Fine-tuning"
    model = run.config.get("model")
    preset = model.get("preset") if isinstance(model, dict) else None
    total = run.num_updates
    said = f"{run.update:,} of {total:,} updates" if total else f"{run.update:,} updates"
    share = min(1.0, run.update / total) if total else 0.0
    bar = (
        f'<svg role="img" aria-label="{share:.0%} of the updates are done"><rect width="{100 * share:.1f}%" '
        f'height="100%"/></svg>'
        if total
        else ""
    )
    age = "" if run.written is None else f"; newest figures {_ago(now - run.written)} before this page"
    return (
        f'<header><h1>{escape(name)}</h1><div class="sub">{kind}{f" of {escape(str(preset))}" if preset else ""}</div>'
        f'<div class="progress">{bar}<span><b>{said}</b></span><span '
        f'class="sub">{escape(run.state)}{age}</span></div></header>'
    )


def _summary(run: RunFolder, found: Sequence[Check]) -> str:
    tiles = []
    for name, title, form in TILES:
        if name == "loss" and run.is_pretraining:
            continue
        values = {s: [r[name] for r in run.of(s) if is_number(r.get(name))] for s in ("valid", "train")}
        split = "valid" if values["valid"] else "train"
        if values[split]:
            word = "validation" if split == "valid" else "training"
            first = form.format(values[split][0])
            tiles.append(tile(title, form.format(values[split][-1]), f"{word}, first {first}"))
    tiles += [_task_tile(panel, run) for panel in task_panels(run.rows)]
    newest = run.of("train")[-1] if run.of("train") else {}
    if is_number(newest.get("audio_h")):
        tiles.append(
            tile("Audio heard", f"{newest['audio_h']:.2f} h", f"pass {int(newest.get('epoch', 0)) + 1} over the data")
        )
    if is_number(newest.get("audio_s_per_s")):
        tiles.append(tile("Speed", f"{newest['audio_s_per_s']:.0f} s/s", "audio-seconds a second"))
    if is_number(newest.get("time_left_s")) and newest["time_left_s"] > 0:
        tiles.append(tile("Time left", str(timedelta(seconds=round(newest["time_left_s"]))), "as measured last"))
    return f'<dl class="tiles">{"".join(tiles)}</dl>{_checks(found)}' if tiles or found else "<p>No figures yet.</p>"


def _task_tile(panel: Panel, run: RunFolder) -> str:
    values = [row[panel.name] for row in run.of(PROBE) if is_number(row.get(panel.name))]
    beside = "" if panel.level is None else f"{panel.level[1]} {told(panel.level[0], panel)}, "
    return tile(
        f"{panel.title}, {panel.unit.removeprefix('% ')}", told(values[-1], panel),
        f"{beside}first {told(values[0], panel)}",
    )  # fmt: skip


def _checks(found: Sequence[Check]) -> str:
    if not found:
        return ""
    rows = []
    for check in found:
        panel, band = check.panel, check.panel.band or (0.0, 0.0)
        ends = [brief(panel.scale * end) for end in band]
        healthy = (ends[0] if band[0] == band[1] else " to ".join(ends)) + " %" * panel.is_percent
        rows.append(
            f'<th scope="row">{escape(panel.title)}</th>'
            f'<td><span class="pill {check.verdict}">{MARKS[check.verdict]}</span></td>'
            f'<td class="number">{told(check.value, panel)}</td><td class="number">{healthy}</td>'
            f"<td>{'validation' if check.split == 'valid' else 'training'}</td>"
            f'<td class="long">{escape(panel.mend) if check.verdict == "look" else ""}</td>'
        )
    counts = Counter(check.verdict for check in found)
    said = [f"{counts['healthy']} of {len(found)} figures are where they lie in healthy runs"]
    said += [f"to be looked at: {counts['look']}"] if counts["look"] else []
    said += [f"too early to say: {counts['early']}"] if counts["early"] else []
    head = "".join(f"<th{' class=number' * (name in ('newest', 'healthy'))}>{name}</th>" for name in CHECK_COLUMNS)
    return (
        f"<p><b>{', '.join(said)}.</b> A band is a hint where to look, no proof: the curves show how a figure came "
        f"there."
        f"</p>{table(head, rows)}"
    )


def _ago(span: timedelta) -> str:
    minutes = max(0, round(span.total_seconds() / 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
