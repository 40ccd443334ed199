"""Does the host wait for the GPU within an update? CUDA's own sync debugging says so at the operation that waits."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audio_ssl.model.compiling import compile_blocks
from audio_ssl.tensors import Batch
from audio_ssl.train.compiling import recompute_blocks
from gpu.outcome import CheckFailed, Figures
from gpu.parity import VARIANTS
from gpu.place import Place, Trainer, ctc_module, padded, pretrain_module

NUM_BEFORE = 3  # updates in which kernels are chosen and memory is mapped
# Where torch's CTC reads lengths on the host and sends its tables back: in F.ctc_loss and in the backward pass.
CTC_MAY = ("functional.py", "graph.py")
Step = Callable[[], object]


@contextmanager
def told_waits(place: Place) -> Iterator[Counter[str]]:
    """Count the waits inside by the line of Python that made them; a CPU has none."""
    found: Counter[str] = Counter()
    if not place.is_gpu:
        yield found
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchroniz" in str(warning.message):
            found[f"{Path(warning.filename).name}:{warning.lineno}"] += 1


def count(step: Step, place: Place) -> Counter[str]:
    """Waits of one update after some others."""
    for _ in range(NUM_BEFORE):
        step()
    place.synchronize()
    with told_waits(place) as found:
        step()
    return found


def host_waits(place: Place) -> Figures:
    """An update makes the host wait nowhere, in every form of training, weights averaged; CTC alone may."""
    figures: Figures = {}
    faults = []
    for name, make in _forms(place):
        found = count(make(), place)
        figures[name] = float(found.total())
        may = CTC_MAY if name.startswith("ctc") else ()
        places = [f"{line} ({times} times)" for line, times in found.items() if line.split(":")[0] not in may]
        if places:
            faults.append(f"{name} waits at {', '.join(places)}")
    if faults:
        raise CheckFailed("; ".join(faults), figures)
    return figures


def _forms(place: Place) -> Iterator[tuple[str, Callable[[], Step]]]:
    def pretraining(
        preset: str, precision: str, *, compiles: bool = False, recomputes: bool = False, **changes: Any
    ) -> Step:
        case = place.case(preset, rows=4, seconds=6, dropout=0.1, layer_drop=0.2, **changes)
        module = pretrain_module(case)
        if compiles:
            compile_blocks(module.encoder)
        if recomputes:
            recompute_blocks(module.encoder)
        return _step(module, (case.batch(), padded(case.batch())), place, precision)

    yield "base fp32", partial(pretraining, "wav2vec2_base", "fp32")
    yield "base bf16", partial(pretraining, "wav2vec2_base", "bf16")
    yield "large bf16", partial(pretraining, "wav2vec2_large", "bf16")
    yield "base bf16 recomputed", partial(pretraining, "wav2vec2_base", "bf16", recomputes=True)
    if place.is_gpu:
        yield "base bf16 compiled", partial(pretraining, "wav2vec2_base", "bf16", compiles=True)
        yield "base fp16", partial(pretraining, "wav2vec2_base", "fp16")
    for name, changes in VARIANTS.items():
        yield f"{name} bf16", partial(pretraining, "tiny_cpu", "bf16", **changes)
    yield "ctc bf16", partial(_recogniser, place)


def _recogniser(place: Place) -> Step:
    case = place.case("small", rows=4, seconds=6, dropout=0.1)
    return _step(ctc_module(case.model, rows=case.rows), (padded(case.batch()),), place, "bf16")


def _step(module: nn.Module, batches: Sequence[Batch], place: Place, precision: str) -> Step:
    return partial(Trainer(module, place, precision, ema_decay=0.999).update, batches, is_measured=True)
