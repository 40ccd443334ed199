"""What a look at the data found: one notice a kind, with every row that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from audio_ssl.data.manifest import Manifest

Level = Literal["refuse", "warn", "tell"]
SplitName = Literal["train", "valid"]
SHOWN_CHARACTERS = 60  # of a transcript
_WORDS = {"refuse": "refused", "warn": "warning", "tell": "note"}


@dataclass(frozen=True)
class Split:
    """The transcripts of one split.

    Attributes:
        name: ``train`` or ``valid``.
        manifest: all rows, those left out too.
        texts: of each row after the model's text rules; empty where there is none.
    """

    name: SplitName
    manifest: Manifest
    texts: Sequence[str]

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
class Notice:
    """One kind of thing that was found.

    Attributes:
        check: its name for machines.
        split: where.
        level: ``refuse``: the run must not start; ``warn``; ``tell``.
        message: what was found.
        advice: what to do.
        limit: the setting that decides the level, with its value; empty where there is none.
        manifest: of the rows.
        rows: row number to what is odd about it, all of them.
    """

    check: str
    split: SplitName
    level: Level
    message: str
    advice: str
    limit: str
    manifest: Manifest
    rows: Mapping[int, str]

    def line(self, *, num_rows: int) -> str:
        """For people: what, the first rows by name, and what to do."""
        named = "; ".join(
            f"{self.manifest.describe(row)}{about and f' {about}'}" for row, about in list(self.rows.items())[:num_rows]
        )
        more = f" and {len(self.rows) - num_rows} more" if len(self.rows) > num_rows else ""
        limit = f" ({self.limit})" if self.limit and self.level != "tell" else ""
        parts = [f"{_WORDS[self.level]}: data.{self.split}: {self.message}{limit}"]
        return f"{parts[0]}{f': {named}{more}' if named else ''}. {self.advice}".rstrip()

    def document(self) -> dict[str, Any]:
        """For machines: every row, by place and id."""
        ids = self.manifest.table.column("id")
        return {
            "check": self.check, "split": self.split, "level": self.level, "message": self.message,
            "advice": self.advice, "limit": self.limit or None, "num_rows": len(self.rows),
            "rows": [
                {"at": self.manifest.origin(row), "id": ids[row].as_py(), "about": about}
                for row, about in self.rows.items()
            ],
        }  # fmt: skip


def shown_text(text: str) -> str:
    """A transcript in quotes, cut to a bearable length; control characters are escaped."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…")
