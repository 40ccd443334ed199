"""An update and a forward pass in bf16 on this machine's GPU, beside the peers', as their users run them.

Host and device work side by side there, so a work is several updates that end with a wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch

from audio_ssl.model.compiling import compile_blocks
from audio_ssl.model.encoder import Encoder
from benchmarks.candidates import open_systems
from benchmarks.cases import Case
from benchmarks.flops import forward_flops, step_flops
from benchmarks.measure import Spread, Times, Work, time_in_turn
from benchmarks.ours import Ours
from benchmarks.report import BenchError, Row
from benchmarks.summary import best_ratio, share_row, speed_rows
from benchmarks.system import System

NUM_REPEATED = 5  # updates or passes that one timing holds
PRODUCT = 8192  # rows and columns of the product that the GPU's peak is taken from
COMPILED = "compiled"  # ours, blocks by torch.compile


def find_gpu() -> torch.device:
    """The GPU.

    Raises:
        BenchError: there is none.
    """
    if not torch.cuda.is_available():
        raise BenchError("`gpu` needs a CUDA device, and torch finds none here")
    return torch.device("cuda")


def run(case: Case, *, peers: Sequence[str], repeats: int, device: torch.device) -> list[Row]:
    """Rows of ``gpu``, of an update and of the encoder in inference.

    - ``audio_s_per_s`` of each candidate; ``compiled`` is ours with compiled blocks, which inference does not have;
    - ``ratio_best_peer``: ours, not compiled, over the fastest peer, round by round;
    - ``gemm_peak``: of this GPU in this run, a product of 8192 x 8192 x 8192;
    - ``share_of_peak`` of ours;
    - ``memory`` of each candidate: what a work has allocated at most beside the weights of all.
    """
    torch.backends.cudnn.allow_tf32 = False  # so that models can be compared; bf16 does not ask for it
    return _rows(case, peers, repeats, device, trains=True) + _rows(case, peers, repeats, device, trains=False)


def _rows(case: Case, peers: Sequence[str], repeats: int, device: torch.device, *, trains: bool) -> list[Row]:
    systems = open_systems(case, peers, trains=trains, device=device)
    works = {f"{system.name} bf16": _repeated(_work(system), device) for system in systems}
    if trains and device.type == "cuda":
        compiled = Ours(case, trains=True, device=device)
        compile_blocks(cast(Encoder, compiled.encoder))
        works[f"{Ours.name} bf16 {COMPILED}"] = _repeated(_work(compiled), device)
    memory = {name: _memory(work, device) for name, work in works.items()}
    works_and_product = {**works, "product": _product(device)}
    times = time_in_turn(works_and_product, repeats)
    times = {name: tuple(seconds / NUM_REPEATED for seconds in values) for name, values in times.items()}
    if trains:
        flops = step_flops(case.model, case.objective, case.num_samples)
    else:
        flops = forward_flops(case.model, case.num_samples).total
    case = replace(case, name=f"{case.label} {'step' if trains else 'forward'}")
    return _tell(case, times, memory, flops=case.rows * flops, peers=[system.name for system in systems[1:]])


def _tell(case: Case, times: Times, memory: dict[str, float], *, flops: float, peers: Sequence[str]) -> list[Row]:
    bench = "gpu"
    rows = speed_rows(bench, case, times, memory)
    rows += best_ratio(bench, case, times, metric="ratio_best_peer", peers=peers, precisions=("bf16",))
    peak = Spread.of(2e-9 * PRODUCT**3 / seconds for seconds in times["product"])
    rows.append(Row.of((bench, case.name, "gemm_peak"), peak, "GFLOP/s"))
    for name in memory:
        if name.startswith(Ours.name):
            place = (bench, f"{case.name}/{name}", "share_of_peak")
            rows.append(share_row(place, flops=flops, time_s=Spread.of(times[name]), peak=peak.median))
    return rows + [Row(bench, f"{case.name}/{name}", "memory", gib, "GiB") for name, gib in memory.items()]


def _work(system: System) -> Callable[[], None]:
    return (lambda: system.step("bf16")) if system.trains else (lambda: system.forward("bf16"))


def _repeated(work: Callable[[], object], device: torch.device) -> Work:
    def repeated() -> None:
        for _ in range(NUM_REPEATED):
            work()
        _wait(device)

    return repeated


def _product(device: torch.device) -> Work:
    size = PRODUCT if device.type == "cuda" else 64
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return _repeated(lambda: a @ b, device)


def _memory(work: Work, device: torch.device) -> float:
    """GiB allocated at most, less what was there before; the first run, which prepares kernels, does not count."""
    work()
    if device.type != "cuda":
        return 0.0
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
