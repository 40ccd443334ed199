"""Fewer items of a task, with its folds: those that are used at all, or as many as a small probe can hear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from audio_ssl.probe.items import Fold, Items, Rows, as_rows
from audio_ssl.rng import numpy_generator

Ints = NDArray[np.int64]


def subset(items: Items, folds: Sequence[Fold], rows: Rows) -> tuple[Items, tuple[Fold, ...]]:
    """Some items, and the same folds of them alone.

    Args:
        items: N.
        folds: of these items.
        rows: those that are kept, ascending.
    """
    kept = rows.tolist()
    place = {row: i for i, row in enumerate(kept)}
    fewer = Items(
        items.manifest.select(rows),
        tuple(items.labels[row] for row in kept),
        tuple(items.speakers[row] for row in kept),
        tuple(items.languages[row] for row in kept),
        tuple(items.segments[row] for row in kept),
        items.are_speakers,
    )
    moved = tuple(
        Fold(
            fold.name,
            *(
                as_rows([place[row] for row in part.tolist() if row in place])
                for part in (fold.train, fold.valid, fold.test)
            ),
        )
        for fold in folds
    )
    return fewer, moved


def spread_labels(rows: Rows, labels: Ints, sides: Ints, *, most: int) -> Rows:
    """At most so many rows, in which labels still meet themselves across sides: two rows of each before a third of any.

    Rows at equal distances would not: of a label with two rows they would leave one.

    Args:
        rows: (n,) of items.
        labels: (n,) number of each one's label.
        sides: (n,) number of what rows that are compared must differ in.
        most: rows.

    Returns:
        Ascending, always the same.
    """
    if len(rows) <= most:
        return rows
    generator = numpy_generator(0, "rows of labels", len(rows))
    drawn = generator.permutation(len(rows))
    own_label = np.unique(labels[drawn], return_inverse=True)[1]
    own_side = np.unique(np.stack((labels, sides), axis=1)[drawn], axis=0, return_inverse=True)[1].ravel()
    turn_of_side = _turns(own_side)
    order = np.argsort(turn_of_side, kind="stable")  # a row of each side of a label, then another of each
    own_label, is_side = own_label[order], turn_of_side[order] == 0
    turn = np.maximum(_turns(own_label), 1)
    is_alone = np.bincount(own_label[is_side])[own_label] < 2
    place = generator.permutation(int(own_label.max()) + 1)[own_label]
    chosen = np.lexsort((place, is_alone, turn))[:most]
    return np.sort(rows[drawn[order[chosen]]])


def _turns(numbers: Ints) -> Ints:
    """(n,) how many of the same number come before each."""
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    turns = np.empty(len(numbers), dtype=np.int64)
    turns[order] = np.arange(len(numbers)) - (np.cumsum(counts) - counts)[numbers[order]]
    return turns


def spread_rows(items: Items, folds: Sequence[Fold], most: int) -> Rows:
    """At most so many rows, at equal distances in an order by part, label and speaker: each keeps its share.

    Nothing is drawn, so the same task always gives the same rows. Parts are those of the first fold; where every
    speaker is left out once, those of the others follow from the speakers.

    Args:
        items: N.
        folds: at least one.
        most: rows.
    """
    num = len(items)
    if num <= most:
        return as_rows(range(num))
    part = np.zeros(num, dtype=np.int64)
    for number, rows in enumerate((folds[0].train, folds[0].valid, folds[0].test), start=1):
        part[rows] = number
    labels = [label if isinstance(label, str) else "" for label in items.labels]  # sequences hardly come twice
    order = sorted(range(num), key=lambda row: (part[row], labels[row], items.speakers[row], row))
    places = (np.arange(most) * num // most).tolist()
    return as_rows(sorted(order[place] for place in places))
