"""What the number of different batch widths costs: bf16 updates on 20 batches around the case's width.

Twenty widths that all differ, against the same rounded up to quarters of a second, as the loader rounds them.
"""

from __future__ import annotations

import torch

from audio_ssl.rng import torch_generator
from benchmarks.cases import Case, noise
from benchmarks.measure import Spread, Work, speed_ratio, time_in_turn
from benchmarks.ours import Ours
from benchmarks.report import Row

NUM_WIDTHS = 20
_ALL, _ROUNDED = "every width another", "quarters of a second"


def run(case: Case, *, repeats: int) -> list[Row]:
    """Rows of ``widths``: ``sweep_s`` of the twenty updates, ``ratio_rounded`` for how much faster rounding is."""
    ours = Ours(case, trains=True)
    low, high = case.num_samples * 3 // 4, case.num_samples * 5 // 4
    widths = torch.randint(low, high, (NUM_WIDTHS,), generator=torch_generator(1, "widths")).tolist()

    def sweep(multiple: int) -> Work:
        batches = [noise(case.rows, -(-width // multiple) * multiple) for width in widths]

        def work() -> None:
            for batch in batches:
                ours.step("bf16", batch)

        return work

    works = {_ALL: sweep(1), _ROUNDED: sweep(case.model.sample_rate_hz // 4)}
    times = time_in_turn(works, repeats)
    rows = [Row.of(("widths", f"{case.name}/{name}", "sweep_s"), Spread.of(t), "s") for name, t in times.items()]
    ratio = speed_ratio(times[_ROUNDED], times[_ALL])
    return [*rows, Row.of(("widths", case.name, "ratio_rounded"), ratio, "ratio")]
