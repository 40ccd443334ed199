"""Which triples A, B, X are measured, where there are far more than can be.

The rule, which keeps each cell's mean without bias: at most :data:`MAX_TOKENS` tokens of each label and voice; for each
label and voice at most :data:`MAX_VOICES` others as X, and as many labels as the bound on all triples allows; in each
cell, without replacement, what is left of the bound, evenly. (Libri-light bounds the first two, by 10 and 5.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np

from audio_ssl.probe.abx_tokens import Tokens
from audio_ssl.probe.items import Rows

T = TypeVar("T")
MAX_TOKENS, MAX_VOICES = 30, 5
Groups = dict[tuple[int, int], Rows]  # (voice, label) -> numbers of tokens
Cell = tuple[int, int, int, int]  # label of A and X, label of B, voice of A and B, voice of X


@dataclass(frozen=True)
class Triples:
    """n triples in C cells.

    Attributes:
        tokens: (n, 3) numbers of A, B and X.
        cells: (n,) which cell each is of.
        labels: (C, 2) of A and X, and of B.
        voices: (C, 2) of A and B, and of X.
    """

    tokens: Rows
    cells: Rows
    labels: Rows
    voices: Rows

    def __len__(self) -> int:
        return len(self.tokens)


def draw_triples(tokens: Tokens, rng: np.random.Generator, *, max_triples: int, is_within: bool = False) -> Triples:
    """Draw triples by the rule above.

    Args:
        tokens: to draw from.
        rng: of this draw.
        max_triples: at most so many.
        is_within: all three of one voice, A and X two tokens; else X of another (``tokens.is_other``).
    """
    groups = _groups(tokens, rng)
    cells = _drawn_cells(tokens, groups, rng, max_cells=max_triples, is_within=is_within)
    shares = np.diff(np.linspace(0, max_triples, len(cells) + 1).astype(np.int64)).tolist()
    parts = [_of_cell(groups, cell, rng, at_most=share) for cell, share in zip(cells, shares, strict=True)]
    table = np.array(cells, dtype=np.int64).reshape(-1, 4)
    return Triples(
        np.concatenate([np.empty((0, 3), dtype=np.int64), *parts]),
        np.repeat(np.arange(len(cells)), [len(part) for part in parts]),
        table[:, :2],
        table[:, 2:],
    )


def _groups(tokens: Tokens, rng: np.random.Generator) -> Groups:
    """At most :data:`MAX_TOKENS` of each voice and label, ascending."""
    keys = np.stack([tokens.voices, tokens.labels], axis=1)
    order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
    ends = np.flatnonzero(np.any(np.diff(keys[order], axis=0), axis=1)) + 1
    found: Groups = {}
    for part in np.split(order, ends) if len(order) else []:
        kept = part if len(part) <= MAX_TOKENS else np.sort(rng.choice(part, MAX_TOKENS, replace=False))
        found[int(keys[part[0], 0]), int(keys[part[0], 1])] = kept
    return found


def _drawn_cells(
    tokens: Tokens, groups: Groups, rng: np.random.Generator, *, max_cells: int, is_within: bool
) -> list[Cell]:
    labels_of: dict[int, list[int]] = {}  # of a voice
    voices_of: dict[int, list[int]] = {}  # of a label
    for voice, label in groups:
        labels_of.setdefault(voice, []).append(label)
        voices_of.setdefault(label, []).append(voice)

    def partners(voice: int, label: int) -> list[int]:
        if is_within:
            return [voice] if len(groups[voice, label]) > 1 else []
        return [other for other in voices_of[label] if tokens.is_other[voice, other]]

    anchors = [key for key in groups if len(labels_of[key[0]]) > 1 and partners(*key)]
    anchors = _some(anchors, max_cells, rng)
    cells: list[Cell] = []
    for voice, label in anchors:
        allowed = max(1, max_cells // len(anchors))
        others = _some(partners(voice, label), min(MAX_VOICES, allowed), rng)
        wrong = [other for other in labels_of[voice] if other != label]
        wrong = _some(wrong, max(1, allowed // len(others)), rng)
        cells += [(label, b, voice, x) for x, b in product(others, wrong)]
    return cells


def _of_cell(groups: Groups, cell: Cell, rng: np.random.Generator, *, at_most: int) -> Rows:
    """(n, 3) triples of a cell, without replacement."""
    label, wrong, voice, other = cell
    a, b, x = groups[voice, label], groups[voice, wrong], groups[other, label]
    is_same = voice == other
    # within a voice X is any token but A: one place less, counted on from A
    num_x = len(x) - is_same
    total = len(a) * len(b) * num_x
    places = np.arange(total) if total <= at_most else rng.choice(total, at_most, replace=False)
    a_idx, b_idx, x_idx = np.unravel_index(places, (len(a), len(b), num_x))
    if is_same:
        x_idx = (a_idx + 1 + x_idx) % len(x)
    return np.stack([a[a_idx], b[b_idx], x[x_idx]], axis=1)


def _some(found: list[T], at_most: int, rng: np.random.Generator) -> list[T]:
    """At most so many, in order."""
    if len(found) <= at_most:
        return found
    return [found[i] for i in np.sort(rng.choice(len(found), at_most, replace=False))]
