"""The control of a task: what a head reaches whose training labels have changed places, and what chance is.

Whoever learns such labels can know nothing of the right ones, so a score above chance says that test labels reach the
head in another way than by learning: the task, or the probe itself, leaks.

Reference: Hewitt & Liang, "Designing and interpreting probes with control tasks" (1909.03368). Deviates from it: labels
are permuted over training items, not drawn by type, because utterances have no types; test labels stay what they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from audio_ssl.probe.items import Fold, Frames, Items, Label, Rows, Segment, as_rows
from audio_ssl.probe.scores import Score
from audio_ssl.rng import numpy_generator

KINDS = ("classify", "frames")  # kinds that learn one name at a time
_WIDTHS = 2.0  # of the interval's lower half: an interval of 95 % alone would call every fortieth honest task a leak


def controlled(
    frames: Frames, items: Items, folds: Sequence[Fold], *, seed: int = 1
) -> tuple[Frames, Items, list[Fold]]:
    """The same task with the labels of each fold's ``train`` permuted, for any runner.

    An item may be learned from in one fold and tested in another, where its label has to be right; so the items that
    come back are all items as they are, and behind them those of each ``train`` once more, with labels of others.

    Args:
        frames: of the items.
        items: of the task.
        folds: of the task.
        seed: of the permutations.
    """
    rows, labels, segments = list(range(len(items))), list(items.labels), list(items.segments)
    changed = []
    for number, fold in enumerate(folds):
        rng = numpy_generator(seed, "control labels", number)
        changed.append(replace(fold, train=as_rows(range(len(rows), len(rows) + len(fold.train)))))
        labels += _permuted_labels(items, fold.train, rng)
        segments += _permuted_segments(items, fold.train, rng)
        rows += fold.train.tolist()
    more = Items(
        items.manifest.select(rows), tuple(labels), tuple(items.speakers[row] for row in rows),
        tuple(items.languages[row] for row in rows), tuple(segments), items.are_speakers,
    )  # fmt: skip
    return _Chosen(frames, as_rows(rows)), more, changed


def chance(items: Items, folds: Sequence[Fold]) -> float:
    """Accuracy of who hears nothing: the better of always guessing the commonest label, and of guessing by frequency.

    Both are known from ``train``. Labels of segments count by their seconds, as frames do.

    Args:
        items: with labels that are names, or with segments.
        folds: with items in ``test``.
    """
    commonest, by_frequency, total = 0.0, 0.0, 0.0
    for fold in folds:
        known, asked = _masses(items, fold.train), _masses(items, fold.test)
        whole = sum(known.values())
        commonest += asked[max(sorted(known), key=lambda name: known[name])]
        by_frequency += sum(amount / whole * asked[name] for name, amount in known.items())
        total += sum(asked.values())
    return max(commonest, by_frequency) / total


def luck(items: Items, folds: Sequence[Fold], by_chance: float) -> float:
    """How far above chance luck alone carries a control: three deviations of its accuracy.

    A head that tells labels apart gives all items of a label one wrong name, and finds all of them or none: there are
    no more guesses to average over than labels of each fold, however many items and speakers there are.

    Args:
        items: as of :func:`chance`.
        folds: as there.
        by_chance: what that is, the odds of a guess.
    """
    asked = [amount for fold in folds for amount in _masses(items, fold.test).values()]
    return 3 * math.sqrt(by_chance * (1 - by_chance)) * math.hypot(*asked) / sum(asked)


def leaks(score: Score, by_chance: float, by_luck: float) -> bool:
    """Whether the score of a control is so far above chance that labels must have come another way.

    Args:
        score: of the control.
        by_chance: of the task, :func:`chance`.
        by_luck: of the task, :func:`luck`; over few speakers the interval of the score knows less of it, or nothing.
    """
    interval = score.interval()
    margin = by_luck if interval is None else max(by_luck, _WIDTHS * (score.value - interval.low))
    return score.value - margin > by_chance + 1e-9


def _permuted_labels(items: Items, rows: Rows, rng: np.random.Generator) -> list[Label]:
    own = [items.labels[row] for row in rows.tolist()]
    return [own[place] for place in rng.permutation(len(own)).tolist()]


def _permuted_segments(items: Items, rows: Rows, rng: np.random.Generator) -> list[tuple[Segment, ...]]:
    own = [items.segments[row] for row in rows.tolist()]
    names = [segment.label for segments in own for segment in segments]
    given = iter([names[place] for place in rng.permutation(len(names)).tolist()])
    return [tuple(replace(segment, label=next(given)) for segment in segments) for segments in own]


def _masses(items: Items, rows: Rows) -> dict[Label, float]:
    """How much of each label."""
    found: dict[Label, float] = defaultdict(float)
    for row in rows.tolist():
        if items.segments[row]:
            for segment in items.segments[row]:
                found[segment.label] += segment.end_s - segment.start_s
        else:
            found[items.labels[row]] += 1
    return found


@dataclass(frozen=True)
class _Chosen:
    """Frames of some items, some of them twice; see :class:`audio_ssl.probe.items.Frames`."""

    frames: Frames
    rows: Rows

    @property
    def name(self) -> str:
        return self.frames.name

    @property
    def num_layers(self) -> int:
        return self.frames.num_layers

    @property
    def dim(self) -> int:
        return self.frames.dim

    @property
    def hop_s(self) -> float:
        return self.frames.hop_s

    def of(self, item: int) -> Tensor:
        return self.frames.of(int(self.rows[item]))

    def pooled(self) -> Tensor:
        return self.frames.pooled()[torch.from_numpy(self.rows)]

    def layer(self, number: int) -> Frames:
        return _Chosen(self.frames.layer(number), self.rows)
