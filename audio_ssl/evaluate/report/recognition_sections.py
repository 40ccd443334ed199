"""Sections of a report of recognition: tables with bars of intervals, each figure also in letters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from audio_ssl.evaluate.comparison import ComparedUtterance, Comparison, UnitComparison
from audio_ssl.evaluate.confusions import Confusions, Frequent, visible
from audio_ssl.evaluate.intervals import Interval
from audio_ssl.evaluate.report.charts import key
from audio_ssl.evaluate.report.sections import table
from audio_ssl.evaluate.report.skeleton import tile
from audio_ssl.evaluate.report.utterances import LEGEND, alignment
from audio_ssl.evaluate.scores import Report, Score
from audio_ssl.evaluate.session import Outcome

NUM_SHOWN = 60  # sets of a grouping; the JSON report has all
MIN_SEGMENTS = 30  # fewer, and the normal law of the matched-pairs test is a rough one
GROUP_TITLES = {
    "speakers": "speaker",
    "languages": "language",
    "durations": "seconds of audio",
    "lengths": "words said",
}
KEYS = (
    f'<p class="keys">{key("at", "rate")}{key("span", "95 % interval over utterances")}'
    f'{key("level", "all utterances together")}</p>'
)  # fmt: skip


def percent(rate: float, digits: int = 1) -> str:
    """A rate for people."""
    return f"{100 * rate:.{digits}f} %" if math.isfinite(rate) else "∞"


def spread(interval: Interval | None) -> str:
    """An interval for people."""
    return "" if interval is None else f"{100 * interval.low:.1f} to {percent(interval.high)}"


def about_intervals(report: Report) -> str:
    """What the intervals are taken over, and what follows."""
    if report.overall.over == "speakers":
        alone = f" and {report.num_without_speaker} utterances without one" if report.num_without_speaker else ""
        few = "; so few speakers say little about others" if report.num_speakers < 10 else ""
        return f"95 % intervals: bootstrap over {report.num_speakers} speakers{alone}{few}."
    if report.overall.over is None:
        return "There is no interval: less than two utterances, or all have the same rate."
    if report.num_speakers == 1:
        return "95 % intervals: bootstrap over utterances of one speaker; they say nothing about other speakers."
    if report.num_speakers:
        return "95 % intervals: bootstrap over utterances, as all speakers have the same rate."
    return (
        "95 % intervals: bootstrap over utterances, as speakers are not known; where there are few speakers the true "
        "uncertainty is larger."
    )


def summary(report: Report) -> str:
    """HTML of the figures of the whole corpus."""
    score = report.overall
    if not score.num_utterances:
        return "<p>No utterance was scored.</p>"
    words, length = score.words, score.words.reference_length
    kinds = ("Replaced", words.substitutions), ("Left out", words.deletions), ("Added", words.insertions)
    share = score.num_faulty / score.num_utterances
    tiles = [
        *(
            tile(name, percent(counts.rate), f"95 %: {spread(interval) or 'not known'}")
            for name, counts, interval in (
                ("Word errors", words, score.word_interval),
                ("Character errors", score.characters, score.character_interval),
            )
        ),
        *(tile(name, percent(number / max(length, 1)), f"{number:,} of {length:,} words") for name, number in kinds),
        tile("Utterances with errors", percent(share), f"{score.num_faulty:,} of {score.num_utterances:,}"),
    ]
    if report.audio_s:
        tiles.append(tile("Audio", f"{report.audio_s / 3600:.2f} h", f"{report.num_speakers} speakers known"))
    empty = (
        f"<p>{report.num_empty_references} references are empty: whatever was recognised there counts as added.</p>"
        if report.num_empty_references
        else ""
    )
    return f'<dl class="tiles">{"".join(tiles)}</dl><p>{escape(about_intervals(report))}</p>{empty}'


def grouped(report: Report, grouping: str) -> str:
    """HTML of the sets of a grouping with bars; empty where there is nothing to tell apart."""
    scores = report.groups.get(grouping, ())
    if not scores or (len(scores) == 1 and grouping != "speakers"):
        return ""
    shown = scores[:NUM_SHOWN]
    overall = report.overall.words.rate
    most = max([_end(score) for score in shown] + [overall, 1e-9])
    rows = [_group_row(score, most=most, overall=overall) for score in shown]
    head = _head(
        GROUP_TITLES[grouping], "#utterances", "#words", "#word errors", f"0 to {percent(most)}", "#95 %",
        "#character errors",
    )  # fmt: skip
    more = f"<p>{len(scores) - NUM_SHOWN} more are in the JSON report.</p>" if len(scores) > NUM_SHOWN else ""
    return f"{KEYS}{table(head, rows)}{more}"


def _group_row(score: Score, *, most: float, overall: float) -> str:
    rate, interval = score.words.rate, score.word_interval
    return (
        f'<th scope="row">{escape(score.name)}</th><td class="number">{score.num_utterances:,}</td>'
        f'<td class="number">{score.words.reference_length:,}</td><td class="number">{percent(rate)}</td>'
        f'<td class="range">{bar(rate, interval, most=most, overall=overall)}</td>'
        f'<td class="number">{spread(interval)}</td><td class="number">{percent(score.characters.rate)}</td>'
    )


def bar(rate: float, interval: Interval | None, *, most: float, overall: float) -> str:
    """A rate with its interval on a line from 0 to ``most``, and the rate of all; the cells beside say the same."""

    def at(value: float) -> str:
        return f"{100 * min(max(value / most, 0.0), 1.0):.2f}"

    ends = "" if interval is None else f'<line x1="{at(interval.low)}" x2="{at(interval.high)}" y1="9" y2="9"/>'
    return (
        '<svg class="range" viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="all" x1="{at(overall)}" x2="{at(overall)}" y1="0" y2="18"/>{ends}'
        f'<line class="at" x1="{at(rate)}" x2="{at(rate)}" y1="3" y2="15"/></svg>'
    )


def confused(report: Report) -> str:
    """HTML of the most frequent edits."""
    parts = []
    for title, found in (("Words", report.word_confusions), ("Characters", report.character_confusions)):
        tables = _edits(found)
        if tables:
            parts.append(f'<h3>{title}</h3><div class="tables">{tables}</div>')
    if not parts:
        return "<p>None.</p>"
    return (
        "<p>Of one cheapest alignment of each utterance; where several are equally cheap, an edit may be put at "
        f"another word.</p>{''.join(parts)}"
    )


def _edits(found: Confusions) -> str:
    kinds = (
        ("replaced", found.substitutions, ("said", "recognised")), ("left out", found.deletions, ("said",)),
        ("added", found.insertions, ("recognised",)),
    )  # fmt: skip
    return "".join(f"<div>{_table_of(*kind)}</div>" for kind in kinds if kind[1].edits)


def _table_of(title: str, found: Frequent, columns: Sequence[str]) -> str:
    rows = []
    for said, heard, number in found.edits:
        cells = {"said": said, "recognised": heard}
        texts = "".join(f'<td dir="auto">{escape(visible(cells[column]))}</td>' for column in columns)
        rows.append(f'{texts}<td class="number">{number:,}</td>')
    short = f"; numbers may be too small by {found.undercount} at most" if found.undercount else ""
    return f"<p><b>{title}</b>: {found.num:,} in all{short}</p>{table(_head(*columns, '#times'), rows)}"


def compared(comparison: Comparison, name: str) -> str:
    """HTML of a paired comparison."""
    test = comparison.matched_pairs
    rows = [_unit_row("word errors", comparison.words), _unit_row("character errors", comparison.characters)]
    head = _head("", "#baseline", "#here", "#difference", "#95 %", "#p", "over")
    few = f"; with fewer than {MIN_SEGMENTS} segments this is rough" if test.num_segments < MIN_SEGMENTS else ""
    out = comparison.num_only_here + comparison.num_only_in_baseline
    left = (
        f"<p>{out} utterances are missing on one side ({comparison.num_only_in_baseline} here, "
        f"{comparison.num_only_here} in the baseline) and take no part.</p>" if out else ""
    )  # fmt: skip
    return (
        f"<p>Baseline: <b>{escape(comparison.baseline)}</b>; here: <b>{escape(name)}</b>; "
        f"{comparison.num_utterances:,} utterances that both have.</p>"
        f'<p class="verdict"><b>{escape(verdict(comparison))}</b></p>{table(head, rows)}'
        f"<p>Differences are points of percent, here less baseline: below 0 is better here. p is that of the paired "
        f"bootstrap. Matched pairs (MAPSSWE, Gillick &amp; Cox 1989): {test.num_segments:,} segments with an error, "
        f"z = {test.z:+.2f} (above 0: the baseline errs more), p {p_value(test.p_value)}{few}. It takes segments as "
        f"independent, which those of one speaker are not.</p>{left}"
        f"{_examples('Most improved here', comparison.most_better)}"
        f"{_examples('Most worsened here', comparison.most_worse)}"
    )


def verdict(comparison: Comparison) -> str:
    """Who wins, in a sentence."""
    found = comparison.words.difference
    if found is None:
        return "There is too little to compare."
    points = f"{abs(100 * found.value):.2f} points of word errors"
    if comparison.winner is None:
        return f"No winner: the difference of {points} is within what chance can do with so much data."
    who = "This system is better" if comparison.winner == "here" else "The baseline is better"
    return f"{who}, by {points}."


def p_value(value: float) -> str:
    """A p-value for people."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _unit_row(name: str, found: UnitComparison) -> str:
    gap = found.difference
    rates = (
        f'<th scope="row">{name}</th><td class="number">{percent(found.baseline.rate, 2)}</td>'
        f'<td class="number">{percent(found.here.rate, 2)}</td>'
    )
    if gap is None:
        return f'{rates}<td colspan="4">too little for an interval</td>'
    return (
        f'{rates}<td class="number">{100 * gap.value:+.2f}</td>'
        f'<td class="number">{100 * gap.interval.low:+.2f} to {100 * gap.interval.high:+.2f}</td>'
        f'<td class="number">{p_value(gap.p_value).removeprefix("= ")}</td><td>{found.over}</td>'
    )


def _examples(title: str, utterances: Sequence[ComparedUtterance]) -> str:
    if not utterances:
        return ""
    parts = [
        f'<article class="utterance"><h4 class="mono">{escape(u.id)}</h4><p class="sub">baseline: {u.baseline_errors} '
        f"wrong</p>{alignment(u.reference, u.baseline)}"
        f'<p class="sub">here: {u.errors} wrong</p>{alignment(u.reference, u.hypothesis)}</article>'
        for u in utterances
    ]
    return f"<h3>{title}</h3>{LEGEND}{''.join(parts)}"


def measured(about: Mapping[str, Any], report: Report) -> str:
    """HTML of what was measured, and how."""
    text = about["text"]
    facts = [
        ("model", about["model"]), ("hash of its weights", about["model_hash"]), ("transcripts", about["hypotheses"]),
        ("manifest", about["manifest"]),
        ("decoder", None if about["decoder"] is None else json.dumps(about["decoder"], ensure_ascii=False)),
        ("texts", f"{text['rule']}: {text['meaning']}"),
        ("rules of the references", json.dumps(text["references"], ensure_ascii=False)),
        ("edits", "fewest substitutions, deletions and insertions (Levenshtein); rates weigh every word of the "
         "references alike; characters are Unicode code points, spaces between words among them"),
        ("intervals", about_intervals(report) + " Percentiles widened for few blocks (Hesterberg 2015); those of "
         "groups in closed form over utterances (Cochran 1977)."),
    ]  # fmt: skip
    rows = [
        f'<th scope="row">{name}</th><td class="long">{escape(str(value))}</td>'
        for name, value in facts
        if value is not None
    ]
    return table("<th>what</th><th>which</th>", rows)


def refused(outcome: Outcome) -> str:
    """HTML of the rows that take no part; empty where there are none."""
    if not outcome.num_refused:
        return ""
    rows = [
        f'<th scope="row" class="mono">{escape(r["id"])}</th><td class="long">{escape(r["reason"])}</td>'
        for r in outcome.refused
    ]
    more = outcome.num_refused - len(outcome.refused)
    rest = f"<p>{more:,} more: the file of utterances that -o REPORT.json writes names all.</p>" if more else ""
    return f"<p>{outcome.num_refused:,} rows take no part in the figures.</p>{table(_head('row', 'why'), rows)}{rest}"


def _end(score: Score) -> float:
    rate = score.words.rate if math.isfinite(score.words.rate) else 0.0
    return min(rate if score.word_interval is None else score.word_interval.high, 2.0)


def _head(*names: str) -> str:
    return "".join(f'<th class="number">{n[1:]}</th>' if n.startswith("#") else f"<th>{n}</th>" for n in names)
