"""The settings of a start, chosen on the validation speakers alone: a grid, or so many points drawn from it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w

from audio_ssl.checkpoint import write_text
from audio_ssl.rng import numpy_generator
from benchmarks.report import BenchError, note
from experiment.asr_curves import Curve, read_curve
from experiment.labels import Labels
from experiment.recognisers import SETTINGS, Asked, drop_held, train

TRIALS, BEST = "trials.json", "tuned.toml"


def grid(tried: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of ``section.key=[value, value ...]``, each as settings.

    Raises:
        BenchError: a word is no such list.
    """
    axes = []
    for word in tried:
        key, _, text = word.partition("=")
        try:
            values = tomllib.loads(f"values = {text}")["values"]
        except tomllib.TOMLDecodeError:
            values = None
        if not isinstance(values, list) or not values:
            raise BenchError(f"--try must read section.key=[value, value ...], got {word!r}")
        axes.append([f"{key.strip()}={_shown(value)}" for value in values])
    return list(product(*axes))


def _shown(value: Any) -> str:
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()


def drawn(points: Sequence[tuple[str, ...]], num: int | None, *, seed: int) -> list[tuple[str, ...]]:
    """So many of the points, in an order of chance that a larger number only goes on with; all without a number."""
    if num is None:
        return list(points)
    order = numpy_generator(seed, "asr tuning").permutation(len(points))[:num]
    return [points[i] for i in order]


def tune(asked: Asked, data: Labels, out: Path, *, points: Sequence[tuple[str, ...]]) -> Curve:
    """Make a run a point, those that are there are not made again, and keep the best one's settings.

    The best has the lowest character error rate on the validation speakers; ties go to the lower word error rate, then
    to the earlier point. ``tuned.toml`` is a configuration for further runs.

    Raises:
        BenchError: no point; or of a run.
    """
    if not points:
        raise BenchError("--try must be given at least once: there is nothing to choose from")
    curves = []
    for i, point in enumerate(points):
        folder = out / "trials" / f"{i:03d}"
        train(replace(asked, settings=(*asked.settings, *point)), data, folder)
        curves.append(read_curve(folder))
        _write(out, points, curves)
        note(f"trial {i + 1} of {len(points)}: CER {curves[-1].best.cer:.1%} on valid: {', '.join(point)}")
    return min(curves, key=lambda curve: (curve.best.cer, curve.best.wer))


def _write(out: Path, points: Sequence[tuple[str, ...]], curves: Sequence[Curve]) -> None:
    best = min(curves, key=lambda curve: (curve.best.cer, curve.best.wer))
    rows = [
        {"settings": list(point), "run": str(curve.folder), "valid_cer": curve.best.cer, "valid_wer": curve.best.wer,
         "best_update": curve.best.update, "updates": curve.updates, "minutes_spent": curve.minutes}
        for point, curve in zip(points, curves, strict=False)
    ]  # fmt: skip
    write_text(out / TRIALS, json.dumps(rows, indent=2) + "\n")
    values = tomllib.loads((best.folder / SETTINGS).read_text(encoding="utf-8"))
    drop_held(values)
    told = ", ".join(str(word) for word in rows[curves.index(best)]["settings"])  # type: ignore[attr-defined]
    remark = f"# Chosen on validation speakers, CER {best.best.cer:.2%}, of {len(curves)} trials: {told}\n\n"
    write_text(out / BEST, remark + tomli_w.dumps(values))
