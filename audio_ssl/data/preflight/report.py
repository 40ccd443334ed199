"""The report of a look at the data: lines for people, a document for machines, and the refusal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_ssl.data.preflight.notices import Level, Notice
from audio_ssl.errors import ManifestError

FORMAT_VERSION = 1
_ORDER: Sequence[Level] = ("refuse", "warn", "tell")


def in_order(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """The gravest first, else as they come."""
    return tuple(sorted(notices, key=lambda notice: _ORDER.index(notice.level)))


@dataclass(frozen=True)
class Preflight:
    """What was found.

    Attributes:
        notices: the gravest first.
        figures: of the splits and the vocabulary, for machines.
    """

    notices: tuple[Notice, ...]
    figures: dict[str, Any]

    def of_level(self, level: Level) -> list[Notice]:
        """Notices of a level."""
        return [notice for notice in self.notices if notice.level == level]

    def lines(self, *, num_rows: int) -> list[str]:
        """For people: one line a notice with its first rows, after a line that counts them.

        What refuses is only counted: :meth:`refuse` says it.
        """
        found = [f"{n} {word}{'s' * (n > 1)}" for word, level in
                 (("reason not to start", "refuse"), ("warning", "warn"), ("note", "tell"))
                 if (n := len(self.of_level(level)))]  # type: ignore[arg-type]  # fmt: skip
        head = f"before training: {', '.join(found) or 'nothing odd was found'}"
        return [head, *(notice.line(num_rows=num_rows) for notice in self.notices if notice.level != "refuse")]

    def document(self) -> dict[str, Any]:
        """For machines: everything, every row by place and id."""
        return {
            "format_version": FORMAT_VERSION,
            "counts": {level: len(self.of_level(level)) for level in _ORDER},
            **self.figures,
            "notices": [notice.document() for notice in self.notices],
        }

    def refuse(self, *, written: Path | None, num_rows: int) -> None:
        """Stop where something is over a limit that refuses.

        Args:
            written: the file with every row; None where there is none.
            num_rows: to be named for each reason.

        Raises:
            ManifestError: naming what was found, the limit, the first rows and what to do.
        """
        reasons = [notice.line(num_rows=num_rows).removeprefix("refused: ") for notice in self.of_level("refuse")]
        if not reasons:
            return
        where = f"\nevery row is in {written}" if written is not None else ""
        raise ManifestError(
            "the data must be mended before a recogniser is trained on them, or the limit raised where it is meant so:"
            + "".join(f"\n  - {reason}" for reason in reasons)
            + where
        )
