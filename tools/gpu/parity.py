"""The GPU's numbers beside the CPU's in float32: loss and gradients of a forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch, LossTerms
from gpu.outcome import Figures, require
from gpu.place import SEED, Place, ctc_module, exact_products, padded, pretrain_module

ZERO_GRADIENTS = ("attention.key.bias", "layers.0.conv.bias")
MOST_OF_LOSS, MOST_OF_GRADIENT = 1e-4, 1e-3
VARIANTS: dict[str, dict[str, Any]] = {
    "mel": {"front_end": "mel", "feature_penalty_weight": 0.0},
    "visible": {"encode": "visible", "num_masks": 2},
    "masks": {"num_masks": 3},
    "squeezed": {"context_stride": 2},
    "local": {"block_conv_kernel": 5},
}
CPU = torch.device("cpu")


def loss_and_gradients(module: nn.Module, batch: Batch, device: torch.device) -> tuple[float, dict[str, Tensor]]:
    """One forward and backward pass on ``device`` in the mode that the module is in; gradients on the CPU.

    Draws are the CPU's, so that every device sees the same masks, noise and distractors.
    """
    module = module.to(device)
    terms: LossTerms = module(batch.to(device), update=0, generator=torch_generator(SEED, "gpu_check"))
    terms.loss_sum.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.detach().cpu() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return terms.loss_sum.item(), gradients


def largest_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, float]:
    """The tensor that differs most, by how much of its largest value.

    Two gradients are zero in exact arithmetic and rounding otherwise: those of keys' biases, and of the first conv's
    bias before a norm over time. They are held to the largest gradient of the weight beside them.
    """
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        return f"{odd[0]} has a gradient on one side only", float("inf")
    differences = {}
    for name, value in expected.items():
        beside = expected[name.removesuffix("bias") + "weight"] if name.endswith(ZERO_GRADIENTS) else value
        scale = value.abs().max().maximum(beside.abs().max())
        differences[name] = float((found[name] - value).abs().max() / scale.clamp(min=1e-30))
    return max(differences.items(), key=lambda item: item[1])


def hold_together(
    told: str, found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]
) -> Figures:
    """Compare loss and gradients of two ways.

    Raises:
        CheckFailed: one is further from the other than rounding explains.
    """
    of_loss = abs(found[0] - expected[0]) / abs(expected[0])
    worst, of_gradients = largest_difference(found[1], expected[1])
    prefix = f"{told} " if told else ""
    figures: Figures = {f"{prefix}loss_difference": of_loss, f"{prefix}gradient_difference": of_gradients}
    require(f"{prefix}difference of the loss", of_loss, at_most=MOST_OF_LOSS, figures=figures)
    require(f"{prefix}difference of the gradient of {worst}", of_gradients, at_most=MOST_OF_GRADIENT, figures=figures)
    return figures


def on_both(told: str, make: Callable[[], nn.Module], batch: Batch, place: Place) -> Figures:
    """The same weights and draws on the CPU and at the place, in training without dropout."""
    with exact_products():
        module = make().train()
        expected = loss_and_gradients(module, batch, CPU)
        found = loss_and_gradients(module, batch, place.device)
    return hold_together(told, found, expected)


def of_preset(preset: str, seconds: float) -> Callable[[Place], Figures]:
    """The check of one preset, on a batch with padding and on one without."""

    def check(place: Place) -> Figures:
        """Loss and gradients in fp32 are the CPU's."""
        case = place.case(preset, rows=3, seconds=seconds)
        figures: Figures = {}
        for told, batch in (("full", case.batch()), ("padded", padded(case.batch()))):
            figures |= on_both(told, lambda: pretrain_module(case), batch, place)
        return figures

    return check


def variants(place: Place) -> Figures:
    """The same of mel, visible frames only, several masks and 25 Hz, on padded batches."""
    figures: Figures = {}
    for name, changes in VARIANTS.items():
        case = place.case("tiny_cpu", rows=3, seconds=3, **changes)
        batch = padded(case.batch())
        figures |= on_both(name, lambda: pretrain_module(case), batch, place)  # noqa: B023 -- called at once
    return figures


def ctc(place: Place) -> Figures:
    """The same of fine-tuning: the CTC loss and its gradients."""
    case = place.case("small", rows=3, seconds=4)
    figures: Figures = {}
    for told, batch in (("full", case.batch()), ("padded", padded(case.batch()))):
        figures |= on_both(told, lambda: ctc_module(case.model, rows=case.rows), batch, place)
    return figures
