"""How a probe names rows, files and labels in its notes: the first few, and that there are more."""

from __future__ import annotations

from collections.abc import Iterable

_NAMED = 3


def few(names: Iterable[str]) -> str:
    """``a, b, c ...`` of any number of names."""
    told = list(names)
    return ", ".join(told[:_NAMED]) + (" ..." if len(told) > _NAMED else "")
