"""Scores of a recogniser over any number of utterances, added one by one: rates, groups, confusions, the worst.

Knows references and hypotheses; the command line brings the two together. Memory grows with the number of speakers,
not with that of utterances.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from audio_ssl.evaluate.confusions import Confusions, ConfusionTally
from audio_ssl.evaluate.error_rate import Edit, EditCounts, align_texts, counts_of
from audio_ssl.evaluate.intervals import Interval, RateSums, rate_interval

DURATION_EDGES_S = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, float("inf"))
LENGTH_EDGES_WORDS = (0, 1, 2, 4, 8, 16, 32, 64)
NUM_CONFUSIONS = 30
Over = Literal["speakers", "utterances"]
GROUPINGS = ("speakers", "durations", "lengths", "languages")


@dataclass(frozen=True)
class Facts:
    """What is known of an utterance beside its texts.

    Attributes:
        speaker: who speaks.
        language: tag such as ``en``.
        duration_s: seconds of audio.
        row: its row in the manifest.
    """

    speaker: str | None = None
    language: str | None = None
    duration_s: float | None = None
    row: int | None = None


@dataclass(frozen=True)
class ScoredUtterance:
    """One utterance with its texts and their alignments."""

    id: str
    reference: str
    hypothesis: str
    facts: Facts
    word_edits: tuple[Edit, ...] = field(repr=False)
    character_edits: tuple[Edit, ...] = field(repr=False)
    words: EditCounts
    characters: EditCounts


@dataclass(frozen=True)
class Score:
    """Counts of a set of utterances with the intervals of their rates.

    Attributes:
        name: the set, such as a speaker.
        num_utterances: how many.
        num_faulty: utterances that differ from their reference at all.
        words: word edits; ``words.rate`` is the WER.
        characters: character edits; ``characters.rate`` is the CER.
        word_intervals: 95 % intervals of the WER by what was drawn; empty where they have no meaning.
        character_intervals: the same for the CER.
    """

    name: str
    num_utterances: int
    num_faulty: int
    words: EditCounts
    characters: EditCounts
    word_intervals: Mapping[Over, Interval] = field(default_factory=dict)
    character_intervals: Mapping[Over, Interval] = field(default_factory=dict)

    @property
    def over(self) -> Over | None:
        """What the interval to go by is taken over: speakers where there are several, for they are independent."""
        return next((over for over in ("speakers", "utterances") if over in self.word_intervals), None)

    @property
    def word_interval(self) -> Interval | None:
        """The 95 % interval of the WER to go by."""
        return None if self.over is None else self.word_intervals[self.over]

    @property
    def character_interval(self) -> Interval | None:
        """The 95 % interval of the CER to go by."""
        return None if self.over is None else self.character_intervals.get(self.over)


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        overall: the whole corpus.
        groups: of each of :data:`GROUPINGS` that is known: speakers and languages worst WER first, durations (seconds
            of audio) and lengths (words of the reference) from short to long.
        word_confusions: most frequent edits of words.
        character_confusions: most frequent edits of characters.
        worst: utterances with most word errors; ties by character errors, then by id.
        num_empty_references: utterances whose reference has no word: their hypothesis counts as insertions.
        num_speakers: speakers that are known.
        num_without_speaker: utterances without; each is a block of its own among the speakers.
        audio_s: seconds of audio, as far as known.
    """

    overall: Score
    groups: Mapping[str, tuple[Score, ...]]
    word_confusions: Confusions
    character_confusions: Confusions
    worst: tuple[ScoredUtterance, ...]
    num_empty_references: int
    num_speakers: int
    num_without_speaker: int
    audio_s: float


def score_utterance(
    utterance_id: str, reference: str, hypothesis: str, *, facts: Facts | None = None
) -> ScoredUtterance:
    """Compare one pair; both texts must have gone through the same normalisation."""
    words = tuple(align_texts(reference, hypothesis, unit="word"))
    characters = tuple(align_texts(reference, hypothesis, unit="character"))
    return ScoredUtterance(
        utterance_id, reference, hypothesis, facts or Facts(), words, characters, counts_of(words),
        counts_of(characters),
    )  # fmt: skip


class _Group:
    """Sums over a set of utterances."""

    def __init__(self) -> None:
        self.words, self.characters = RateSums(), RateSums()
        self.num_faulty = 0

    def add(self, utterance: ScoredUtterance) -> None:
        self.words.add(utterance.words)
        self.characters.add(utterance.characters)
        self.num_faulty += bool(utterance.characters.errors)

    def score(self, name: str) -> Score:
        """With intervals over the utterances of the set."""
        words, characters = self.words, self.characters
        return Score(
            name, words.num, self.num_faulty, words.counts, characters.counts, _alone(words), _alone(characters)
        )


def _alone(sums: RateSums) -> dict[Over, Interval]:
    interval = sums.interval()
    return {} if interval is None else {"utterances": interval}


class Evaluation:
    """Takes utterances in one by one.

    Args:
        num_worst: utterances to keep, those with most errors.
    """

    def __init__(self, *, num_worst: int = 10) -> None:
        self._num_worst = num_worst
        self._all = _Group()
        self._groups: dict[str, dict[str, _Group]] = {grouping: {} for grouping in GROUPINGS}
        self._blocks: dict[str, Counter[tuple[int, ...]]] = {unit: Counter() for unit in ("words", "characters")}
        self._alone: dict[str, Counter[tuple[int, ...]]] = {unit: Counter() for unit in ("words", "characters")}
        self._confusions = ConfusionTally(), ConfusionTally()
        self._worst: list[tuple[tuple[int, int, _Backwards, int], ScoredUtterance]] = []
        self._num_empty, self._audio_s = 0, 0.0

    @property
    def num_utterances(self) -> int:
        """Utterances so far."""
        return self._all.words.num

    def add(self, utterance: ScoredUtterance) -> None:
        """Take an utterance in."""
        self._all.add(utterance)
        for grouping, name in _names_of(utterance).items():
            self._groups[grouping].setdefault(name, _Group()).add(utterance)
        for unit, counts in (("words", utterance.words), ("characters", utterance.characters)):
            block = counts.errors, counts.reference_length
            self._blocks[unit][block] += 1
            if utterance.facts.speaker is None:
                self._alone[unit][block] += 1
        for tally, edits in zip(self._confusions, (utterance.word_edits, utterance.character_edits), strict=True):
            tally.add(edits)
        self._num_empty += utterance.words.reference_length == 0
        self._audio_s += utterance.facts.duration_s or 0.0
        if utterance.characters.errors and self._num_worst:
            errors = utterance.words.errors, utterance.characters.errors
            rank = (*errors, _Backwards(utterance.id), -self.num_utterances)
            heapq.heappush(self._worst, (rank, utterance))
            if len(self._worst) > self._num_worst:
                heapq.heappop(self._worst)

    def report(self, *, seed: int = 1) -> Report:
        """What was found so far; ``seed`` is that of the bootstrap."""
        words, characters = self._all.words.counts, self._all.characters.counts
        intervals = [self._intervals(unit, seed) for unit in ("words", "characters")]
        speakers = self._groups["speakers"]
        return Report(
            overall=Score("all", self.num_utterances, self._all.num_faulty, words, characters, *intervals),
            groups={grouping: scores for grouping in GROUPINGS if (scores := self._scores(grouping))},
            word_confusions=self._confusions[0].most(NUM_CONFUSIONS),
            character_confusions=self._confusions[1].most(NUM_CONFUSIONS),
            worst=tuple(utterance for _, utterance in sorted(self._worst, key=lambda item: item[0], reverse=True)),
            num_empty_references=self._num_empty,
            num_speakers=len(speakers),
            num_without_speaker=self.num_utterances - sum(group.words.num for group in speakers.values()),
            audio_s=self._audio_s,
        )

    def _intervals(self, unit: str, seed: int) -> dict[Over, Interval]:
        found: dict[Over, Interval | None] = {"utterances": rate_interval(self._blocks[unit], seed=seed)}
        if len(self._groups["speakers"]) > 1:
            blocks = self._alone[unit].copy()
            for group in self._groups["speakers"].values():
                counts = group.words.counts if unit == "words" else group.characters.counts
                blocks[counts.errors, counts.reference_length] += 1
            found["speakers"] = rate_interval(blocks, seed=seed)
        return {over: interval for over, interval in found.items() if interval is not None}

    def _scores(self, grouping: str) -> tuple[Score, ...]:
        scores = [group.score(name) for name, group in self._groups[grouping].items()]
        if grouping == "durations":
            order = [_duration_name(low) for low in DURATION_EDGES_S[:-1]]
        elif grouping == "lengths":
            order = [_length_name(low) for low in LENGTH_EDGES_WORDS]
        else:
            return tuple(sorted(scores, key=lambda score: (-score.words.rate, score.name)))
        return tuple(sorted(scores, key=lambda score: order.index(score.name)))


class _Backwards:
    """A name whose order is turned round, for a heap that gives the least back."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __lt__(self, other: _Backwards) -> bool:
        return self.name > other.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backwards) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def _names_of(utterance: ScoredUtterance) -> dict[str, str]:
    """The set that an utterance belongs to, of each grouping in which it is known."""
    facts = utterance.facts
    names = {"lengths": _length_name(utterance.words.reference_length)}
    if facts.speaker is not None:
        names["speakers"] = facts.speaker
    if facts.language is not None:
        names["languages"] = facts.language
    if facts.duration_s is not None:
        names["durations"] = _duration_name(facts.duration_s)
    return names


def _duration_name(seconds: float) -> str:
    for low, high in pairwise(DURATION_EDGES_S):
        if seconds < high:
            return f"{low:g}–{high:g} s" if high < float("inf") else f"{low:g} s and more"
    raise AssertionError(seconds)


def _length_name(words: int) -> str:
    for low, high in pairwise(LENGTH_EDGES_WORDS):
        if words < high:
            return f"{low}" if high - low == 1 else f"{low}–{high - 1}"
    return f"{LENGTH_EDGES_WORDS[-1]} and more"
