"""The plain sections of a report: warnings, transcripts, checkpoints, settings, surroundings, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from audio_ssl.evaluate.report.charts import shown
from audio_ssl.evaluate.report.examples import Examples
from audio_ssl.evaluate.report.run_folder import RunFolder

MAX_EVENTS = 60


def events(run: RunFolder) -> str:
    """HTML of the warnings of a run and of the error that ended it, oldest first."""
    listed = [e for e in run.events if e["event"] not in ("start", "end", "samples") or e.get("how") == "failed"]
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


def transcripts(examples: Examples) -> str:
    """HTML of what a recogniser makes of some utterances."""
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
        + table(head, rows)
    )


def checkpoints(run: RunFolder) -> str:
    """HTML of the checkpoints that are kept."""
    if not run.checkpoints:
        return "<p>None yet.</p>"
    rows = [
        f'<th scope="row" class="mono">{escape(c.name)}</th><td class="number">{c.num_bytes / 1e6:,.1f} MB</td>'
        f"<td>{', '.join(word for word, is_it in (('best', c.is_best), ('newest', c.is_newest)) if is_it)}</td>"
        for c in run.checkpoints
    ]
    return table("<th>name</th><th class='number'>size</th><th></th>", rows)


def settings(run: RunFolder) -> str:
    """HTML of the run's settings, a table a section."""
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
        parts.append(f"<details><summary>{heading}</summary>{table('<th>setting</th><th>value</th>', rows)}</details>")
    return "".join(parts)


def environment(run: RunFolder) -> str:
    """HTML of what each start of the run ran on."""
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
            f"{table('<th>what</th><th>which</th>', rows)}</details>"
        )
    return "".join(parts)


def notes(found: Sequence[str]) -> str:
    """HTML of what could not be shown, and why."""
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in found)}</ul>" if found else ""


def table(head: str, rows: Sequence[str]) -> str:
    """HTML of a table in a box that scrolls by itself; a row is its cells."""
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
        return when(datetime.fromisoformat(str(text)))
    except ValueError:
        return str(text)


def when(moment: datetime) -> str:
    """A moment for people."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
