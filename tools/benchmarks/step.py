"""A whole update of pre-training: masks and distractors drawn, forward, backward, clip, AdamW, gradients cleared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from benchmarks.candidates import find_system, open_systems
from benchmarks.cases import PRECISIONS, Case
from benchmarks.errors import error_rows
from benchmarks.flops import step_flops
from benchmarks.measure import Spread, gemm_peak, gemm_works, time_in_turn
from benchmarks.memory import Ask, of_child
from benchmarks.ours import Ours
from benchmarks.peers import Transformers
from benchmarks.report import Row, note
from benchmarks.summary import best_ratio, named_works, peak_rows, share_row, speed_rows
from benchmarks.worker import workers


def run(case: Case, *, peers: Sequence[str], repeats: int, threads: int, peers_keep_memory: bool = False) -> list[Row]:
    """Rows of ``step``.

    Every candidate is a process of its own (:mod:`benchmarks.worker`). Ours keeps freed pages, as its training does;
    with ``peers_keep_memory`` the peers' processes do, too, and the ratios are named ``..._kept_memory``.

    - ``audio_s_per_s`` of each candidate: seconds of audio in the batch over the median time of an update;
    - ``ratio_best_peer``: our faster precision over the fastest peer's faster one, round by round;
    - ``ratio_transformers``: the same with transformers alone;
    - ``gemm_peak_fp32``, ``gemm_peak_bf16``: of this machine in this run;
    - ``share_of_peak`` of ours: the step's FLOPs (:mod:`benchmarks.flops`) over time and that precision's peak;
    - ``peak_memory_mib`` of each candidate: see :mod:`benchmarks.memory`;
    - ``memory_ratio``: ours in bf16 over transformers in bf16;
    - ``error_bf16_loss``, ``error_bf16_gradients`` of ours and transformers: see :mod:`benchmarks.errors`.
    """
    names, tensors = _same_models(case, peers)
    keep_memory_of = names if peers_keep_memory else [Ours.name]
    memory = _memory(case, names, threads, keep_memory_of=keep_memory_of)
    with workers(case.name, names, tensors, keep_memory_of=keep_memory_of, threads=threads) as candidates:
        works = named_works(candidates, lambda worker, precision: lambda: worker.step(precision))
        times = time_in_turn({**works, **gemm_works(case.gemm_shapes)}, repeats)
    rows = speed_rows("step", case, times, works)
    end = "_kept_memory" if peers_keep_memory else ""
    rows += best_ratio("step", case, times, metric=f"ratio_best_peer{end}", peers=names[1:])
    rows += best_ratio("step", case, times, metric=f"ratio_transformers{end}", peers=[Transformers.name])
    rows += peak_rows("step", case, times)
    flops = case.rows * step_flops(case.model, case.objective, case.num_samples)
    for precision in PRECISIONS:
        peak = gemm_peak(times, precision, case.gemm_shapes).median
        time_s = Spread.of(times[f"{Ours.name} {precision}"])
        place = ("step", f"{case.name}/{Ours.name} {precision}", "share_of_peak")
        rows.append(share_row(place, flops=flops, time_s=time_s, peak=peak))
    systems = [find_system(name) for name in names if name in (Ours.name, Transformers.name)]
    return rows + _memory_rows(case, memory) + error_rows(case, systems)


def _same_models(case: Case, peers: Sequence[str]) -> tuple[list[str], dict[str, Tensor]]:
    """Who takes part, and the weights with which they give the same frames."""
    systems = open_systems(case, peers, trains=True)
    return [system.name for system in systems], cast(Ours, systems[0]).tensors()


def _memory(case: Case, names: Sequence[str], threads: int, *, keep_memory_of: Sequence[str]) -> dict[str, float]:
    memory = {}
    for name in names:
        for precision in PRECISIONS:
            note(f"memory of {name} {precision}")
            ask = Ask(case.name, case.rows, case.seconds, name, precision, threads, name in keep_memory_of)
            memory[f"{name} {precision}"] = of_child(ask)
    return memory


def _memory_rows(case: Case, memory: dict[str, float]) -> list[Row]:
    rows = [Row("step", f"{case.name}/{name}", "peak_memory_mib", mib, "MiB") for name, mib in memory.items()]
    ours, theirs = f"{Ours.name} bf16", f"{Transformers.name} bf16"
    if theirs in memory:
        rows.append(Row("step", case.name, "memory_ratio", memory[ours] / memory[theirs], "ratio"))
    return rows
