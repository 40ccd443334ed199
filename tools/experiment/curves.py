"""Curves of runs: when one reaches what another ended with, as a table, as rows, and in one picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import BenchError, Row
from experiment.training import CURVE, HEADER


@dataclass(frozen=True)
class Curve:
    """The points of a run.

    Attributes:
        label: name of its folder.
        system: who trained.
        points: rows of ``curve.jsonl`` with a finite loss.
        num_distractors: of its objective; chance is ln(K + 1).
    """

    label: str
    system: str
    points: tuple[dict[str, float], ...]
    num_distractors: int

    @property
    def last(self) -> dict[str, float]:
        """The newest point."""
        return self.points[-1]

    def values(self, name: str) -> list[float]:
        """One figure of all points."""
        return [point[name] for point in self.points]

    @property
    def minutes(self) -> list[float]:
        """On the clock, of all points."""
        return [elapsed / 60 for elapsed in self.values("elapsed_s")]


def read_curve(folder: Path) -> Curve:
    """The curve of a run's folder, complete or not.

    Raises:
        BenchError: it holds no run, or not one point.
    """
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        lines = (folder / CURVE).read_text(encoding="utf-8").splitlines()
        points = [json.loads(line) for line in lines]
        num_distractors = int(header["config"]["objective"]["num_distractors"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{folder} must be the --out of `quality.py train`: {error!r}") from error
    finite = tuple(point for point in points if math.isfinite(point["contrastive_loss"]))
    if not finite:
        raise BenchError(f"{folder / CURVE} must hold at least one point with a finite loss, it holds {len(points)}")
    return Curve(folder.resolve().name, str(header["system"]), finite, num_distractors)


def minutes_to_reach(target: float, *, minutes: Sequence[float], values: Sequence[float]) -> float | None:
    """When a curve first comes down to ``target``, on the straight line between its points; None when it never does."""
    for i, value in enumerate(values):
        if value <= target:
            if i == 0:
                return minutes[0]
            share = (values[i - 1] - target) / (values[i - 1] - value)
            return minutes[i - 1] + share * (minutes[i] - minutes[i - 1])
    return None


def named(curves: Sequence[Curve], label: str) -> Curve:
    """The curve of that label.

    Raises:
        BenchError: there is none, or two have the same.
    """
    labels = [curve.label for curve in curves]
    if len(set(labels)) < len(labels):
        raise BenchError(f"folders of runs must have different names, got {', '.join(labels)}")
    if label not in labels:
        raise BenchError(f"--reach must be the name of one of the runs, {', '.join(labels)}, got {label}")
    return curves[labels.index(label)]


def rows(curves: Sequence[Curve], reference: Curve) -> list[Row]:
    """Figures of each run, and where it gets there when it reached what the reference ended with.

    ``minutes_to_reach`` is of the loss, ``minutes_to_reach_accuracy`` of the accuracy; ``ratio_to_reach`` is the
    reference's whole time over ``minutes_to_reach``. Both figures flatter a codebook that collapses (distractors that
    equal the target do not count, and a frequent code is easily guessed): read ``code_perplexity`` beside them.
    """
    return [Row("quality", curve.label, *figure) for curve in curves for figure in _figures(curve, reference)]


def _figures(curve: Curve, reference: Curve) -> list[tuple[str, float, str]]:
    last, end = curve.last, reference.last
    figures = [
        ("minutes", curve.minutes[-1], "min"),
        ("updates", last["updates"], "updates"),
        ("audio_h", last["audio_h"], "h"),
        ("contrastive_loss", last["contrastive_loss"], "nats"),
        ("accuracy", last["accuracy"], "share"),
        ("code_perplexity", last["code_perplexity"], "codes"),
    ]
    errors = [1 - accuracy for accuracy in curve.values("accuracy")]
    losses = curve.values("contrastive_loss")
    by_loss = minutes_to_reach(end["contrastive_loss"], minutes=curve.minutes, values=losses)
    by_accuracy = minutes_to_reach(1 - end["accuracy"], minutes=curve.minutes, values=errors)
    if by_loss is not None:
        figures.append(("minutes_to_reach", by_loss, "min"))
        if by_loss > 0:
            figures.append(("ratio_to_reach", reference.minutes[-1] / by_loss, "ratio"))
    if by_accuracy is not None:
        figures.append(("minutes_to_reach_accuracy", by_accuracy, "min"))
    return figures


def plot(curves: Sequence[Curve], reference: Curve, path: Path) -> None:
    """Validation loss against training time and against audio heard, with the reference's last loss across."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    target = reference.last["contrastive_loss"]
    for axis, is_time in zip(axes, (True, False), strict=True):
        for curve in curves:
            label = f"{curve.label} ({curve.system})"
            spent = curve.minutes if is_time else curve.values("audio_h")
            axis.plot(spent, curve.values("contrastive_loss"), marker="o", markersize=3, label=label)
        axis.axhline(target, color="grey", linestyle="--", linewidth=1, label=f"{reference.label} at its end")
        axis.axhline(math.log(reference.num_distractors + 1), color="grey", linestyle=":", linewidth=1, label="chance")
        axis.set(xlabel="minutes of training, validation left out" if is_time else "hours of audio heard")
        axis.set_xlim(left=0)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set(ylabel="contrastive loss on unseen speakers, nats")
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
