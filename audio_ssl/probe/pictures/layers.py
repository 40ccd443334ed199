"""A figure by layer: a curve for each model with its intervals, and baselines without layers as bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from audio_ssl.evaluate.intervals import Interval
from audio_ssl.evaluate.report.charts import SIDE, Frame, Line, brief, down_of, frame_of, legend, plot, right_of, ticks
from audio_ssl.probe.scores import Score

NUM_STYLES = 4  # of curves, and as many of baselines


@dataclass(frozen=True)
class Reading:
    """A value with its 95 % interval, where there is one."""

    value: float
    interval: Interval | None = None

    @classmethod
    def of(cls, score: Score) -> Reading:
        """What a score says."""
        return cls(score.value, score.interval())

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; the value twice where there is none."""
        return (self.value, self.value) if self.interval is None else (self.interval.low, self.interval.high)


@dataclass(frozen=True)
class Curve:
    """A model.

    Attributes:
        label: for the legend.
        readings: of each layer, from 0.
    """

    label: str
    readings: Sequence[Reading]


@dataclass(frozen=True)
class Baseline:
    """Features that have no layers."""

    label: str
    reading: Reading


def layer_curves(
    title: str, curves: Sequence[Curve], baselines: Sequence[Baseline] = (), *, metric: str, higher_is_better: bool,
    is_share: bool = True,
) -> str:  # fmt: skip
    """HTML of a figure.

    Args:
        title: what is asked, such as the task's title.
        curves: of models with layers.
        baselines: drawn as bands over all layers.
        metric: of the values, for people: ``accuracy``.
        higher_is_better: which way it runs.
        is_share: values are shares and are shown in percent.

    Returns:
        The figure; nothing where no curve has a layer.
    """
    if not any(curve.readings for curve in curves):
        return ""
    scale, unit = (100.0, " %") if is_share else (1.0, "")
    lines = [
        Line(curve.label, [(n, scale * r.value) for n, r in enumerate(curve.readings)], f"g{i % NUM_STYLES}", True)
        for i, curve in enumerate(curves)
    ]
    readings = [r for curve in curves for r in curve.readings] + [b.reading for b in baselines]
    frame = frame_of(lines, include=[scale * end for r in readings for end in (r.value, *r.ends)])
    last = max((len(curve.readings) for curve in curves), default=1) - 1
    bands = [_band(b.reading, frame, scale=scale, style=f"b{i % NUM_STYLES}") for i, b in enumerate(baselines)]
    ribbons = [_ribbon(curve.readings, frame, scale=scale, style=line.style) for curve, line in zip(curves, lines)]  # noqa: B905
    picture = plot(
        lines, frame, label=_in_words(title, curves, baselines, metric=metric, scale=scale, unit=unit),
        x_label="layer", unit=unit, under="".join(bands + ribbons), x_at=_whole(last),
    )  # fmt: skip
    keys = [*lines, *(Line(b.label, [], f"b{i % NUM_STYLES}") for i, b in enumerate(baselines))]
    best = [_best(curve, higher_is_better=higher_is_better, scale=scale, unit=unit) for curve in curves]
    values = best + [f"{brief(scale * b.reading.value)}{unit}" for b in baselines]
    better = "higher" if higher_is_better else "lower"
    return (
        f'<figure class="layers" aria-label="{escape(title, quote=True)}"><h4>{escape(title)} '
        f'<span class="unit">{escape(metric)}, {better} is better</span></h4>{picture}{legend(keys, values)}'
        "<figcaption>Shaded: 95 % intervals. Features without layers are drawn across; layer 0 is what the first "
        "layer reads.</figcaption></figure>"
    )


def _best(curve: Curve, *, higher_is_better: bool, scale: float, unit: str) -> str:
    if not curve.readings:
        return ""
    sign = 1 if higher_is_better else -1
    layer, reading = max(enumerate(curve.readings), key=lambda pair: sign * pair[1].value)
    return f"best {brief(scale * reading.value)}{unit} at {layer}"


def _band(reading: Reading, frame: Frame, *, scale: float, style: str) -> str:
    low, high = (down_of(frame, scale * end) for end in reading.ends)
    at = down_of(frame, scale * reading.value)
    return (
        f'<g class="{style}"><path class="ribbon" d="M0 {high}H{SIDE:.0f}V{low}H0Z"/><path d="M0 {at}H{SIDE:.0f}"/></g>'
    )


def _ribbon(readings: Sequence[Reading], frame: Frame, *, scale: float, style: str) -> str:
    if len(readings) < 2 or all(r.interval is None for r in readings):
        return ""
    places = [right_of(frame, n) for n in range(len(readings))]
    high = [f"{x} {down_of(frame, scale * r.ends[1])}" for x, r in zip(places, readings, strict=True)]
    low = [f"{x} {down_of(frame, scale * r.ends[0])}" for x, r in zip(places, readings, strict=True)]
    return f'<g class="{style}"><path class="ribbon" d="M{"L".join(high + low[::-1])}Z"/></g>'


def _whole(last: int) -> list[float]:
    """Ticks at whole layers."""
    return [float(n) for n in range(last + 1)] if last <= 6 else [x for x in ticks(0.0, float(last)) if x.is_integer()]


def _in_words(
    title: str, curves: Sequence[Curve], baselines: Sequence[Baseline], *, metric: str, scale: float, unit: str
) -> str:
    """What the figure shows, for those who do not see it."""
    said = [
        f"{curve.label}: "
        + ", ".join(f"layer {n} {brief(scale * r.value)}{unit}" for n, r in enumerate(curve.readings))
        for curve in curves
    ]
    said += [f"{b.label}: {brief(scale * b.reading.value)}{unit}" for b in baselines]
    return f"{title}, {metric} by layer. {'; '.join(said)}."
