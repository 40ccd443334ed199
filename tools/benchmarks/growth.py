"""Laws of growth fitted to measured points, each point's relative error counting alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """A law and what it says.

    Attributes:
        formula: for people.
        at: its value at a place.
        figures: metric to (value, unit).
    """

    formula: str
    at: Callable[[float], float]
    figures: Mapping[str, tuple[float, str]]


def with_audio(at: Sequence[float], values: Sequence[float]) -> Growth:
    """``linear * s + quadratic * s**2``, neither below 0: what grows with the frames, and attention's pairs of them."""
    linear, quadratic = _fit(at, values, powers=(1, 2))
    longest = max(at)
    share = quadratic * longest**2 / (linear * longest + quadratic * longest**2)
    return Growth(
        f"{1e3 * linear:.1f} s + {1e3 * quadratic:.2f} s² (ms)",
        lambda s: linear * s + quadratic * s**2,
        {
            "linear_s": (linear, "s"),
            "quadratic_s": (quadratic, "s"),
            "quadratic_share": (share, "share"),
            "growth_exponent": (exponent(at, values), "exponent"),
        },
    )


def with_batch(at: Sequence[float], values: Sequence[float]) -> Growth:
    """``fixed + per_row * rows``: weights with their moments, and activations."""
    fixed, per_row = _fit(at, values, powers=(0, 1))
    return Growth(
        f"{fixed:.0f} + {per_row:.0f} MiB a row",
        lambda rows: fixed + per_row * rows,
        {"fixed_mib": (fixed, "MiB"), "per_row_mib": (per_row, "MiB")},
    )


def with_model(at: Sequence[float], values: Sequence[float]) -> Growth:
    """A power of the number of parameters; of one model nothing but its point."""
    power = exponent(at, values)
    factor = float(np.exp(np.mean(np.log(values)) - power * np.mean(np.log(at))))
    return Growth(
        f"{factor:.2g} s × M^{power:.2f}",
        lambda millions: float(factor * millions**power),
        {"growth_exponent": (power, "exponent")},
    )


def exponent(at: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the logarithms over all points, 0 of a single one: 1 is proportional, 2 quadratic."""
    if len(at) < 2:
        return 0.0
    return float(np.polyfit(np.log(at), np.log(values), 1)[0])


def _fit(at: Sequence[float], values: Sequence[float], *, powers: tuple[int, int]) -> tuple[float, float]:
    """Coefficients of two powers by least squares of relative errors; one of them alone where the other is negative."""
    x, y = np.asarray(at, dtype=np.float64), np.asarray(values, dtype=np.float64)
    columns = np.stack([x**power / y for power in powers], axis=1)
    both = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0]
    if (both < 0).any():
        kept = int(np.argmax(both))
        alone = columns[:, kept]
        both = np.zeros(2)
        both[kept] = alone.sum() / (alone @ alone)
    return float(both[0]), float(both[1])
