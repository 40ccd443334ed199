"""Other ways to the same numbers: half precision, compiled blocks, recomputed blocks; and the average of weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch._dynamo.utils import counters

from audio_ssl.model.compiling import compile_blocks
from audio_ssl.tensors import Batch
from audio_ssl.train.compiling import recompute_blocks
from audio_ssl.train.precision import resolve_precision
from gpu.outcome import CheckFailed, CheckSkipped, Figures, require
from gpu.parity import hold_together, loss_and_gradients
from gpu.place import Place, Trainer, exact_products, padded, pretrain_module

NUM_UPDATES = 8
HALF_DIFFERENCE = 0.02  # of a loss, in bf16 or fp16 and after some updates
SAME_DIFFERENCE = 1e-3  # of a loss in fp32: kernels add in another order, and a code may turn over


def batches_of(place: Place, *, rows: int = 4, seconds: float = 6.0) -> tuple[Any, tuple[Batch, ...]]:
    """A case of the small model, and two micro-batches, one of them with padding."""
    case = place.case("small", rows=rows, seconds=seconds)
    return case, (case.batch(), padded(case.batch()))


def compare_losses(found: Sequence[float], expected: Sequence[float], *, at_most: float) -> Figures:
    """Losses of the same updates in two ways.

    Raises:
        CheckFailed: one differs by more.
    """
    differences = [abs(a - b) / abs(b) if math.isfinite(a) else math.inf for a, b in zip(found, expected, strict=True)]
    figures: Figures = {
        "first_loss": expected[0], "last_loss": expected[-1],
        "first_difference": differences[0], "largest_difference": max(differences),
        "mean_difference": statistics.fmean(differences),
    }  # fmt: skip
    require("difference of a loss", max(differences), at_most=at_most, figures=figures)
    return figures


def half_precision(place: Place, precision: str) -> Figures:
    """Losses of updates in a half precision beside those in fp32, with the same draws."""
    if not place.is_gpu and precision == "fp16":
        raise CheckSkipped("fp16 is for GPUs")
    resolve_precision(precision, place.device)
    case, batches = batches_of(place)
    expected = Trainer(pretrain_module(case), place).losses(batches, NUM_UPDATES)
    found = Trainer(pretrain_module(case), place, precision).losses(batches, NUM_UPDATES)
    return compare_losses(found, expected, at_most=HALF_DIFFERENCE)


def bf16(place: Place) -> Figures:
    """Losses of updates in bf16 are close to those in fp32."""
    return half_precision(place, "bf16")


def fp16(place: Place) -> Figures:
    """Losses of updates in fp16 with its scaler are close to those in fp32."""
    return half_precision(place, "fp16")


def compiled(place: Place) -> Figures:
    """Compiled blocks give the loss and the gradients of plain ones, for batches of several shapes."""
    if not place.is_gpu:
        raise CheckSkipped("blocks have kernels of their own on a CPU, and run.compile is refused there")
    figures: Figures = {}
    case, _ = batches_of(place)
    plain, module = pretrain_module(case), pretrain_module(case)
    compile_blocks(module.encoder)
    batch = case.batch()
    shapes = {"full": batch, "padded": padded(batch), "one row": _rows(batch, 1), "short": _rows(padded(batch), 3)}
    with exact_products():
        for told, part in shapes.items():
            expected = loss_and_gradients(plain, part, place.device)
            figures |= hold_together(told, loss_and_gradients(module, part, place.device), expected)
    figures["programs"] = float(counters["stats"]["unique_graphs"])
    require("programs", float(figures["programs"]), at_most=4, figures=figures)
    return figures


def _rows(batch: Batch, count: int) -> Batch:
    return Batch(batch.waveforms[:count], batch.num_samples[:count], batch.rows[:count], is_full=batch.is_full)


def recomputed(place: Place) -> Figures:
    """Blocks that run again for the gradients give the same ones, dropout too, in less memory."""
    case = place.case("wav2vec2_base", rows=8, seconds=12, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1)
    batches = (padded(case.batch()),)
    losses, peaks = [], []
    for recomputes in (False, True):
        module = pretrain_module(case)
        if recomputes:
            recompute_blocks(module.encoder)
        trainer = Trainer(module, place, "bf16")
        losses.append(trainer.losses(batches, NUM_UPDATES))
        peaks.append(_peak_gib(place, trainer, batches))
    figures = compare_losses(losses[1], losses[0], at_most=HALF_DIFFERENCE)
    if place.is_gpu:
        figures |= {"plain_peak_gib": peaks[0], "recomputed_peak_gib": peaks[1]}
        require("share of the memory", peaks[1] / peaks[0], at_most=0.9, figures=figures)
    return figures


def _peak_gib(place: Place, trainer: Trainer, batches: Sequence[Batch]) -> float:
    """GiB allocated at most in an update; 0 on a CPU."""
    if not place.is_gpu:
        return 0.0
    torch.cuda.reset_peak_memory_stats(place.device)
    trainer.update(batches)
    return torch.cuda.max_memory_allocated(place.device) / 2**30


def average(place: Place) -> Figures:
    """The average of the weights is what the recurrence gives on a CPU, and validation borrows it without a trace."""
    decay, (case, batches) = 0.9, batches_of(place)
    trainer = Trainer(pretrain_module(case), place, ema_decay=decay)
    weight = trainer.module.get_parameter("encoder.context_network.blocks.0.feed_forward.inner.weight")
    expected = weight.detach().double().cpu()
    for update in range(NUM_UPDATES):
        trainer.update(batches)
        share = 1 - min(decay, (2 + update) / (11 + update))
        expected += share * (weight.detach().double().cpu() - expected)
    own = weight.detach().clone()
    with trainer.around.stepper.averaged():
        found = weight.detach().double().cpu()
    figures: Figures = {"average_difference": float((found - expected).abs().max() / expected.abs().max())}
    if not torch.equal(weight, own):
        raise CheckFailed("weights must be their own again after validation, to the last bit", figures)
    require("difference of the average", float(figures["average_difference"]), at_most=1e-5, figures=figures)
    return figures
