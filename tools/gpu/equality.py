"""Other ways to the same numbers: half precision and compiled blocks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, get_args

from torch._dynamo.utils import counters

from audio_ssl.config import RunConfig
from audio_ssl.tensors import Batch
from audio_ssl.train.compiling import compile_blocks
from audio_ssl.train.precision import resolve_precision
from gpu.outcome import CheckSkipped, Figures, require
from gpu.parity import hold_together, loss_and_gradients
from gpu.place import Place, Trainer, exact_products, padded, pretrain_module

NUM_UPDATES = 8
HALF_DIFFERENCE = 0.02  # of a loss, in bf16 or fp16 and after some updates
SAME_DIFFERENCE = 1e-3  # of a loss in fp32: kernels add in another order, and a code may turn over


def has_choice(key: str, choice: str) -> bool:
    """Whether a setting of ``run`` may take a value."""
    found = RunConfig.model_fields.get(key)
    return found is not None and choice in _choices(found.annotation)


def _choices(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [leaf for part in inner for leaf in _choices(part)] if inner else [annotation]


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
    if not has_choice("precision", precision):
        raise CheckSkipped(f"run.precision={precision} is not a setting of this version")
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
