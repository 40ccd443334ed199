"""How recognisers came where they are: error rates on the validation speakers against the budget that was spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import BenchError
from experiment.labels import AMOUNTS
from experiment.recognisers import STARTS, all_rows, read_header, speed_key

COLOURS = {"pretrained": "tab:blue", "random": "tab:orange"}
WAYS = {"pretrained": "-", "random": "--"}


@dataclass(frozen=True)
class Point:
    """A validation.

    Attributes:
        update: after how many updates.
        minutes: on the budget's clock, by then.
        cer: character error rate.
        wer: word error rate.
    """

    update: int
    minutes: float
    cer: float
    wer: float


@dataclass(frozen=True)
class Curve:
    """A run's validations.

    Attributes:
        folder: of the run.
        header: what was asked for.
        points: in order, at least one.
        minutes: spent in updates so far.
        updates: done so far.
    """

    folder: Path
    header: dict[str, Any]
    points: tuple[Point, ...]
    minutes: float
    updates: int

    @property
    def best(self) -> Point:
        """The first validation with the lowest character error rate: the model that is kept."""
        return min(self.points, key=lambda point: (point.cer, point.update))

    @property
    def cell(self) -> tuple[str, str]:
        """Labels and start."""
        return str(self.header["labels"]), str(self.header["start"])


def read_curve(folder: Path) -> Curve:
    """The curve of a run's folder, complete or not.

    Raises:
        BenchError: it holds no run, or not one validation.
    """
    header, points = read_header(folder), list[Point]()
    key, spent_s, done, pending = speed_key(str(header["device"])), 0.0, 0, 0
    for row in all_rows(folder):
        if row["split"] == "train":
            # the row after the first update of a process has no speed: its updates took what the next row's did
            num = row["update"] - done + pending
            pending = num if row.get(key) is None else 0
            spent_s += 0.0 if pending else num * row[key]
            done = row["update"]
        elif row["split"] == "valid":
            points.append(Point(row["update"], spent_s / 60, row["cer"], row["wer"]))
    if not points:
        raise BenchError(
            f"{folder} must hold a run with a validation at least; go on with it, or set run.validate_every"
        )
    return Curve(folder, header, tuple(points), spent_s / 60, done)


def by_cell(curves: Sequence[Curve]) -> dict[tuple[str, str], list[Curve]]:
    """Curves of equal labels and start, in the order of both, each by its seed.

    Raises:
        BenchError: two runs of a cell have the same seed.
    """
    cells: dict[tuple[str, str], list[Curve]] = {}
    for curve in sorted(curves, key=_place):
        cells.setdefault(curve.cell, []).append(curve)
    for (labels, start), own in cells.items():
        seeds = [curve.header["seed"] for curve in own]
        if len(set(seeds)) < len(seeds):
            names = ", ".join(str(curve.folder) for curve in own)
            raise BenchError(f"runs of {labels} of labels from {start} must have different seeds, got {seeds}: {names}")
    return cells


def _place(curve: Curve) -> tuple[int, int, int]:
    labels, start = curve.cell
    return list(AMOUNTS).index(labels), [*STARTS].index(start), int(curve.header["seed"])  # type: ignore[arg-type]


def plot(curves: Sequence[Curve], path: Path) -> None:
    """A panel an amount of labels; a line a run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cells = by_cell(curves)
    amounts = list(dict.fromkeys(labels for labels, _ in cells))
    figure, axes = plt.subplots(
        1, len(amounts), figsize=(1 + 3.6 * len(amounts), 4), layout="constrained", sharey=True, squeeze=False
    )
    for axis, labels in zip(axes[0], amounts, strict=True):
        for start in STARTS:
            for i, curve in enumerate(cells.get((labels, start), [])):
                axis.plot(
                    [point.minutes for point in curve.points], [100 * point.cer for point in curve.points],
                    color=COLOURS[start], linestyle=WAYS[start], linewidth=1.2, marker=".", markersize=3,
                    label=None if i else f"{start} (seeds: {len(cells[labels, start])})",
                )  # fmt: skip
        axis.set(title=f"{labels} of labels", xlabel=f"minutes of {_clock(curves)} in updates")
        axis.set_xlim(left=0)
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=8)
    axes[0][0].set(ylabel="character error rate, validation speakers, %")
    axes[0][0].set_ylim(0, 105)  # more is nothing but insertions of the first updates
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _clock(curves: Sequence[Curve]) -> str:
    return "real time" if curves[0].header["device"] == "cuda" else "processor time"
