"""Compare AdamW and Muon on real speech: at equal updates and at equal processor time, over seeds.

usage:
    python tools/quality.py data  --corpora "$AUDIO_SSL_CORPORA" --out OUT/data
    python tools/optimizers.py --data OUT/data --out OUT [--audio-hours 1.5] [--seeds 3] [--config pretrain/conv_tiny]

Each optimizer first finds its own learning rate, with two seeds that are not used again, by the accuracy on the
speakers of `valid`: three rates a factor of two apart, and further ones on the better side for as long as an end of
the list is best. Accuracy flatters a codebook that collapses (few codes are easily guessed), so a run that ends with
less than a quarter of the codes in use counts as one that knows nothing, and its rate is not tried further. With its
rate each optimizer trains once a seed, and is measured on the speakers of `test`, whom nobody has heard or tuned on.
Equal updates: the same audio in the same batches, with the same masks and distractors. Equal time: Muon again, for
the processor time that AdamW of that seed took, its schedule brought to its end in that time. Time is that of the
process, so another program on the machine takes no part; validation is left out. The interval is Student's t, 95 %,
over the seeds' differences.

Runs that are there are not made again: a comparison that was stopped goes on with the same command. About 40 minutes
of one processor by default.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.errors import AudioSSLError
from benchmarks.measure import pin
from benchmarks.report import BenchError, note
from experiment import training
from experiment.budget import Budget, TrainingClock
from experiment.corpora import Prepared
from experiment.curves import read_curve
from experiment.digits import t_interval

OPTIMIZERS = ("adamw", "muon")
FIRST_RATES = (5e-4, 1e-3, 2e-3)
MOST_RATES = 6  # that are tried of one optimizer
TUNING_SEEDS = (1000, 1001)
LEAST_CODES = 0.25  # of all that there are: with fewer in use a codebook counts as collapsed
FIGURES = ("contrastive_loss", "accuracy", "code_perplexity")
Point = dict[str, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Where runs are made, and what they share.

    Attributes:
        data: manifests of the split.
        out: a folder a run is made here.
        config: name of the configuration.
        audio_hours: budget of a run at equal updates.
    """

    data: Prepared
    out: Path
    config: str
    audio_hours: float

    @property
    def num_codes(self) -> int:
        """That a quantizer has, all groups together."""
        words = ["data.train=['x']", "run.dir='x'"]
        objective = load_config(PretrainConfig, find_config(self.config), words).objective
        return objective.num_groups * objective.num_entries

    def end_of(self, name: str, optimizer: str, lr: float, *, seed: int, split: str, budget: Budget) -> Point:
        """The last point of a run, which is made unless it is there."""
        place = self.out / name
        if not place.is_dir():
            draft = self.out / f"{name}.part"
            shutil.rmtree(draft, ignore_errors=True)
            words = [
                f"data.train=['{self.data.unlabelled}']", f"data.valid=['{self.data.part(split)}']",
                "data.num_workers=1", f"run.dir='{draft}'", f"run.seed={seed}",
                f"optim.optimizer={optimizer}", f"optim.lr={lr!r}",
            ]  # fmt: skip
            config = load_config(PretrainConfig, find_config(self.config), words)
            note(f"{name}:")
            asked = training.Run("audio_ssl", config, budget, num_points=1)
            training.run(asked, draft, clock=TrainingClock(time.process_time))
            draft.rename(place)
        return read_curve(place).last

    def tune(self, optimizer: str) -> float:
        """The learning rate of an optimizer."""
        budget = Budget(self.audio_hours, "audio hours")

        def error(lr: float) -> float:
            errors = []
            for seed in TUNING_SEEDS:
                name = f"tune_{optimizer}_{lr:g}_seed{seed}"
                end = self.end_of(name, optimizer, lr, seed=seed, split="valid", budget=budget)
                if end["code_perplexity"] < LEAST_CODES * self.num_codes:
                    return 1.0
                errors.append(1 - end["accuracy"])
            return math.fsum(errors) / len(errors)

        errors = search(error)
        said = ", ".join(f"{lr:g}: {1 - errors[lr]:.4f}" for lr in sorted(errors))
        best = min(errors, key=errors.__getitem__)
        note(f"{optimizer}: optim.lr {best:g} (accuracy on valid by rate: {said})")
        return best

    def at_equal_updates(self, optimizer: str, lr: float, seed: int) -> Point:
        """The end of a run on test."""
        name, budget = f"{optimizer}_{lr:g}_seed{seed}", Budget(self.audio_hours, "audio hours")
        return self.end_of(name, optimizer, lr, seed=seed, split="test", budget=budget)

    def at_equal_time(self, lr: float, seed: int, seconds: float) -> Point:
        """The end on test of a run of Muon for so many seconds of processor time."""
        name, budget = f"muon_time_{lr:g}_seed{seed}", Budget(seconds / 60)
        return self.end_of(name, "muon", lr, seed=seed, split="test", budget=budget)


def search(error: Callable[[float], float]) -> dict[float, float]:
    """Errors of learning rates: of :data:`FIRST_RATES`, and beyond an end of the list for as long as it is best."""
    errors = {lr: error(lr) for lr in FIRST_RATES}
    while len(errors) < MOST_RATES:
        best = min(errors, key=errors.__getitem__)
        if best not in (min(errors), max(errors)):
            break
        further = best / 2 if best == min(errors) else best * 2
        errors[further] = error(further)
    return errors


def measure(comparison: Comparison, rates: dict[str, float], num_seeds: int) -> dict[int, dict[str, Point]]:
    """Each seed's runs on test: ``adamw``, ``muon`` at equal updates, ``muon_time`` at equal time."""
    seeds = range(1, num_seeds + 1)
    ends = {seed: {name: comparison.at_equal_updates(name, rates[name], seed) for name in OPTIMIZERS} for seed in seeds}
    for seed in seeds:
        seconds = ends[seed]["adamw"]["elapsed_s"]
        ends[seed]["muon_time"] = comparison.at_equal_time(rates["muon"], seed, seconds)
    return ends


def summary(ends: dict[int, dict[str, Point]]) -> list[Row]:
    """A row a comparison and figure: means over seeds, and the mean difference to AdamW with its interval."""
    rows: list[Row] = []
    for name, comparison in (("muon", "equal updates"), ("muon_time", "equal processor time")):
        for figure in FIGURES:
            pairs = [(seed["adamw"][figure], seed[name][figure]) for seed in ends.values()]
            differences = [ours - theirs for theirs, ours in pairs]
            low, high = t_interval(differences)
            means = (math.fsum(values) / len(pairs) for values in zip(*pairs, strict=True))
            rows.append(
                {"comparison": comparison, "figure": figure, "seeds": len(pairs)}
                | dict(zip(("adamw", "muon"), means, strict=True))
                | {"difference": math.fsum(differences) / len(pairs), "low": low, "high": high}
            )
    return rows


def run(comparison: Comparison, num_seeds: int) -> None:
    """Tune, train and tell; ``comparison.json`` holds the rows and every seed's figures."""
    rates = {optimizer: comparison.tune(optimizer) for optimizer in OPTIMIZERS}
    ends = measure(comparison, rates, num_seeds)
    rows = summary(ends)
    for row in rows:
        print(
            "{comparison}, {figure}: AdamW {adamw:.4f}, Muon {muon:.4f}, difference {difference:+.4f} "
            "({low:+.4f} to {high:+.4f}), {seeds} seeds".format(**row)
        )
    for name in (*OPTIMIZERS, "muon_time"):
        points = [seed[name] for seed in ends.values()]
        updates, seconds = (math.fsum(p[key] for p in points) / len(points) for key in ("updates", "elapsed_s"))
        print(f"{name}: {updates:.0f} updates, {seconds:.0f} s of processor time, {seconds / updates:.3f} s an update")
    document = {"rates": rates, "rows": rows, "ends": ends}
    (comparison.out / "comparison.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main(words: list[str] | None = None) -> int:
    """Do what is asked for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what `quality.py data` made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="pretrain/conv_tiny", help="as `audio-ssl pretrain` takes it")
    parser.add_argument("--audio-hours", type=float, default=1.5, help="that a run hears")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(words)
    warnings.simplefilter("ignore")
    pin(1, keep_kernels=True)
    try:
        data = Prepared(arguments.data).check()
        run(Comparison(data, arguments.out, arguments.config, arguments.audio_hours), arguments.seeds)
    except (BenchError, AudioSSLError) as error:
        note(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
