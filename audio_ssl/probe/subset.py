"""Fewer items of a task, with its folds: those that are used at all, or as many as a small probe can hear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from audio_ssl.probe.items import Fold, Items, Rows, as_rows


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
