"""What a probe found: of each task, each candidate's results, and how they stand to the baselines.

Knows neither how it was computed (``run``) nor how it is told (``tables``, ``document``, ``page``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from audio_ssl.config.probe import ProbeTask
from audio_ssl.probe.candidates import Candidate, Role
from audio_ssl.probe.scores import Gain, Result, Score

BASELINES: Mapping[str, Role] = {"log-mel": "log_mel", "random weights": "random"}
"""Beside whom every model is put in the tables; the file has its differences to all others."""
_SAME_S = 1e-4


@dataclass(frozen=True)
class Measured:
    """A candidate on a task.

    Attributes:
        candidate: it.
        results: one a head.
        layers: of each layer alone, by one seed of the linear head; empty where nobody asked.
        control: with labels permuted among the items that are learned from; None where the kind has no such thing.
        seconds: that the heads took, the frames left out.
    """

    candidate: Candidate
    results: tuple[Result, ...]
    layers: tuple[Result, ...] = ()
    control: Result | None = None
    seconds: float = 0.0

    def of_head(self, head: str) -> Result | None:
        """The result of a head, where there is one."""
        return next((result for result in self.results if result.head == head), None)


@dataclass(frozen=True)
class Amounts:
    """How much of a part of the items.

    Attributes:
        num_items: utterances.
        hours: of audio.
        num_speakers: different ones.
    """

    num_items: int
    hours: float
    num_speakers: int


@dataclass(frozen=True)
class TaskOutcome:
    """A task with what everybody reached on it.

    Attributes:
        name: of the task, in files.
        task: its settings.
        source: the file that they were read from.
        folds: what there is of ``train``, ``valid`` and ``test`` in each fold, by its name.
        amounts: of all items.
        are_speakers: whether blocks of intervals are people.
        chance: what who knows nothing of the audio reaches; None where that is not told.
        measured: in the order of the table.
        notes: what was left out, and what is odd in the data; also what runners left out of a candidate.
        warnings: what makes a figure worth less than it seems.
    """

    name: str
    task: ProbeTask
    source: str
    folds: Mapping[str, Mapping[str, Amounts]]
    amounts: Amounts
    are_speakers: bool
    chance: float | None
    measured: tuple[Measured, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of the results, in order."""
        return tuple(dict.fromkeys(result.head for one in self.measured for result in one.results))


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        measured: whose.
        result: by a head.
        gains: over the baseline of each name of :data:`BASELINES` that there is, with the name of that baseline.
    """

    measured: Measured
    result: Result
    gains: Mapping[str, tuple[str, Gain]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """All tasks of a probe.

    Attributes:
        tasks: in the order that they were asked for.
        candidates: in the order of the tables.
        seeds: of the heads.
        seconds: that all took, frames included.
    """

    tasks: tuple[TaskOutcome, ...]
    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...]
    seconds: float


def rows_of(found: TaskOutcome) -> list[Row]:
    """The table of a task: head by head, and within a head candidate by candidate."""
    return [
        Row(one, result, _gains(found, one, result))
        for head in found.heads
        for one in found.measured
        for result in one.results
        if result.head == head
    ]


def _gains(found: TaskOutcome, one: Measured, result: Result) -> dict[str, tuple[str, Gain]]:
    gains: dict[str, tuple[str, Gain]] = {}
    for name, role in BASELINES.items():
        peers = [other for other in found.measured if other.candidate.role == role and _is_peer(other, one)]
        against = _strongest(peers, result.head)
        if against is not None:
            gains[name] = (against[0], result.score.gain_over(against[1]))
    return gains


def _is_peer(baseline: Measured, one: Measured) -> bool:
    """Random weights are those of a model's own settings; spectra come as often as its frames, if any do."""
    if one.candidate.role != "model":
        return False
    if baseline.candidate.role == "random":
        return one.candidate.name in baseline.candidate.random_of
    return abs(baseline.candidate.hop_s - one.candidate.hop_s) < _SAME_S


def _strongest(peers: Sequence[Measured], head: str) -> tuple[str, Score] | None:
    """The best of several: whoever is better than it is better than each."""
    scored = [(one.candidate.name, result.score) for one in peers if (result := one.of_head(head)) is not None]
    return max(scored, key=lambda pair: goodness(pair[1]), default=None)


def goodness(score: Score) -> float:
    """The value, turned so that more is better."""
    value = score.value if score.higher_is_better else -score.value
    return value if math.isfinite(value) else -math.inf


def best_layer(one: Measured) -> int:
    """The layer that pictures are made of: that which was chosen, or has the greatest weight, or is the last."""
    for result in one.results:
        if result.layer is not None:
            return result.layer
        if result.layer_weights is not None:
            return max(range(len(result.layer_weights)), key=result.layer_weights.__getitem__)
    return one.candidate.num_layers - 1
