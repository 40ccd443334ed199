"""How our step grows: its time with the audio and with the model, its memory with the batch; ours only.

In the precision that training would choose on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_ssl.train.precision import resolve_precision
from benchmarks.cases import CASES, CPU, Case
from benchmarks.flops import step_flops
from benchmarks.growth import Growth, exponent, with_audio, with_batch, with_model
from benchmarks.measure import Spread, time_in_turn
from benchmarks.memory import Ask, of_child
from benchmarks.ours import Ours
from benchmarks.report import Row, note

LENGTHS = (0.25, 0.5, 1.0, 2.0)  # of the case's seconds a row
ROWS = (1, 2, 4, 8)
MODEL_SECONDS = 5.0  # one row of it for every model
SMOKE_SECONDS = 0.5

Law = Callable[[Sequence[float], Sequence[float]], Growth]


@dataclass(frozen=True)
class Point:
    """A row on a curve.

    Attributes:
        curve: what the axis below means.
        at: where on it.
        row: the figure.
        law: which law of growth it should follow.
        flops: of the step's arithmetic; 0 where the figure is no time.
    """

    curve: str
    at: float
    row: Row
    law: Law
    flops: float = 0.0


def run(case: Case, *, repeats: int, threads: int) -> list[Point]:
    """``step_s`` against seconds a row and against parameters, ``peak_memory_mib`` against rows."""
    precision = resolve_precision("auto", CPU)
    points = _over_seconds(case, precision, repeats)
    points += _over_models(_models(case), precision, repeats)
    return points + _over_rows(case, precision, threads)


def _over_seconds(case: Case, precision: str, repeats: int) -> list[Point]:
    sizes = [case.of_size(rows=case.rows, seconds=case.seconds * factor) for factor in LENGTHS]
    ours = Ours(case, trains=True)
    batches = {size.label: size.batch() for size in sizes}
    works = {label: lambda b=batch: ours.step(precision, b) for label, batch in batches.items()}
    times = time_in_turn(works, repeats)
    curve = f"seconds a row, {case.name}, {case.rows} rows, {precision}"
    return [
        Point(curve, size.seconds, _step_row(size.label, times[size.label]), with_audio, _flops(size)) for size in sizes
    ]


def _models(case: Case) -> list[Case]:
    if case.name == "smoke":
        return [case.of_size(rows=1, seconds=SMOKE_SECONDS)]
    return [c.of_size(rows=1, seconds=MODEL_SECONDS) for c in CASES.values() if c.name != "smoke"]


def _over_models(models: Sequence[Case], precision: str, repeats: int) -> list[Point]:
    points = [_of_model(model, precision, repeats) for model in models]
    return sorted(points, key=lambda point: point.at)


def _of_model(model: Case, precision: str, repeats: int) -> Point:
    """One model at a time: all of them together need more memory than a small machine has."""
    note(f"step of {model.label}")
    ours = Ours(model, trains=True)
    times = time_in_turn({model.label: lambda: ours.step(precision)}, repeats)
    millions = sum(p.numel() for p in ours.module.parameters()) / 1e6
    curve = f"millions of parameters, 1 x {model.seconds:g} s, {precision}"
    return Point(curve, millions, _step_row(model.label, times[model.label]), with_model, _flops(model))


def _over_rows(case: Case, precision: str, threads: int) -> list[Point]:
    points = []
    for num_rows in ROWS:
        size = case.of_size(rows=num_rows, seconds=case.seconds)
        note(f"memory of {size.label}")
        ask = Ask(case.name, num_rows, case.seconds, Ours.name, precision, threads)
        row = Row("scale", size.label, "peak_memory_mib", of_child(ask), "MiB")
        points.append(Point(f"rows of {case.seconds:g} s, {case.name}, {precision}", num_rows, row, with_batch))
    return points


def _flops(case: Case) -> float:
    return case.rows * step_flops(case.model, case.objective, case.num_samples)


def _step_row(label: str, times: Sequence[float]) -> Row:
    return Row.of(("scale", label, "step_s"), Spread.of(times), "s")


def growth_rows(points: Sequence[Point]) -> list[Row]:
    """What the laws say, under the curve's name.

    - over seconds: ``linear_s`` and ``quadratic_s``, the coefficients; ``quadratic_share`` of the longest step;
    - over rows: ``fixed_mib``, ``per_row_mib``;
    - over seconds and over models: ``growth_exponent`` of the time, and ``arithmetic_exponent`` of the step's FLOPs.
    """
    rows = []
    for curve, on_curve in _by_curve(points).items():
        found = _growth(on_curve).figures
        rows += [Row("scale", curve, metric, value, unit) for metric, (value, unit) in found.items()]
        if all(point.flops for point in on_curve):
            power = exponent([point.at for point in on_curve], [point.flops for point in on_curve])
            rows.append(Row("scale", curve, "arithmetic_exponent", power, "exponent"))
    return rows


def _by_curve(points: Sequence[Point]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for point in points:
        curves.setdefault(point.curve, []).append(point)
    return curves


def _growth(on_curve: Sequence[Point]) -> Growth:
    return on_curve[0].law([point.at for point in on_curve], [point.row.value for point in on_curve])


def plot(points: Sequence[Point], path: Path) -> None:
    """A picture with one panel a curve: what was measured, quartiles as bars, and the law fitted to it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    curves = _by_curve(points)
    figure, axes = plt.subplots(1, len(curves), figsize=(4.5 * len(curves), 3.6), layout="constrained", squeeze=False)
    for axis, (curve, on_curve) in zip(axes[0], curves.items(), strict=True):
        at, values = [point.at for point in on_curve], [point.row.value for point in on_curve]
        spreads = [point.row.spread or (point.row.value, point.row.value) for point in on_curve]
        below = [value - low for value, (low, _) in zip(values, spreads, strict=True)]
        above = [high - value for value, (_, high) in zip(values, spreads, strict=True)]
        axis.errorbar(at, values, yerr=(below, above), marker="o", capsize=3, linestyle="none", label="measured")
        law, places = _growth(on_curve), np.linspace(min(at), max(at), 100)
        axis.plot(places, [law.at(float(place)) for place in places], label=law.formula)
        row = on_curve[0].row
        name = {"step_s": "time of an update", "peak_memory_mib": "peak memory"}[row.metric]
        axis.set(xlabel=curve, ylabel=f"{name}, {row.unit}", ylim=(0, None), xlim=(0, None))
        axis.grid(visible=True, alpha=0.3)
        axis.legend(loc="upper left", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
