"""Times that can be compared: candidates take turns, and ratios are taken within a round.

On a machine with other work two programs timed one after the other are timed under different load. Here every round
runs each candidate once (A B C, A B C, ...), and a ratio is the median over rounds of the ratio within a round: slow
drift of the machine takes part in both of its sides.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from audio_ssl.model.kernels import FrozenLinear
from audio_ssl.train.run import CPU_KERNELS_KEPT

Work = Callable[[], object]
Times = dict[str, tuple[float, ...]]
_PACKED = " packed"
NUM_PRODUCTS = 3  # that one timing of the machine's peak holds: the first finds the caches of the work before


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles (linear between neighbouring values, as numpy's)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        low, median, high = np.percentile(np.asarray(list(values), dtype=np.float64), (25, 50, 75)).tolist()
        return cls(median, low, high)


def pin(threads: int, *, keep_kernels: bool) -> None:
    """Fix what a process may use; to be called before anything is computed.

    Args:
        threads: of torch, and as many of the processors that this process may use, where the system can be told.
        keep_kernels: keep every kernel prepared for a shape, as training does (for all candidates alike).
    """
    if keep_kernels:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", CPU_KERNELS_KEPT)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)


def time_in_turn(works: Mapping[str, Work], rounds: int) -> Times:
    """Seconds of every work in every round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            gc.collect()  # not in the midst of somebody's turn
            started = time.perf_counter()
            work()
            if i:
                times[name].append(time.perf_counter() - started)
    return {name: tuple(values) for name, values in times.items()}


def speed_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times as fast as theirs: their seconds over ours, round by round."""
    return Spread.of(b / a for a, b in zip(ours, theirs, strict=True))


def fastest(times: Times, names: Iterable[str]) -> str | None:
    """The name with the lowest median; None of none."""
    return min(names, key=lambda name: Spread.of(times[name]).median, default=None)


def gemm_works(shapes: Sequence[tuple[int, int, int]]) -> dict[str, Work]:
    """The machine's own matrix products, to be timed among the candidates: ``gemm bf16 2048x2048x2048``.

    Each as ``torch.mm`` and with a factor laid out beforehand (`` packed``): in float32 these are two libraries.
    """
    works: dict[str, Work] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for m, k, n in shapes:
            a, b, out = (torch.ones(*shape, dtype=dtype) for shape in ((m, k), (k, n), (m, n)))
            name = _gemm_name(precision, (m, k, n))
            works[name] = _repeated(partial(torch.mm, a, b, out=out))
            works[name + _PACKED] = _repeated(partial(FrozenLinear(nn.Linear(k, n, bias=False, dtype=dtype)), a))
    return works


def gemm_peak(times: Times, precision: str, shapes: Sequence[tuple[int, int, int]]) -> Spread:
    """GFLOP/s of the product with the highest median, a multiplication and an addition counted as 2."""
    speeds = []
    for shape in shapes:
        gflop = 2e-9 * NUM_PRODUCTS * shape[0] * shape[1] * shape[2]
        name = _gemm_name(precision, shape)
        speeds += [Spread.of(gflop / seconds for seconds in times[n]) for n in (name, name + _PACKED) if n in times]
    return max(speeds, key=lambda speed: speed.median)


def _gemm_name(precision: str, shape: tuple[int, int, int]) -> str:
    return f"gemm {precision} " + "x".join(map(str, shape))


def _repeated(product: Work) -> Work:
    @torch.inference_mode()
    def work() -> None:
        for _ in range(NUM_PRODUCTS):
            product()

    return work
