"""A probe from tasks and candidates to figures: what is done already is found again, the rest is computed and kept.

Knows runners by the kind of their task, and candidates by their frames; neither models nor files of audio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from audio_ssl import __version__
from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.probe.candidates import Candidate
from audio_ssl.probe.control import KINDS, chance, controlled
from audio_ssl.probe.doubts import doubts, heard_in_training
from audio_ssl.probe.frames import stored_at
from audio_ssl.probe.items import Fold, Frames, Items, Rows
from audio_ssl.probe.kinds import runner_of
from audio_ssl.probe.outcome import Amounts, Measured, Outcome, TaskOutcome
from audio_ssl.probe.record import Step, Store, digest_of, task_digest
from audio_ssl.probe.scores import Result


@dataclass(frozen=True)
class Asked:
    """A task to be measured.

    Attributes:
        name: in files and tables; no two tasks have one.
        task: its settings.
        items: with their labels.
        folds: at least one.
        source: of the settings.
        notes: what was found when it was opened.
    """

    name: str
    task: ProbeTask
    items: Items
    folds: Sequence[Fold]
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class How:
    """What is measured of each candidate.

    Attributes:
        seeds: of the heads.
        per_layer: whether each layer is measured by itself, too.
    """

    seeds: tuple[int, ...] = (1, 2, 3)
    per_layer: bool = False


class FramesOf(Protocol):
    """Gives the frames of a candidate; dear, so it is asked only where something is left to do."""

    def __call__(self, candidate: Candidate, asked: Asked) -> Frames: ...  # noqa: D102 - told above


def run_probe(
    tasks: Sequence[Asked],
    candidates: Sequence[Candidate],
    *,
    how: How,
    store: Store,
    frames_of: FramesOf,
    tell: Callable[[str], None],
) -> Outcome:
    """Measure every candidate on every task.

    Args:
        tasks: with different names.
        candidates: with different names.
        how: what is measured.
        store: of what is done; what is found there is not computed again.
        frames_of: as :class:`FramesOf`.
        tell: is given a line for people when a candidate is done.

    Raises:
        ConfigError: two tasks or two candidates have one name.
        AudioError: a recording cannot be read, or is too short for a candidate.
    """
    for what, names in (("tasks", [one.name for one in tasks]), ("candidates", [one.name for one in candidates])):
        if len(set(names)) < len(names):
            raise ConfigError(f"{what} must have different names, got {', '.join(names)}")
    started = time.perf_counter()
    found = tuple(_Work(asked, how, store, frames_of, tell).outcome(candidates) for asked in tasks)
    return Outcome(found, tuple(candidates), how.seeds, time.perf_counter() - started)


@dataclass(frozen=True)
class _Work:
    """A task under way."""

    asked: Asked
    how: How
    store: Store
    frames_of: FramesOf
    tell: Callable[[str], None]

    def outcome(self, candidates: Sequence[Candidate]) -> TaskOutcome:
        asked, items = self.asked, self.asked.items
        digest = task_digest(asked.task, items, asked.folds)
        measured = tuple(self._measure(candidate, digest) for candidate in candidates)
        by_chance = chance(items, asked.folds) if asked.task.kind in KINDS else None
        odd = doubts(items, asked.folds, measured, chance=by_chance)
        return TaskOutcome(
            asked.name, asked.task, asked.source, _amounts_of_folds(items, asked.folds), amounts_of(items),
            items.are_speakers, by_chance, measured, (*asked.notes, *_left_out(measured)),
            (*heard_in_training(items, asked.folds, candidates), *odd),
        )  # fmt: skip

    def _measure(self, candidate: Candidate, digest: str) -> Measured:
        """The heads, the control and the layers of a candidate, each a step of its own."""
        task, seeds = self.asked.task, self.how.seeds
        heads = task.heads_used
        first = heads[:1]
        steps = _Steps(self, candidate, digest)
        done = steps.do("heads", lambda frames: self._run(frames, seeds, heads), heads, seeds)
        control = None
        if task.kind in KINDS:
            control = steps.do("control", lambda frames: self._control(frames, first), first, seeds[:1]).results[0]
        layers: tuple[Result, ...] = ()
        if self.how.per_layer and candidate.num_layers > 1:
            layers = steps.do("layers", lambda frames: self._layers(frames, first), first, seeds[:1]).results
        told = "; ".join(f"{result.head} {shown(result)}" for result in done.results)
        self.tell(f"{self.asked.name}, {candidate.name}: {told} ({done.seconds:.0f} s)")
        return Measured(candidate, done.results, layers, control, done.seconds)

    def _run(self, frames: Frames, seeds: Sequence[int], heads: Sequence[str]) -> list[Result]:
        asked = self.asked
        return runner_of(asked.task.kind)(
            frames, asked.items, asked.folds, task=asked.task, seeds=seeds, heads=heads
        )  # fmt: skip

    def _control(self, frames: Frames, heads: Sequence[str]) -> list[Result]:
        asked, seeds = self.asked, self.how.seeds[:1]
        changed = controlled(frames, asked.items, asked.folds, seed=seeds[0])
        return runner_of(asked.task.kind)(*changed, task=asked.task, seeds=seeds, heads=heads)

    def _layers(self, frames: Frames, heads: Sequence[str]) -> list[Result]:
        found = []
        for number in range(frames.num_layers):
            (result,) = self._run(frames.layer(number), self.how.seeds[:1], heads)
            found.append(replace(result, layer=number, layer_weights=None))
        return found


class _Steps:
    """The steps of a candidate on a task; its frames are opened for the first that is not done."""

    def __init__(self, work: _Work, candidate: Candidate, digest: str) -> None:
        self._work, self._candidate, self._digest = work, candidate, digest
        self._frames: Frames | None = None
        self._audio = stored_at(candidate, work.asked.items, Path()).stem  # names the files and the candidate

    def do(self, name: str, compute: Callable[[Frames], list[Result]], *how: Sequence[object]) -> Step:
        """The step as it was kept, or computed and kept."""
        work = self._work
        key = digest_of(self._digest, self._audio, name, *map(list, how), __version__)
        place = f"{work.asked.name}-{self._candidate.name}-{name}"
        kept = work.store.get(place, key)
        if kept is None:
            if self._frames is None:
                self._frames = work.frames_of(self._candidate, work.asked)
            started = time.perf_counter()
            results = compute(self._frames)
            kept = Step(tuple(results), time.perf_counter() - started)
            work.store.put(place, key, kept)
        return kept


def shown(result: Result) -> str:
    """A result in a line of progress."""
    return f"{result.score.metric} {result.score.value:.4g}"


def _left_out(measured: Sequence[Measured]) -> tuple[str, ...]:
    """What runners left out, once where several heads say so."""
    told = [f"{one.candidate.name}: {note}" for one in measured for result in one.results for note in result.notes]
    return tuple(dict.fromkeys(told))


def _amounts_of_folds(items: Items, folds: Sequence[Fold]) -> dict[str, dict[str, Amounts]]:
    return {
        fold.name: {part: amounts_of(items, rows) for part, rows in parts_of(fold).items()} for fold in folds
    }  # fmt: skip


def parts_of(fold: Fold) -> dict[str, Rows]:
    """Rows of each part, by its name."""
    return {"train": fold.train, "valid": fold.valid, "test": fold.test}


def amounts_of(items: Items, rows: Rows | None = None) -> Amounts:
    """How much there is in rows of items; None for all."""
    chosen = np.arange(len(items)) if rows is None else rows
    hours = float(items.manifest.durations_s()[chosen].sum()) / 3600
    return Amounts(len(chosen), hours, len({items.speakers[row] for row in chosen.tolist()}))
