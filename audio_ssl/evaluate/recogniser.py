"""Scores of a recogniser: corpus rates with intervals, a table by speaker, and the worst utterances.

Knows references and hypotheses; the command line brings the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audio_ssl.evaluate.error_rate import EditCounts, Interval, bootstrap_interval, count_edits, total


@dataclass(frozen=True)
class ScoredUtterance:
    """One utterance with its texts and counts."""

    id: str
    speaker: str | None
    reference: str
    hypothesis: str
    words: EditCounts
    characters: EditCounts


@dataclass(frozen=True)
class Score:
    """Counts of a set of utterances with the intervals of their rates.

    Attributes:
        name: the set, such as a speaker.
        num_utterances: how many.
        words: word edits; ``words.rate`` is the WER.
        characters: character edits; ``characters.rate`` is the CER.
        word_interval: 95 % interval of the WER, None where it was not asked for or has no meaning.
        character_interval: the same for the CER.
    """

    name: str
    num_utterances: int
    words: EditCounts
    characters: EditCounts
    word_interval: Interval | None = None
    character_interval: Interval | None = None


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        overall: the whole corpus.
        speakers: one a speaker, worst WER first; empty where no speaker is known.
        utterances: all, in input order.
        num_empty_references: utterances whose reference has no word: their hypothesis counts as insertions.
    """

    overall: Score
    speakers: tuple[Score, ...]
    utterances: tuple[ScoredUtterance, ...]
    num_empty_references: int

    def worst(self, count: int) -> list[ScoredUtterance]:
        """The utterances with most word errors; ties by character errors, then by id."""
        faulty = [u for u in self.utterances if u.characters.errors]
        return sorted(faulty, key=lambda u: (-u.words.errors, -u.characters.errors, u.id))[:count]

    def to_document(self) -> dict[str, Any]:
        """JSON-able values: figures, counts, and every utterance."""
        return {
            "overall": _score_document(self.overall),
            "speakers": [_score_document(score) for score in self.speakers],
            "num_empty_references": self.num_empty_references,
            "utterances": [
                {
                    "id": u.id, "speaker": u.speaker, "reference": u.reference, "hypothesis": u.hypothesis,
                    "words": _counts_document(u.words), "characters": _counts_document(u.characters),
                }
                for u in self.utterances
            ],
        }  # fmt: skip


def score_utterance(utterance_id: str, reference: str, hypothesis: str, *, speaker: str | None) -> ScoredUtterance:
    """Compare one pair; both texts must have gone through the same normalisation."""
    return ScoredUtterance(
        utterance_id, speaker, reference, hypothesis,
        words=count_edits(reference, hypothesis, unit="word"),
        characters=count_edits(reference, hypothesis, unit="character"),
    )  # fmt: skip


def build_report(utterances: Sequence[ScoredUtterance], *, seed: int = 1) -> Report:
    """Add up scored utterances.

    Args:
        utterances: in input order.
        seed: of the bootstrap intervals.
    """
    by_speaker: dict[str, list[ScoredUtterance]] = {}
    for utterance in utterances:
        if utterance.speaker is not None:
            by_speaker.setdefault(utterance.speaker, []).append(utterance)
    speakers = [_score(name, group) for name, group in by_speaker.items()]
    return Report(
        overall=_score("all", utterances, seed=seed),
        speakers=tuple(sorted(speakers, key=lambda s: (-s.words.rate, s.name))),
        utterances=tuple(utterances),
        num_empty_references=sum(u.words.reference_length == 0 for u in utterances),
    )


def _score(name: str, group: Sequence[ScoredUtterance], *, seed: int | None = None) -> Score:
    words, characters = [u.words for u in group], [u.characters for u in group]
    return Score(
        name, len(group), total(words), total(characters),
        word_interval=None if seed is None else bootstrap_interval(words, seed=seed),
        character_interval=None if seed is None else bootstrap_interval(characters, seed=seed),
    )  # fmt: skip


def _score_document(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "num_utterances": score.num_utterances,
        "words": _counts_document(score.words, score.word_interval),
        "characters": _counts_document(score.characters, score.character_interval),
    }


def _counts_document(counts: EditCounts, interval: Interval | None = None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "rate": counts.rate if math.isfinite(counts.rate) else None,  # JSON knows no infinity
        "errors": counts.errors,
        "reference_length": counts.reference_length,
        **asdict(counts),
    }
    if interval is not None:
        document["interval_95"] = [interval.low, interval.high]
    return document
