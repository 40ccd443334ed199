"""What ``evaluate`` prints: tables on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from audio_ssl.evaluate.comparison import Comparison, UnitComparison
    from audio_ssl.evaluate.confusions import Frequent
    from audio_ssl.evaluate.error_rate import EditCounts
    from audio_ssl.evaluate.intervals import Interval
    from audio_ssl.evaluate.scores import Report, Score
    from audio_ssl.evaluate.session import Outcome

NUM_SPEAKERS = 10
NUM_CONFUSIONS = 5
HEADINGS = ("", "rate", "95 %", "errors", "sub", "del", "ins", "of")
TITLES = {
    "speakers": "by speaker, worst first", "languages": "by language, worst first",
    "durations": "by seconds of audio", "lengths": "by words of the reference",
}  # fmt: skip


def print_outcome(outcome: Outcome, *, worst: int) -> None:
    """All that is said of an evaluation on standard output."""
    from rich.console import Console

    console = Console()
    for table in tables(outcome.report, outcome.comparison, worst=worst):
        console.print(table)
    num = outcome.report.num_empty_references
    if num:
        console.print(f"{num} references are empty: what was recognised there is insertions")
    comparison = outcome.comparison
    if comparison is not None and comparison.num_only_here + comparison.num_only_in_baseline:
        console.print(
            f"not compared: {comparison.num_only_here} utterances that the baseline lacks, "
            f"{comparison.num_only_in_baseline} that are missing here"
        )


def tables(report: Report, comparison: Comparison | None, *, worst: int) -> Iterator[Table]:
    """All tables of an evaluation.

    Args:
        report: its figures.
        comparison: with an earlier one.
        worst: utterances to show.
    """
    score = report.overall
    share = f", {score.num_faulty / score.num_utterances:.0%} of them with an error" if score.num_utterances else ""
    overall = _table(f"{score.num_utterances} utterances{share}", HEADINGS, numbers_from=1)
    overall.add_row("WER (words)", *_cells(score.words, score.word_interval))
    overall.add_row("CER (chars)", *_cells(score.characters, score.character_interval))
    overall.caption = _about_intervals(report)
    yield overall
    if comparison is not None:
        yield _compared(comparison)
    for grouping, title in TITLES.items():
        scores = report.groups.get(grouping, ())
        if len(scores) > 1 or (grouping == "speakers" and scores):
            yield _grouped(title, grouping.removesuffix("s"), scores)
    if report.word_confusions.substitutions.num + report.word_confusions.deletions.num:
        yield _confused(report)
    if report.worst and worst:
        yield _worst(report, worst)


def _about_intervals(report: Report) -> str:
    over = report.overall.over
    if over == "speakers":
        return f"intervals: bootstrap over {report.num_speakers} speakers"
    if over is None:
        return ""
    whys = {0: "speakers are not known", 1: "one speaker: nothing is said of others"}
    why = whys.get(report.num_speakers, "all speakers have the same rate")
    return f"intervals: bootstrap over utterances ({why})"


def _compared(comparison: Comparison) -> Table:
    table = _table(
        f"beside {comparison.baseline}, {comparison.num_utterances} utterances that both have",
        ("", "baseline", "here", "difference", "95 %", "p"), numbers_from=1,
    )  # fmt: skip
    for name, found in (("WER", comparison.words), ("CER", comparison.characters)):
        table.add_row(name, *_differing(found))
    test = comparison.matched_pairs
    table.add_row("MAPSSWE", "", "", f"z {test.z:+.2f}", f"{test.num_segments} segments", p_text(test.p_value))
    table.caption = verdict(comparison)
    return table


def verdict(comparison: Comparison) -> str:
    """Who wins, in words."""
    over = comparison.words.over
    if comparison.winner is None:
        return "no winner: the difference in WER is within what chance can do with so much data"
    who = (
        "this system makes fewer word errors" if comparison.winner == "here" else "the baseline makes fewer word errors"
    )
    return f"{who}: the 95 % interval over {over} does not hold 0"


def p_text(p_value: float) -> str:
    """A p-value for people."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _differing(found: UnitComparison) -> list[str]:
    rates = [f"{found.baseline.rate:.2%}", f"{found.here.rate:.2%}"]
    gap = found.difference
    if gap is None:
        return [*rates, "", "", ""]
    interval = f"{100 * gap.interval.low:+.2f} to {100 * gap.interval.high:+.2f}"
    return [*rates, f"{100 * gap.value:+.2f}", interval, p_text(gap.p_value)]


def _grouped(title: str, heading: str, scores: Sequence[Score]) -> Table:
    table = _table(title, (heading, "utterances", "WER", "95 %", "CER"), numbers_from=1)
    for score in scores[:NUM_SPEAKERS]:
        spread = "" if score.word_interval is None else interval_text(score.word_interval)
        table.add_row(
            escape(score.name), str(score.num_utterances), f"{score.words.rate:.2%}", spread,
            f"{score.characters.rate:.2%}",
        )  # fmt: skip
    if len(scores) > NUM_SPEAKERS:
        table.caption = f"and {len(scores) - NUM_SPEAKERS} more"
    return table


def _confused(report: Report) -> Table:
    words, characters = report.word_confusions, report.character_confusions
    table = _table("most frequent edits", ("", "substituted", "deleted", "inserted"), numbers_from=9)
    for name, found in (("words", words), ("characters", characters)):
        cells = (_listed(kind) for kind in (found.substitutions, found.deletions, found.insertions))
        table.add_row(name, *cells)
    return table


def _listed(found: Frequent) -> str:
    from audio_ssl.evaluate.confusions import visible

    lines = []
    for said, heard, number in found.edits[:NUM_CONFUSIONS]:
        text = " → ".join(visible(part) for part in (said, heard) if part)
        lines.append(escape(f"{number} × {text}"))
    return "\n".join(lines)


def _worst(report: Report, worst: int) -> Table:
    table = _table("most errors", ("id", "WER", "said / recognised"), numbers_from=9)
    for utterance in report.worst[:worst]:
        texts = f"{utterance.reference}\n{utterance.hypothesis}"
        rate = f"{utterance.words.rate:.0%}" if utterance.words.reference_length else "–"
        table.add_row(escape(utterance.id), rate, escape(texts))
    return table


def _table(title: str, headings: Sequence[str], *, numbers_from: int) -> Table:
    table = Table(title=escape(title))
    for place, heading in enumerate(headings):
        is_number = place >= numbers_from
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number)
    return table


def _cells(counts: EditCounts, interval: Interval | None) -> list[str]:
    spread = "" if interval is None else interval_text(interval)
    numbers = (counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.reference_length)
    return [f"{counts.rate:.2%}", spread, *map(str, numbers)]


def interval_text(interval: Interval) -> str:
    """Both ends in percent."""
    return f"{100 * interval.low:.1f}–{interval.high:.1%}"
