"""How often each unit meets each label, speaker by speaker, and what the one tells of the other.

With p(y, z) the share of frames that have label y and unit z (HuBERT, 2106.07447, section 4.3):

- label purity, E_z[max_y p(y | z)]: the accuracy of naming each unit by its commonest label;
- cluster purity, E_y[max_z p(z | y)]: falls where a label is cut into many units;
- PNMI, I(y; z) / H(y): the share of what there is to know of a label that its unit tells.

All three are larger on fewer frames, and PNMI and label purity with more units: compare equal numbers of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEASURES = ("pnmi", "label_purity", "cluster_purity")
_HELD = 4_000_000  # numbers of a portion of draws
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Joint:
    """Frames of B speakers by label and unit.

    Attributes:
        labels: Y names, ascending.
        label_of: (C,) int64 label of each pair that was seen, ascending.
        unit_of: (C,) int64 unit of each pair.
        counts: (B, C) of each speaker; a scipy sparse array.
    """

    labels: tuple[str, ...]
    label_of: Ints
    unit_of: Ints
    counts: Any

    def matrix(self, num_units: int) -> Ints:
        """(Y, K) frames of all speakers together."""
        full = np.zeros((len(self.labels), num_units), dtype=np.int64)
        full[self.label_of, self.unit_of] = np.asarray(self.counts.sum(axis=0)).ravel()
        return full

    def measures(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """:data:`MEASURES` of draws of speakers.

        Args:
            weights: (R, B), how often each speaker counts.

        Returns:
            (R,) each; NaN where a draw has one label alone, or none.
        """
        portion = max(1, _HELD // max(len(self.label_of), 1))
        parts = [self._portion(weights[first : first + portion]) for first in range(0, len(weights), portion)]
        return {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}

    def _portion(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        sums = np.asarray(weights @ self.counts, dtype=np.float64)  # (R, B) @ (B, C) -> (R, C)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = sums / sums.sum(1, keepdims=True)
            of_label = np.unique(self.label_of, return_index=True)[1]  # where each label's pairs begin
            order = np.argsort(self.unit_of, kind="stable")
            by_unit = share[:, order]
            of_unit = np.unique(self.unit_of[order], return_index=True)[1]
            label_entropy = _entropy(np.add.reduceat(share, of_label, axis=1))
            known = label_entropy + _entropy(np.add.reduceat(by_unit, of_unit, axis=1)) - _entropy(share)
            pnmi = np.where(label_entropy > 0, known / label_entropy, np.nan)
        return {
            "pnmi": pnmi,
            "label_purity": np.maximum.reduceat(by_unit, of_unit, axis=1).sum(1),
            "cluster_purity": np.maximum.reduceat(share, of_label, axis=1).sum(1),
        }


class Meetings:
    """Labels and units of frames as they come, utterance by utterance."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], list[tuple[NDArray[np.str_], Ints]]] = defaultdict(list)

    def add(self, speaker: str, fold: int, *, labels: Sequence[str], units: Ints) -> None:
        """Take an utterance in.

        Args:
            speaker: its block.
            fold: whose units they are; those of others are other units.
            labels: of n frames.
            units: (n,) of the same frames.
        """
        self._of[speaker, fold].append((np.asarray(labels, dtype=np.str_), np.asarray(units, dtype=np.int64)))

    def moved(self) -> Meetings:
        """The same with units that have nothing to do with the labels.

        Those of each speaker and fold are moved on in a ring by half of their number: units stay as long and as common
        as they are, which drawing them anew frame by frame would not leave them.
        """
        other = Meetings()
        for key, parts in self._of.items():
            labels, units = (np.concatenate(column) for column in zip(*parts, strict=True))
            other._of[key].append((labels, np.roll(units, len(units) // 2)))
        return other

    def table(self, names: Sequence[str], *, num_units: int) -> Joint:
        """The counts.

        Args:
            names: of the speakers, in the order of the rows that are wanted; one may have no frames.
            num_units: K, of a fold.
        """
        from scipy.sparse import csr_array

        alphabet = np.unique(np.concatenate([labels for parts in self._of.values() for labels, _ in parts]))
        num_folds = 1 + max(fold for _, fold in self._of)
        width, row = num_units * num_folds, {name: number for number, name in enumerate(names)}
        speakers, pairs = list[Ints](), list[Ints]()
        for (speaker, fold), parts in self._of.items():
            labels, units = (np.concatenate(column) for column in zip(*parts, strict=True))
            pairs.append(np.searchsorted(alphabet, labels) * width + fold * num_units + units)
            speakers.append(np.full(len(units), row[speaker], dtype=np.int64))
        cells, cell = np.unique(np.concatenate(pairs), return_inverse=True)
        where = np.concatenate(speakers), cell
        counts = csr_array((np.ones(len(cell), dtype=np.int64), where), shape=(len(names), len(cells)))
        counts.sum_duplicates()
        return Joint(tuple(alphabet.tolist()), cells // width, cells % width, counts)


def _entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, X) -> (R,) nats."""
    from scipy.special import xlogy

    return np.asarray(-xlogy(shares, shares).sum(1))
