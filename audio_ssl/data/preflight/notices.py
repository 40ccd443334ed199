"""What a look at the data found: one notice a kind, with every row that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.preflight import PreflightConfig
from audio_ssl.data.manifest import Manifest

Level = Literal["refuse", "warn", "tell"]
SplitName = Literal["train", "valid"]
SHOWN_CHARACTERS = 60  # of a transcript
_WORDS: Mapping[Level, str] = {"refuse": "refused", "warn": "warning", "tell": "note"}


@dataclass(frozen=True)
class Fit:
    """How the labels of a split fit its audio.

    Attributes:
        num_labels: (N,) int64 labels of each row.
        needs_frames: (N,) int64, one for each label, and a blank between equal neighbours.
        num_frames: (N,) int64 that the audio of each row has.
    """

    num_labels: NDArray[np.int64]
    needs_frames: NDArray[np.int64]
    num_frames: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The transcripts of one split.

    Attributes:
        name: ``train`` or ``valid``.
        manifest: all rows, those left out too.
        texts: of each row after the model's text rules; empty where there is none.
        fit: of labels and audio; None where nobody asks.
    """

    name: SplitName
    manifest: Manifest
    texts: Sequence[str]
    fit: Fit | None = None

    @cached_property
    def raw(self) -> list[str]:
        """The transcripts as they stand in the manifest; empty where there is none."""
        return [text or "" for text in self.manifest.column("text")]

    @cached_property
    def languages(self) -> list[str]:
        """The language of each row; empty where unknown."""
        return [language or "" for language in self.manifest.column("language")]

    @cached_property
    def num_texts(self) -> int:
        """Rows with a transcript."""
        return sum(map(bool, self.texts))


@dataclass(frozen=True)
class Limit:
    """A setting of ``[preflight]`` over (or under) which something is worse than a note.

    Attributes:
        key: its name.
        value: what it is.
        level: what is over it.
    """

    key: str
    value: float
    level: Level

    def __str__(self) -> str:
        return f"preflight.{self.key} = {self.value:g}"


@dataclass(frozen=True)
class Notice:
    """One kind of thing that was found.

    Attributes:
        check: its name for machines.
        split: where.
        message: what was found.
        advice: what to do.
        rows: row number to what is odd about it, all of them.
        manifest: of the rows.
        limit: that was passed; None: this is only told.
    """

    check: str
    split: SplitName
    message: str
    advice: str
    rows: Mapping[int, str]
    manifest: Manifest
    limit: Limit | None = None

    @property
    def level(self) -> Level:
        """``refuse``: the run must not start; ``warn``; ``tell``."""
        return "tell" if self.limit is None else self.limit.level

    def line(self, *, num_rows: int) -> str:
        """For people: what, the first rows by name, and what to do."""
        named = [self._named(row, about) for row, about in list(self.rows.items())[:num_rows]]
        more = f" and {len(self.rows) - num_rows} more" if len(self.rows) > num_rows else ""
        limit = f" ({self.limit})" if self.limit is not None else ""
        listed = f": {'; '.join(named)}{more}" if named else ""
        return f"{_WORDS[self.level]}: data.{self.split}: {self.message}{limit}{listed}. {self.advice}".rstrip()

    def document(self) -> dict[str, Any]:
        """For machines: every row, by place and id."""
        ids = self.manifest.table.column("id")
        return {
            "check": self.check, "split": self.split, "level": self.level, "message": self.message,
            "advice": self.advice, "limit": None if self.limit is None else str(self.limit), "num_rows": len(self.rows),
            "rows": [
                {"at": self.manifest.origin(row), "id": ids[row].as_py(), "about": about}
                for row, about in self.rows.items()
            ],
        }  # fmt: skip

    def _named(self, row: int, about: str) -> str:
        name = self.manifest.describe(row)
        return f"{name} {about}" if about else name


def limit_of(limits: PreflightConfig, key: str) -> Limit:
    """A limit of the settings by its name, which starts with what happens over it."""
    level: Level = "refuse" if key.startswith("refuse_") else "warn"
    return Limit(key, getattr(limits, key), level)


def passed(share: float, *limits: Limit) -> Limit | None:
    """The first of the limits that a share is over."""
    return next((limit for limit in limits if share > limit.value), None)


def shown_text(text: str) -> str:
    """A transcript in quotes, cut to a bearable length; control characters are escaped."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…")
