"""What a check says: passed, failed or skipped, with its figures; as a table and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from rich.markup import escape
from rich.table import Table

Verdict = Literal["passed", "failed", "skipped"]
Figures = dict[str, float | str]
COLOURS: Mapping[Verdict, str] = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


class CheckFailed(Exception):  # noqa: N818 -- it is a verdict, not a fault of the program
    """A check does not hold.

    Args:
        reason: what must hold, and what was found.
        figures: what was measured nevertheless.
    """

    def __init__(self, reason: str, figures: Figures | None = None) -> None:
        super().__init__(reason)
        self.figures = figures or {}


class CheckSkipped(Exception):  # noqa: N818
    """A check cannot be made here; the message says why."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        check: its name.
        verdict: what came out.
        reason: why it failed or was skipped; empty where it passed.
        figures: name to value; numbers carry their unit in the name.
        seconds: it took.
    """

    check: str
    verdict: Verdict
    reason: str = ""
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0

    def line(self) -> str:
        """A JSON object; a number that is not finite is a string, for JSON has none."""
        safe = {name: _plain(value) for name, value in self.figures.items()}
        return json.dumps({**asdict(self), "figures": safe})

    @classmethod
    def of_line(cls, line: str) -> Result:
        """What :meth:`line` wrote."""
        return cls(**json.loads(line))


def require(name: str, value: float, *, at_most: float, figures: Figures) -> None:
    """Refuse a figure over its bound, and one that is not a number.

    Raises:
        CheckFailed: naming both.
    """
    if not value <= at_most:
        raise CheckFailed(f"{name} must be at most {at_most:g}, got {value:.3g}", figures)


def table_of(results: Sequence[Result], *, title: str) -> Table:
    """All checks, one a row, with a last line that counts them."""
    table = Table("check", "verdict", "figures", "s", title=title, show_lines=True)
    for result in results:
        told = [f"{name} {_told(value)}" for name, value in result.figures.items()]
        text = "\n".join([*([result.reason] if result.reason else []), ", ".join(told)]).strip()
        colour = COLOURS[result.verdict]
        table.add_row(result.check, f"[{colour}]{result.verdict}[/]", escape(text), f"{result.seconds:.0f}")
    counts = [f"{sum(r.verdict == verdict for r in results)} {verdict}" for verdict in COLOURS]
    table.caption = ", ".join(counts) + f"; {sum(r.seconds for r in results):.0f} s"
    return table


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _plain(value: float | str) -> float | str:
    return value if isinstance(value, str) or abs(value) < float("inf") else str(value)
