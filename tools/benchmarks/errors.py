"""What bf16 costs in numbers: loss and gradients of a step against the same in fp32, ours and a peer's.

In evaluation mode, with the same masks and distractors in both: no dropout and no Gumbel noise, so that nothing but
rounding differs. A code that rounding turns over is a part of the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from audio_ssl.train.precision import autocast
from benchmarks.cases import CPU, Case
from benchmarks.report import Row
from benchmarks.system import System


def error_rows(case: Case, systems: Sequence[type[System]]) -> list[Row]:
    """``error_bf16_loss``: relative; ``error_bf16_gradients``: length of the difference over length of the gradient.

    Args:
        case: the model and its batch.
        systems: whose; each starts from its own fresh weights.
    """
    rows = []
    for system_type in systems:
        system = system_type(case, trains=True)
        system.module.eval()
        (exact, gradients), (rounded, found) = (_loss_and_gradients(system, p) for p in ("fp32", "bf16"))
        values = {"loss": abs(rounded - exact) / abs(exact), "gradients": relative_distance(found, gradients)}
        name = f"{case.name}/{system.name}"
        rows += [Row("step", name, f"error_bf16_{what}", value, "share") for what, value in values.items()]
    return rows


def _loss_and_gradients(system: System, precision: str) -> tuple[float, list[Tensor]]:
    np.random.seed(1)  # transformers draws masks and negatives from it
    torch.manual_seed(1)
    system.module.zero_grad(set_to_none=True)
    with autocast(precision, CPU):
        loss = system.loss(system.batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), [p.grad.float() for p in system.module.parameters() if p.grad is not None]


def relative_distance(found: Iterable[Tensor], expected: Sequence[Tensor]) -> float:
    """Length of the difference of two vectors in parts over the length of the second."""
    squares = sum(float((a - b).double().square().sum()) for a, b in zip(found, expected, strict=True))
    return float((squares / sum(float(b.double().square().sum()) for b in expected)) ** 0.5)
