"""What the parts of a probe hand to one another: labelled items, folds, and the frames of a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.manifest import Manifest

Label = str | tuple[str, ...]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """A stretch of an item with a label of its own.

    Attributes:
        start_s: seconds from the item's first sample.
        end_s: the same; above ``start_s``.
        label: of the stretch.
    """

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Items:
    """N labelled utterances.

    Attributes:
        manifest: N rows.
        labels: of each row: a name, or the symbols that are spoken, in order.
        speakers: of each row; where nobody is known, the name of the file's own stand-in (see ``are_speakers``).
        languages: of each row, or None.
        segments: of each row, in order of time; empty tuples where the task has none.
        are_speakers: whether ``speakers`` are people; if not, a block of an interval is what the task says.
    """

    manifest: Manifest
    labels: tuple[Label, ...]
    speakers: tuple[str, ...]
    languages: tuple[str | None, ...]
    segments: tuple[tuple[Segment, ...], ...]
    are_speakers: bool = True

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Fold:
    """Which items are learned from, chosen by, and measured on. No item is in two parts.

    Attributes:
        name: in messages: ``split``, or the speaker who is left out.
        train: row numbers of items, ascending.
        valid: the same; empty where nothing has to be chosen.
        test: the same.
    """

    name: str
    train: Rows
    valid: Rows
    test: Rows


class Frames(Protocol):
    """Frames of all items by one candidate.

    Attributes:
        name: of the candidate, in tables.
        num_layers: L.
        dim: D.
        hop_s: seconds from a frame to the next.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - told above
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def hop_s(self) -> float: ...  # noqa: D102

    def of(self, item: int) -> Tensor:
        """(L, T, D) float32, T >= 1."""

    def pooled(self) -> Tensor:
        """(N, L, 2D) float32: mean and standard deviation over the frames of each item (population, not sample)."""

    def layer(self, number: int) -> Frames:
        """The same frames with layer ``number`` alone, L = 1."""


def as_rows(numbers: Sequence[int]) -> Rows:
    """Row numbers of a fold."""
    return np.asarray(numbers, dtype=np.int64)
