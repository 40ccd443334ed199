"""The report of a run as one HTML page: no script, no file beside it, nothing from the network.

Everything that comes from data goes through :func:`html.escape`; a policy in the page forbids what might slip by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from importlib import resources
from typing import Any

from audio_ssl import __version__
from audio_ssl.evaluate.report.charts import brief, shown
from audio_ssl.evaluate.report.codebook import codebook
from audio_ssl.evaluate.report.curves import Check, checks, curves, told
from audio_ssl.evaluate.report.examples import Examples
from audio_ssl.evaluate.report.panels import is_number
from audio_ssl.evaluate.report.pictures import hits, similarity_matrix, similarity_over_time, spectrogram
from audio_ssl.evaluate.report.run_folder import RunFolder

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MARKS = {"healthy": "✓ healthy", "look": "! look", "early": "… too early to say"}
CHECK_COLUMNS = ("figure", "verdict", "newest", "healthy", "measured in", "what to do")
MAX_EVENTS = 60
TILES = (
    # figure, title, format
    ("contrastive_loss", "Contrastive loss", "{:.3f}"),
    ("loss", "CTC loss", "{:.3f}"),
    ("accuracy", "Accuracy", "{:.1%}"),
    ("code_perplexity", "Code perplexity", "{:.0f}"),
    ("cer", "Character errors", "{:.1%}"),
    ("wer", "Word errors", "{:.1%}"),
)


def build_page(run: RunFolder, examples: Examples, *, now: datetime | None = None) -> str:
    """The whole page.

    Args:
        run: from :func:`~audio_ssl.evaluate.report.run_folder.read_run`.
        examples: from :func:`~audio_ssl.evaluate.report.examples.look`.
        now: the time that stands in the page.
    """
    now = now or datetime.now(UTC)
    found = checks(run)
    sections = [
        ("summary", "Summary", _summary(run, found)),
        ("warnings", "Warnings", _events(run)),
        ("curves", "Curves", curves(run)),
        ("codebook", "Codebook", codebook(examples) if run.is_pretraining else ""),
        ("utterance", "One utterance", _utterance(examples) if run.is_pretraining else ""),
        ("transcripts", "Transcripts", "" if run.is_pretraining else _transcripts(examples)),
        ("checkpoints", "Checkpoints", _checkpoints(run)),
        ("settings", "Settings", _settings(run)),
        ("environment", "Environment", _environment(run)),
        ("notes", "Missing here", _notes([*run.notes, *examples.notes])),
    ]
    there = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in there)
    bodies = "".join(
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{title}</h2>{body}</section>'
        for key, title, body in there
    )
    name = run.path.resolve().name
    style = resources.files("audio_ssl.evaluate.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark">'
        f"<title>{escape(name)}: audio_ssl report</title><style>{style}</style></head><body>"
        f'{_header(run, name, now)}<nav aria-label="Sections"><ul>{links}</ul></nav><main>{bodies}</main>'
        f"<footer>Written by audio_ssl {escape(__version__)} on {_when(now)}. How to read it: docs/runbook.md.</footer>"
        "</body></html>\n"
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
            tiles.append(_tile(title, form.format(values[split][-1]), f"{word}, first {first}"))
    newest = run.of("train")[-1] if run.of("train") else {}
    if is_number(newest.get("audio_h")):
        tiles.append(
            _tile("Audio heard", f"{newest['audio_h']:.2f} h", f"pass {int(newest.get('epoch', 0)) + 1} over the data")
        )
    if is_number(newest.get("audio_s_per_s")):
        tiles.append(_tile("Speed", f"{newest['audio_s_per_s']:.0f} s/s", "audio-seconds a second"))
    if is_number(newest.get("time_left_s")) and newest["time_left_s"] > 0:
        tiles.append(_tile("Time left", str(timedelta(seconds=round(newest["time_left_s"]))), "as measured last"))
    return f'<dl class="tiles">{"".join(tiles)}</dl>{_checks(found)}' if tiles or found else "<p>No figures yet.</p>"


def _tile(title: str, value: str, note: str) -> str:
    return f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"


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
    said += [f"{counts['look']} need a look"] if counts["look"] else []
    said += [f"for {counts['early']} it is too early to say"] if counts["early"] else []
    head = "".join(f"<th{' class=number' * (name in ('newest', 'healthy'))}>{name}</th>" for name in CHECK_COLUMNS)
    return (
        f"<p><b>{', '.join(said)}.</b> A band is a hint where to look, no proof: the curves show how a figure came "
        f"there."
        f"</p>{_table(head, rows)}"
    )


def _events(run: RunFolder) -> str:
    listed = [e for e in run.events if e["event"] not in ("start", "end") or e.get("how") == "failed"]
    if not run.events:
        return "<p>This run has no record of its warnings.</p>"
    if not listed:
        return "<p>None.</p>"
    items = []
    for event in listed[-MAX_EVENTS:]:
        word = "The run ended with an error" if event["event"] == "end" else str(event["event"])
        items.append(
            f'<li class="bad"><span class="when">{escape(word)}, update {event["update"]}, '
            f"{escape(_time(event['time']))}</span>"
            f"{escape(str(event.get('message', '')))}</li>"
        )
    more = len(listed) - len(items)
    before = f"<p>{more} earlier ones are in events.jsonl.</p>" if more > 0 else ""
    return f'{before}<ul class="events">{"".join(items)}</ul>'


def _utterance(examples: Examples) -> str:
    example = examples.masked
    if example is None:
        return "<p>Not available; see the last section.</p>"
    num_hit, num_masked = hits(example)
    chance = 100 / max(num_masked, 1)
    nearest = f"{num_hit} of {num_masked}" + (
        f" ({num_hit / num_masked:.1%}; by chance {chance:.1f} %)" if num_masked else ""
    )
    return (
        f'<p>Utterance <span class="mono">{escape(example.name)}</span>, seen by {escape(examples.weights)} under '
        f"one mask as in "
        f"training. At {nearest} masked frames the own target is the nearest of all masked frames of the utterance.</p>"
        f'<figure><h4>Mel-spectrogram with masked spans <span class="unit">Hz, '
        f"decibels</span></h4>{spectrogram(example)}"
        "<figcaption>Brighter is louder, within 70 dB of the loudest place. Masks should cover speech as well as "
        "pauses, in "
        "spans long enough that neighbours do not give them away.</figcaption></figure>"
        f'<div class="pair"><figure><h4>Context and target over time <span class="unit">cosine</span></h4>'
        f"{similarity_over_time(example)}"
        "<figcaption>The loss is taken at masked frames only. In a run that learns the first line lies above the "
        "second there; "
        "where both are equal, nothing has been learned, and where both are near 1, everything looks alike: a collapse."
        "</figcaption></figure>"
        f'<figure><h4>Every context with every target <span class="unit">cosine</span></h4>{similarity_matrix(example)}'
        "<figcaption>Down: time of the context. A bright diagonal comes with learning; bright squares are "
        "stretches of one "
        "sound. A plain of one colour is a collapse.</figcaption></figure></div>"
    )


def _transcripts(examples: Examples) -> str:
    if not examples.transcripts:
        return "<p>Not available; see the last section.</p>"
    rows = [
        f'<th scope="row" class="mono">{escape(t.name)}</th><td class="long">{escape(t.reference)}</td>'
        f'<td class="long">{escape(t.hypothesis) or "<i>nothing</i>"}</td><td '
        f'class="number">{t.characters.rate:.0%}</td>'
        for t in examples.transcripts
    ]
    head = "<th>utterance</th><th>said</th><th>recognised</th><th class='number'>character errors</th>"
    return (
        f"<p>Some utterances of the {escape(examples.source)}, recognised greedily by {escape(examples.weights)}.</p>"
        + _table(head, rows)
    )


def _checkpoints(run: RunFolder) -> str:
    if not run.checkpoints:
        return "<p>None yet.</p>"
    rows = [
        f'<th scope="row" class="mono">{escape(c.name)}</th><td class="number">{c.num_bytes / 1e6:,.1f} MB</td>'
        f"<td>{', '.join(word for word, is_it in (('best', c.is_best), ('newest', c.is_newest)) if is_it)}</td>"
        for c in run.checkpoints
    ]
    return _table("<th>name</th><th class='number'>size</th><th></th>", rows)


def _settings(run: RunFolder) -> str:
    plain = {k: v for k, v in run.config.items() if not isinstance(v, dict)}
    sections = ([("", plain)] if plain else []) + [(k, v) for k, v in run.config.items() if isinstance(v, dict)]
    if not sections:
        return "<p>Not available; see the last section.</p>"
    parts = []
    for name, values in sections:
        rows = [
            f'<th scope="row" class="mono">{escape(key)}</th><td class="long mono">{escape(_plain(value))}</td>'
            for key, value in _flat(values)
        ]
        heading = escape(f"[{name}]") if name else "of the run"
        parts.append(f"<details><summary>{heading}</summary>{_table('<th>setting</th><th>value</th>', rows)}</details>")
    return "".join(parts)


def _environment(run: RunFolder) -> str:
    starts = [event for event in run.events if event["event"] == "start"]
    if not starts:
        return "<p>This run has no record of it.</p>"
    skipped = ("time", "update", "event", "versions")
    parts = []
    for event in starts:
        versions = event.get("versions")
        facts = [(k, v) for k, v in event.items() if k not in skipped]
        facts += list(versions.items()) if isinstance(versions, dict) else []
        rows = [f'<th scope="row">{escape(str(k))}</th><td class="long">{escape(_plain(v))}</td>' for k, v in facts]
        is_last = event is starts[-1]
        parts.append(
            f"<details{' open' * is_last}><summary>Started at update {event['update']}, "
            f"{escape(_time(event['time']))}</summary>"
            f"{_table('<th>what</th><th>which</th>', rows)}</details>"
        )
    return "".join(parts)


def _notes(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _table(head: str, rows: Sequence[str]) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return shown(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _time(text: Any) -> str:
    try:
        return _when(datetime.fromisoformat(str(text)))
    except ValueError:
        return str(text)


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _ago(span: timedelta) -> str:
    minutes = max(0, round(span.total_seconds() / 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
