"""Two recognisers on the same utterances: what differs, and whether that is more than chance."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from audio_ssl.errors import ManifestError
from audio_ssl.evaluate.error_rate import EditCounts
from audio_ssl.evaluate.intervals import Difference, difference
from audio_ssl.evaluate.scores import Over, ScoredUtterance, score_utterance
from audio_ssl.evaluate.significance import MatchedPairs, SegmentSums
from audio_ssl.evaluate.utterance_file import LinesById

NUM_SHOWN = 5
ALPHA = 0.05


@dataclass(frozen=True)
class ComparedUtterance:
    """What both systems made of an utterance.

    Attributes:
        id: its id.
        reference: what was said.
        baseline: what the first system recognised.
        hypothesis: what the second recognised.
        baseline_errors: word errors of the first.
        errors: word errors of the second.
    """

    id: str
    reference: str
    baseline: str
    hypothesis: str
    baseline_errors: int
    errors: int


@dataclass(frozen=True)
class UnitComparison:
    """Rates of one unit.

    Attributes:
        baseline: counts of the first system.
        here: counts of the second.
        differences: second less first, by what was drawn; empty where it has no meaning.
    """

    baseline: EditCounts
    here: EditCounts
    differences: Mapping[Over, Difference]

    @property
    def over(self) -> Over | None:
        """What the difference to go by is taken over: speakers where there are several."""
        return next((over for over in ("speakers", "utterances") if over in self.differences), None)

    @property
    def difference(self) -> Difference | None:
        """The difference to go by."""
        return None if self.over is None else self.differences[self.over]


@dataclass(frozen=True)
class Comparison:
    """A paired comparison over the utterances that both systems have.

    Attributes:
        baseline: name of the first system.
        num_utterances: that both have.
        num_only_here: utterances that the first lacks; they take no part.
        num_only_in_baseline: utterances that the second lacks; they take no part.
        words: word errors.
        characters: character errors.
        matched_pairs: the test of Gillick & Cox over word errors.
        most_better: utterances in which the second has fewest errors for those of the first.
        most_worse: utterances in which it has most more.
    """

    baseline: str
    num_utterances: int
    num_only_here: int
    num_only_in_baseline: int
    words: UnitComparison
    characters: UnitComparison
    matched_pairs: MatchedPairs
    most_better: tuple[ComparedUtterance, ...]
    most_worse: tuple[ComparedUtterance, ...]

    @property
    def winner(self) -> Literal["baseline", "here"] | None:
        """The system with fewer word errors, where the 95 % interval of the difference does not hold 0 and p is < 0.05.

        So with fewer than six blocks there is none, however they fall.
        """
        found = self.words.difference
        if found is None or found.interval.low <= 0 <= found.interval.high or found.p_value >= ALPHA:
            return None
        return "here" if found.value < 0 else "baseline"


class _UnitSums:
    """Sums of both systems for one unit, as blocks."""

    def __init__(self) -> None:
        self.baseline, self.here = EditCounts(), EditCounts()
        self._utterances: Counter[tuple[int, ...]] = Counter()
        self._alone: Counter[tuple[int, ...]] = Counter()
        self._speakers: dict[str, tuple[int, int, int]] = {}

    def add(self, baseline: EditCounts, here: EditCounts, speaker: str | None) -> None:
        self.baseline, self.here = self.baseline + baseline, self.here + here
        block = baseline.errors, here.errors, here.reference_length
        self._utterances[block] += 1
        if speaker is None:
            self._alone[block] += 1
        else:
            sums = self._speakers.get(speaker, (0, 0, 0))
            self._speakers[speaker] = (sums[0] + block[0], sums[1] + block[1], sums[2] + block[2])

    def result(self, seed: int) -> UnitComparison:
        found: dict[Over, Difference | None] = {"utterances": difference(self._utterances, seed=seed)}
        if len(self._speakers) > 1:
            found["speakers"] = difference(self._alone + Counter(self._speakers.values()), seed=seed)
        return UnitComparison(self.baseline, self.here, {over: value for over, value in found.items() if value})


class Comparer:
    """Takes the utterances of the second system in one by one and looks those of the first up.

    Args:
        baseline: utterances of the first system's report.
        name: of the first system.
    """

    def __init__(self, baseline: LinesById, name: str) -> None:
        self._baseline, self._name = baseline, name
        self._words, self._characters = _UnitSums(), _UnitSums()
        self._segments = SegmentSums()
        self._num, self._num_only_here = 0, 0
        self._extremes: dict[int, list[tuple[int, int, ComparedUtterance]]] = {1: [], -1: []}

    def check_reference(self, utterance_id: str, reference: str) -> None:
        """Look whether both systems are measured against the same text; before hours of work.

        Raises:
            ManifestError: they are not, so that their rates cannot be compared.
        """
        line = self._baseline.get(utterance_id, uses=False)
        if line is not None and line["reference"] != reference:
            raise ManifestError(
                f"both systems must be measured against the same text; {utterance_id} has {line['reference']!r} in "
                f"{self._baseline.path} and {reference!r} here. Score both with the same --text rule, "
                "such as --text plain, on the same manifest"
            )

    def add(self, utterance: ScoredUtterance) -> None:
        """Take an utterance in.

        Raises:
            ManifestError: its reference is not that of the first system.
        """
        line = self._baseline.get(utterance.id)
        if line is None:
            self._num_only_here += 1
            return
        self.check_reference(utterance.id, utterance.reference)
        first = score_utterance(utterance.id, line["reference"], line["hypothesis"])
        speaker = utterance.facts.speaker
        self._words.add(first.words, utterance.words, speaker)
        self._characters.add(first.characters, utterance.characters, speaker)
        self._segments.add(first.word_edits, utterance.word_edits)
        self._num += 1
        self._keep(first, utterance)

    def result(self, *, seed: int = 1) -> Comparison:
        """The comparison over all utterances so far; ``seed`` is that of the bootstrap."""
        shown = {sign: tuple(u for _, _, u in sorted(heap, reverse=True)) for sign, heap in self._extremes.items()}
        return Comparison(
            self._name, self._num, self._num_only_here, self._baseline.num_unused,
            self._words.result(seed), self._characters.result(seed), self._segments.result(),
            most_better=shown[-1], most_worse=shown[1],
        )  # fmt: skip

    def _keep(self, first: ScoredUtterance, second: ScoredUtterance) -> None:
        gap = second.words.errors - first.words.errors
        if not gap:
            return
        compared = ComparedUtterance(
            second.id, second.reference, first.hypothesis, second.hypothesis, first.words.errors, second.words.errors
        )
        heap = self._extremes[1 if gap > 0 else -1]
        heapq.heappush(heap, (abs(gap), -self._num, compared))
        if len(heap) > NUM_SHOWN:
            heapq.heappop(heap)
