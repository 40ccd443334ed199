"""The encoder without gradients, as inference runs it, beside the same encoder of the peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch.nn.functional import cosine_similarity

from audio_ssl.inference.models import Precision, Runtime
from audio_ssl.model.int8 import missing_for_int8
from benchmarks.candidates import open_systems
from benchmarks.cases import CPU, PRECISIONS, Case
from benchmarks.flops import forward_flops
from benchmarks.measure import Spread, gemm_peak, gemm_works, time_in_turn
from benchmarks.ours import Ours
from benchmarks.report import Row, note
from benchmarks.summary import best_ratio, named_works, peak_rows, share_row, speed_rows


def run(case: Case, *, peers: Sequence[str], repeats: int) -> list[Row]:
    """Rows of ``forward``.

    - ``audio_s_per_s`` of each candidate;
    - ``ratio_best_peer_fp32``, ``ratio_best_peer_bf16``: ours over the fastest peer in the same precision;
    - ``gemm_peak_fp32``, ``gemm_peak_bf16``: of this machine in this run;
    - ``share_of_peak_fp32``, ``share_of_peak_bf16`` of ours;
    - ``audio_s_per_s`` of ours in int8 (:mod:`audio_ssl.model.int8`) where the machine has its products; of bf16 and
      int8 ``error_*``, the largest difference from fp32 over its largest value, and ``cosine_*``, the mean cosine of a
      frame with its own in fp32.
    """
    systems = open_systems(case, peers, trains=False)
    names = [system.name for system in systems]
    works = named_works(systems, lambda system, precision: lambda: system.forward(precision))
    ours = cast(Ours, systems[0])
    reduced: list[Precision] = ["bf16"]
    if (missing := missing_for_int8()) is None:
        reduced.append("int8")
        works[f"{Ours.name} int8"] = lambda: ours.forward("int8")
    else:
        note(f"left out: int8: {missing}")
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
    return rows + _error_rows(case, ours, reduced)


@torch.inference_mode()
def _error_rows(case: Case, ours: Ours, precisions: Sequence[Precision]) -> list[Row]:
    exact = ours.encode(ours.batch)
    rows = []
    for precision in precisions:
        with Runtime(CPU, precision).autocast():
            frames = ours.encode(ours.batch).float()
        error = float((frames - exact).abs().max() / exact.abs().max())
        cosine = float(cosine_similarity(frames, exact, dim=-1).mean())
        rows.append(Row("forward", case.name, f"error_{precision}", error, "share"))
        rows.append(Row("forward", case.name, f"cosine_{precision}", cosine, "cosine"))
    return rows
