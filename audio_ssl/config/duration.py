"""Lengths of time as people write them: ``2h``, ``90m``, ``1d12h``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PATTERN = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in _SECONDS))


def duration_s(text: str) -> float:
    """Seconds of a length of time: numbers with d, h, m and s, each at most once and in this order.

    Raises:
        ValueError: it is none, or is no time at all.
    """
    found = _PATTERN.fullmatch(text)
    seconds = sum(float(found[unit] or 0) * size for unit, size in _SECONDS.items()) if found else 0.0
    if seconds <= 0:
        raise ValueError(f"must be a length of time such as 2h, 90m or 1d12h, got {text}")
    return seconds


def _checked(value: Any) -> str:
    text = str(value)
    duration_s(text)
    return text


Duration = Annotated[str, BeforeValidator(_checked)]
