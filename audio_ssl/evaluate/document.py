"""An evaluation as JSON: ``docs/recognition.md`` tells the fields of the schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from audio_ssl.evaluate.comparison import ComparedUtterance, Comparison, UnitComparison
from audio_ssl.evaluate.confusions import Confusions, Frequent
from audio_ssl.evaluate.error_rate import EditCounts
from audio_ssl.evaluate.intervals import Difference, Interval
from audio_ssl.evaluate.scores import Over, Report, Score, ScoredUtterance

SCHEMA, SCHEMA_VERSION = "audio_ssl.evaluation", 1


def report_document(report: Report) -> dict[str, Any]:
    """JSON-able values of all figures of a report."""
    return {
        "overall": score_document(report.overall),
        **{grouping: [score_document(score) for score in scores] for grouping, scores in report.groups.items()},
        "num_speakers": report.num_speakers,
        "num_without_speaker": report.num_without_speaker,
        "num_empty_references": report.num_empty_references,
        "audio_s": report.audio_s,
        "confusions": {
            "words": _confusions(report.word_confusions), "characters": _confusions(report.character_confusions)
        },
        "worst": [utterance_document(utterance) for utterance in report.worst],
    }  # fmt: skip


def score_document(score: Score) -> dict[str, Any]:
    """A set of utterances; ``interval_95`` is the one to go by, over what ``interval_over`` names."""
    return {
        "name": score.name,
        "num_utterances": score.num_utterances,
        "num_faulty": score.num_faulty,
        "interval_over": score.over,
        "words": _rate(score.words, score.word_interval, score.word_intervals),
        "characters": _rate(score.characters, score.character_interval, score.character_intervals),
    }


def utterance_document(utterance: ScoredUtterance) -> dict[str, Any]:
    """A line of the file of utterances."""
    facts = utterance.facts
    return {
        "id": utterance.id,
        "speaker": facts.speaker,
        "language": facts.language,
        "duration_s": facts.duration_s,
        "reference": utterance.reference,
        "hypothesis": utterance.hypothesis,
        "words": _counts(utterance.words),
        "characters": _counts(utterance.characters),
    }


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """A paired comparison; differences are those of this report less the baseline's."""
    return {
        "baseline": comparison.baseline,
        "winner": comparison.winner,
        "num_utterances": comparison.num_utterances,
        "num_only_here": comparison.num_only_here,
        "num_only_in_baseline": comparison.num_only_in_baseline,
        "words": _unit_comparison(comparison.words),
        "characters": _unit_comparison(comparison.characters),
        "mapsswe": asdict(comparison.matched_pairs),
        "most_better": [_compared(utterance) for utterance in comparison.most_better],
        "most_worse": [_compared(utterance) for utterance in comparison.most_worse],
    }


def _unit_comparison(found: UnitComparison) -> dict[str, Any]:
    over = found.over
    return {
        "baseline_rate": _finite(found.baseline.rate),
        "rate": _finite(found.here.rate),
        "difference_over": over,
        "difference": None if over is None else _difference(found.differences[over]),
        "differences": {name: _difference(value) for name, value in found.differences.items()},
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "value": found.value,
        "interval_95": _ends(found.interval),
        "p_value": found.p_value,
        "share_better": found.share_better,
    }


def _compared(utterance: ComparedUtterance) -> dict[str, Any]:
    return asdict(utterance)


def _rate(counts: EditCounts, interval: Interval | None, intervals: Mapping[Over, Interval]) -> dict[str, Any]:
    document = _counts(counts)
    if interval is not None:
        document["interval_95"] = _ends(interval)
        document["intervals_95"] = {over: _ends(found) for over, found in intervals.items()}
    return document


def _counts(counts: EditCounts) -> dict[str, Any]:
    return {
        "rate": _finite(counts.rate),
        "errors": counts.errors,
        "reference_length": counts.reference_length,
        **asdict(counts),
    }


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None  # JSON knows no infinity


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _confusions(found: Confusions) -> dict[str, Any]:
    return {
        "substitutions": _frequent(found.substitutions, ("reference", "hypothesis")),
        "deletions": _frequent(found.deletions, ("reference",)),
        "insertions": _frequent(found.insertions, ("hypothesis",)),
    }


def _frequent(found: Frequent, keys: Iterable[str]) -> dict[str, Any]:
    edits = [
        {**{key: {"reference": said, "hypothesis": heard}[key] for key in keys}, "count": number}
        for said, heard, number in found.edits
    ]
    return {"num": found.num, "undercount": found.undercount, "most": edits}
