"""Charts as inline SVG that stretch with the page while their text and lines stay as they are.

A plot's area is an SVG without a fixed shape; its ticks are text beside it, placed by percentages. So a phone shows the
same letters as a wide screen. Colours are the page's (``page.css``); no meaning is in colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MAX_BUCKETS = 400  # of a line; each keeps its least and its greatest point, so that no spike is lost
SIDE = 1000.0  # units of a plot's area, both ways
NUM_TICKS = 4

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        label: for the legend.
        points: (x, y), x rising.
        style: class of the page's style: ``train``, ``valid``, or ``g0`` to ``g3``.
        is_dotted: draw each point too; for curves of few points.
    """

    label: str
    points: Sequence[Point]
    style: str
    is_dotted: bool = False


@dataclass(frozen=True)
class Frame:
    """The window of a plot.

    Attributes:
        x: left and right end.
        y: lower and upper end.
        is_log: of y.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool = False

    def across(self, x: float) -> float:
        """Place from the left, 0 to 1."""
        low, high = self.x
        return (x - low) / (high - low) if high > low else 0.5

    def up(self, y: float) -> float:
        """Place from below, 0 to 1, cut at the ends."""
        low, high = self.y
        if self.is_log:
            low, high, y = math.log(low), math.log(high), math.log(max(y, 1e-30))
        return min(1.0, max(0.0, (y - low) / (high - low) if high > low else 0.5))


def frame_of(lines: Sequence[Line], *, include: Sequence[float] = (), is_log: bool = False) -> Frame:
    """The window that holds all points and the values of ``include``, with some air above and below."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + list(include)
    if is_log:
        ys = [y for y in ys if y > 0]
    if not xs or not ys:
        return Frame((0.0, 1.0), (0.1, 1.0) if is_log else (0.0, 1.0), is_log=is_log)
    low, high = min(ys), max(ys)
    if is_log:
        return Frame((min(0.0, *xs), max(xs)), (low / 1.15, high * 1.15), is_log=True)
    air = 0.06 * (high - low) or 0.06 * abs(high) or 0.5
    return Frame((min(0.0, *xs), max(xs)), (low if low == 0 else low - air, high + air))


def plot(
    lines: Sequence[Line],
    frame: Frame,
    *,
    label: str,
    band: tuple[float, float] | None = None,
    level: float | None = None,
    x_label: str,
    unit: str = "",
    under: str = "",
    x_at: Sequence[float] | None = None,
) -> str:
    """HTML of a plot with its ticks.

    Args:
        lines: what to draw.
        frame: the window.
        label: says in words what is seen.
        band: lower and upper end of a shaded stretch of y.
        level: a dashed line at this y.
        x_label: what x counts.
        unit: of the ticks of y.
        under: SVG that is drawn beneath the lines, in units of :data:`SIDE`.
        x_at: where the ticks of x are; else at round numbers.
    """
    drawn = [_band(frame, band)] if band else []
    y_ticks = _log_ticks(*frame.y) if frame.is_log else ticks(*frame.y)
    grid = "".join(f"M0 {down_of(frame, y)}H{SIDE:.0f}" for y in y_ticks)
    drawn.append(f'<path class="grid" d="{grid}"/>')
    if level is not None:
        drawn.append(f'<path class="level" d="M0 {down_of(frame, level)}H{SIDE:.0f}"/>')
    drawn.append(under)
    drawn += [_path(line, frame) for line in lines if line.points]
    return (
        f'<div class="plot">{_y_ticks(frame, y_ticks, unit)}'
        f'<svg viewBox="0 0 {SIDE:.0f} {SIDE:.0f}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(drawn)}</svg>{_x_ticks(frame, x_label, x_at)}</div>"
    )


def legend(lines: Sequence[Line], values: Sequence[str]) -> str:
    """HTML of a legend: a piece of each line, its label and a value."""
    items = []
    for line, value in zip(lines, values, strict=True):
        dot = '<path class="dot" d="M14 6h0"/>' if line.is_dotted else ""
        swatch = f'<svg class="{line.style}" viewBox="0 0 28 12" aria-hidden="true"><path d="M1 6H27"/>{dot}</svg>'
        items.append(f"<li>{swatch}{escape(line.label)} <b>{escape(value)}</b></li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def bars(shares: Sequence[float], *, label: str, level: float, x_label: str) -> str:
    """HTML of a histogram whose bars touch, in the given order.

    Args:
        shares: heights in percent.
        label: says in words what is seen.
        level: a dashed line at this height.
        x_label: what the bars are.
    """
    frame = Frame((0.0, float(len(shares))), (0.0, 1.06 * max([*shares, level, 1e-9])))
    tops = "".join(f"V{down_of(frame, share)}H{right_of(frame, i + 1)}" for i, share in enumerate(shares))
    area = f'<path class="bars" d="M0 {SIDE:.0f}{tops}V{SIDE:.0f}Z"/>'
    y_ticks = ticks(*frame.y)
    return (
        f'<div class="plot">{_y_ticks(frame, y_ticks, " %")}'
        f'<svg viewBox="0 0 {SIDE:.0f} {SIDE:.0f}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f'<title>{escape(label)}</title>{area}<path class="level" d="M0 {down_of(frame, level)}H{SIDE:.0f}"/></svg>'
        f"{_x_ticks(frame, x_label)}</div>"
    )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two ends, about :data:`NUM_TICKS` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def shown(value: float) -> str:
    """A number in few letters."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if size >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"


def brief(value: float) -> str:
    """A number for which three digits are enough: a bound, or a share in percent."""
    return shown(float(f"{value:.3g}"))


def key(style: str, text: str) -> str:
    """HTML of a swatch with what it means."""
    return f'<span class="pair-key"><span class="key {style}"></span>{escape(text)}</span>'


def thinned(points: Sequence[Point]) -> list[Point]:
    """The least and the greatest point of each of :data:`MAX_BUCKETS` stretches, in order; all where there are few."""
    if len(points) <= 2 * MAX_BUCKETS:
        return list(points)
    kept: list[Point] = [points[0]]
    for i in range(MAX_BUCKETS):
        part = points[len(points) * i // MAX_BUCKETS : len(points) * (i + 1) // MAX_BUCKETS]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return [*kept, points[-1]]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    tens = [value for value in found if math.log10(value).is_integer()]
    return tens if len(found) > 2 * NUM_TICKS and len(tens) > 1 else found or [low]


def _path(line: Line, frame: Frame) -> str:
    places = [(right_of(frame, x), down_of(frame, y)) for x, y in thinned(line.points)]
    d = "M" + "L".join(f"{x} {y}" for x, y in places)
    dots = "".join(f"M{x} {y}h0" for x, y in places) if line.is_dotted or len(places) == 1 else ""
    dotted = f'<path class="dot" d="{dots}"/>' if dots else ""
    return f'<g class="{line.style}"><path d="{d}"/>{dotted}</g>'


def _band(frame: Frame, band: tuple[float, float]) -> str:
    top, bottom = down_of(frame, band[1]), down_of(frame, band[0])
    return f'<path class="band" d="M0 {top}H{SIDE:.0f}V{bottom}H0Z"/>'


def right_of(frame: Frame, x: float) -> str:
    """Units of :data:`SIDE` from the left of a plot."""
    return f"{SIDE * frame.across(x):.1f}".removesuffix(".0")


def down_of(frame: Frame, y: float) -> str:
    """Units of :data:`SIDE` from the top of a plot."""
    return f"{SIDE * (1 - frame.up(y)):.1f}".removesuffix(".0")


def _y_ticks(frame: Frame, values: Sequence[float], unit: str) -> str:
    spans = "".join(f'<span style="bottom:{100 * frame.up(y):.1f}%">{shown(y)}{escape(unit)}</span>' for y in values)
    return f'<div class="y" aria-hidden="true">{spans}</div>'


def _x_ticks(frame: Frame, label: str, at: Sequence[float] | None = None) -> str:
    values = ticks(*frame.x) if at is None else at
    spans = "".join(f'<span style="left:{100 * frame.across(x):.1f}%">{shown(x)}</span>' for x in values)
    return f'<div class="x" aria-hidden="true">{spans}</div><div class="xl" aria-hidden="true">{escape(label)}</div>'
