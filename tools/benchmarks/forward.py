"""The encoder without gradients, as inference runs it, beside the same encoder of the peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from benchmarks.candidates import open_systems
from benchmarks.cases import PRECISIONS, Case
from benchmarks.flops import forward_flops
from benchmarks.int8 import Int8, error_rows, is_available
from benchmarks.measure import Spread, gemm_peak, gemm_works, time_in_turn
from benchmarks.ours import Ours
from benchmarks.report import Row
from benchmarks.summary import best_ratio, named_works, peak_rows, share_row, speed_rows


def run(case: Case, *, peers: Sequence[str], repeats: int) -> list[Row]:
    """Rows of ``forward``.

    - ``audio_s_per_s`` of each candidate;
    - ``ratio_best_peer_fp32``, ``ratio_best_peer_bf16``: ours over the fastest peer in the same precision;
    - ``gemm_peak_fp32``, ``gemm_peak_bf16``: of this machine in this run;
    - ``share_of_peak_fp32``, ``share_of_peak_bf16`` of ours;
    - ``audio_s_per_s`` of ours in int8, and the errors of int8 and bf16: see :mod:`benchmarks.int8`.
    """
    systems = open_systems(case, peers, trains=False)
    names = [system.name for system in systems]
    works = named_works(systems, lambda system, precision: lambda: system.forward(precision))
    ours = cast(Ours, systems[0])
    int8 = Int8(ours) if is_available() else None
    if int8 is not None:
        works[int8.name] = lambda: int8.forward("bf16")
    times = time_in_turn({**works, **gemm_works(case.gemm_shapes)}, repeats)
    rows = speed_rows("forward", case, times, works)
    for precision in PRECISIONS:
        metric = f"ratio_best_peer_{precision}"
        rows += best_ratio("forward", case, times, metric=metric, peers=names[1:], precisions=(precision,))
    rows += peak_rows("forward", case, times)
    flops = case.rows * forward_flops(case.model, case.num_samples).total
    for precision in PRECISIONS:
        peak = gemm_peak(times, precision, case.gemm_shapes).median
        time_s = Spread.of(times[f"{Ours.name} {precision}"])
        place = ("forward", case.name, f"share_of_peak_{precision}")
        rows.append(share_row(place, flops=flops, time_s=time_s, peak=peak))
    return rows + (error_rows(case, ours, int8) if int8 is not None else [])
