"""How fast updates are and what memory they take, beside what the roofline expects."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from audio_ssl.model.compiling import compile_blocks
from benchmarks.cases import Case
from benchmarks.flops import step_flops
from benchmarks.roofline import expect, find_gpu
from gpu.outcome import CheckSkipped, Figures
from gpu.place import Place, Trainer, pretrain_module

NUM_BEFORE, NUM_TIMED = 5, 20


def of_preset(preset: str, *, rows: int, seconds: float) -> Callable[[Place], Figures]:
    """The measurement of a preset at a size of batch."""

    def check(place: Place) -> Figures:
        """Audio-seconds a second, share of the bf16 peak and memory of updates, plain and compiled."""
        dropouts = {"dropout": 0.1, "attention_dropout": 0.1}
        case = place.case(preset, rows=rows, seconds=seconds, **dropouts)
        figures = measure(case, place, is_compiled=False)
        if place.is_gpu:
            figures |= measure(case, place, is_compiled=True)
        return figures

    return check


def measure(case: Case, place: Place, *, is_compiled: bool) -> Figures:
    """Time bf16 updates as the loop runs them.

    Raises:
        CheckSkipped: the batch does not fit the GPU's memory.
    """
    module = pretrain_module(case)
    if is_compiled:
        compile_blocks(module.encoder)
    trainer, batches = Trainer(module, place, "bf16"), (case.batch(),)
    try:
        update_s, peak_gib = _timed(partial(trainer.update, batches), place)
    except torch.OutOfMemoryError:
        raise CheckSkipped(f"{case.label} does not fit the memory of this GPU") from None
    finally:
        del trainer, module
        if place.is_gpu:
            torch.cuda.empty_cache()
    return _told(case, place, update_s, peak_gib, is_compiled=is_compiled)


def _timed(update: Callable[[], object], place: Place) -> tuple[float, float]:
    """Seconds of an update, and GiB allocated at most."""
    repeats = NUM_TIMED if place.is_gpu else 1
    for _ in range(NUM_BEFORE if place.is_gpu else 1):
        update()
    place.synchronize()
    if place.is_gpu:
        torch.cuda.reset_peak_memory_stats(place.device)
    started = time.perf_counter()
    for _ in range(repeats):
        update()
    place.synchronize()
    elapsed = (time.perf_counter() - started) / repeats
    return elapsed, torch.cuda.max_memory_allocated(place.device) / 2**30 if place.is_gpu else 0.0


def _told(case: Case, place: Place, update_s: float, peak_gib: float, *, is_compiled: bool) -> Figures:
    end = "_compiled" if is_compiled else ""
    if not place.is_gpu:
        return {"update": "ran; a CPU is not measured here"}
    figures: Figures = {
        "batch": case.label, f"audio_s_per_s{end}": case.audio_s / update_s, f"update_ms{end}": 1e3 * update_s,
        f"peak_gib{end}": peak_gib,
    }  # fmt: skip
    gpu = find_gpu(torch.cuda.get_device_name(place.device))
    if gpu is None:
        return figures | {"on_paper": "nothing for this GPU"}
    paper = expect(case, gpu, is_compiled=is_compiled)
    flops = case.rows * step_flops(case.model, case.objective, case.num_samples)
    return figures | {
        f"share_of_peak{end}": flops / update_s / gpu.bf16,
        f"paper_audio_s_per_s{end}": paper.audio_s_per_s, f"paper_share_of_peak{end}": paper.share_of_peak,
    }  # fmt: skip
