"""A whole update of pre-training: masks and distractors drawn, forward, backward, clip, AdamW, gradients cleared."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.candidates import open_systems
from benchmarks.cases import PRECISIONS, Case
from benchmarks.flops import step_flops
from benchmarks.measure import Spread, gemm_peak, gemm_works, time_in_turn
from benchmarks.memory import Ask, of_child
from benchmarks.ours import Ours
from benchmarks.peers import Transformers
from benchmarks.report import Row, note
from benchmarks.summary import best_ratio, named_works, peak_rows, share_row, speed_rows


def run(case: Case, *, peers: Sequence[str], repeats: int, threads: int) -> list[Row]:
    """Rows of ``step``.

    - ``audio_s_per_s`` of each candidate: seconds of audio in the batch over the median time of an update;
    - ``ratio_best_peer``: our faster precision over the fastest peer's faster one, round by round;
    - ``ratio_transformers``: the same with transformers alone;
    - ``gemm_peak_fp32``, ``gemm_peak_bf16``: of this machine in this run;
    - ``share_of_peak`` of ours: the step's FLOPs (:mod:`benchmarks.flops`) over time and that precision's peak;
    - ``peak_memory_mib`` of each candidate: see :mod:`benchmarks.memory`;
    - ``memory_ratio``: ours in bf16 over transformers in bf16.
    """
    systems = open_systems(case, peers, trains=True)
    names = [system.name for system in systems]
    memory = _memory(case, names, threads)
    works = named_works(systems, lambda system, precision: lambda: system.step(precision))
    times = time_in_turn({**works, **gemm_works(case.gemm_shapes)}, repeats)
    rows = speed_rows("step", case, times, works)
    rows += best_ratio("step", case, times, metric="ratio_best_peer", peers=names[1:])
    rows += best_ratio("step", case, times, metric="ratio_transformers", peers=[Transformers.name])
    rows += peak_rows("step", case, times)
    flops = case.rows * step_flops(case.model, case.objective, case.num_samples)
    for precision in PRECISIONS:
        peak = gemm_peak(times, precision, case.gemm_shapes).median
        time_s = Spread.of(times[f"{Ours.name} {precision}"])
        place = ("step", f"{case.name}/{Ours.name} {precision}", "share_of_peak")
        rows.append(share_row(place, flops=flops, time_s=time_s, peak=peak))
    return rows + _memory_rows(case, memory)


def _memory(case: Case, names: Sequence[str], threads: int) -> dict[str, float]:
    memory = {}
    for name in names:
        for precision in PRECISIONS:
            note(f"memory of {name} {precision}")
            ask = Ask(case.name, case.rows, case.seconds, name, precision, threads)
            memory[f"{name} {precision}"] = of_child(ask)
    return memory


def _memory_rows(case: Case, memory: dict[str, float]) -> list[Row]:
    rows = [Row("step", f"{case.name}/{name}", "peak_memory_mib", mib, "MiB") for name, mib in memory.items()]
    ours, theirs = f"{Ours.name} bf16", f"{Transformers.name} bf16"
    if theirs in memory:
        rows.append(Row("step", case.name, "memory_ratio", memory[ours] / memory[theirs], "ratio"))
    return rows
