"""One step of the optimizer and what hangs on it: the loss scale, the average of the weights, and the step's length."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audio_ssl.train.averaging import WeightAverage
from audio_ssl.train.distributed import global_norm, own_shares
from audio_ssl.train.optim import step_if_finite
from audio_ssl.train.precision import LossScale
from audio_ssl.train.state import Stateful

AVERAGE = "average"  # its name in checkpoints


@dataclass(frozen=True)
class Stepper:
    """Steps where the gradient is finite; nothing waits for the device.

    Attributes:
        loss_scale: in fp16, else None.
        average: of the weights, where one is wanted.
    """

    loss_scale: LossScale | None = None
    average: WeightAverage | None = None

    def scaled(self, loss_sum: Tensor) -> Tensor:
        """The loss to go backward from."""
        return loss_sum if self.loss_scale is None else loss_sum * self.loss_scale.scale

    def unscaling(self, scale: Tensor) -> Tensor:
        """``scale``, a factor on gradients, with the loss scale taken out of them."""
        return scale if self.loss_scale is None else scale / self.loss_scale.scale

    def step(
        self, optimizer: torch.optim.Optimizer, grad_norm: Tensor, *, is_spike: Tensor, is_measured: bool
    ) -> dict[str, Tensor]:
        """Step unless ``grad_norm`` is infinite or NaN, or too large.

        Args:
            optimizer: with unscaled, clipped gradients.
            grad_norm: () the global norm, equal on all ranks.
            is_spike: () bool, True where it is finite but too large.
            is_measured: also tell the update ratio, which takes a copy of the weights for as long as the step.

        Returns:
            () tensors, 1 where the step was left out: ``skipped`` for a gradient that is not finite, ``searched`` in
            search of a loss scale, ``spiked`` for a spike; and, where measured, ``update_ratio``, length of the step
            over length of the weights.
        """
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        before = [w.detach().clone() for w in weights] if is_measured else []
        left_out, spiked = step_if_finite(optimizer, grad_norm.masked_fill(is_spike, torch.inf)), is_spike.float()
        broken = left_out - spiked
        told = {"skipped": broken, "searched": torch.zeros_like(broken), "spiked": spiked}
        if is_measured:
            told["update_ratio"] = update_ratio(before, weights)
        if self.average is not None:
            self.average.update(left_out)
        if self.loss_scale is not None:
            told["searched"] = self.loss_scale.update(broken)
            told["skipped"] = broken - told["searched"]
        return told

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the module has averaged weights, where an average is kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def extras(self) -> dict[str, Stateful]:
        """What must survive a crash, by name."""
        parts: dict[str, Stateful | None] = {"loss_scale": self.loss_scale, AVERAGE: self.average}
        return {name: part for name, part in parts.items() if part is not None}

    def figures(self, num_searched: int) -> dict[str, float]:
        """The loss scale for a row of figures, and the updates that were left out in search of it; reads the device.

        Empty without one.
        """
        if self.loss_scale is None:
            return {}
        return {"loss_scale": float(self.loss_scale.scale), "searched_updates": num_searched}


def make_stepper(module: nn.Module, *, precision: str, ema_decay: float, device: torch.device) -> Stepper:
    """What a run of this precision (``fp32``, ``bf16`` or ``fp16``) needs.

    Args:
        module: whose weights to average.
        precision: of the forward pass.
        ema_decay: 0 keeps no average.
        device: of the run.
    """
    return Stepper(
        LossScale(device) if precision == "fp16" else None,
        WeightAverage(module, ema_decay) if ema_decay > 0 else None,
    )


@torch.no_grad()
def update_ratio(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """Length of the step from ``before`` to ``after`` over the length of ``before``, all tensors as one vector.

    Returns:
        () float32; 0 where there is nothing.
    """
    if not before:
        return torch.zeros(())
    length = global_norm(before)
    torch._foreach_sub_(own_shares(before), own_shares(after))
    return global_norm(before) / length.clamp(min=torch.finfo(torch.float32).tiny)
