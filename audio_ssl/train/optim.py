"""The optimizer, its rate, and a step that clips and skips without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audio_ssl.config import OptimConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.train.distributed import global_norm, own_shares
from audio_ssl.train.muon import MuonAdamW, fused_adamw


def build_optimizer(
    groups: Sequence[tuple[Sequence[nn.Parameter], float]],
    config: OptimConfig,
    *,
    matrices: Sequence[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Fused AdamW, or Muon beside it; decoupled weight decay on every parameter as in fairseq.

    Args:
        groups: (parameters, factor on the learning rate) pairs.
        config: the optimizer's settings.
        matrices: those of the parameters that Muon takes, where ``config.optimizer`` is ``muon``.
    """
    for_muon = set(matrices) if config.optimizer == "muon" else set()

    def of(*, is_muon: bool) -> list[dict[str, Any]]:
        parts = [([p for p in params if (p in for_muon) == is_muon], scale) for params, scale in groups]
        return [{"params": params, "lr": config.lr * scale, "lr_scale": scale} for params, scale in parts if params]

    muon, adamw = of(is_muon=True), of(is_muon=False)
    return MuonAdamW(muon, adamw, config) if muon else fused_adamw(adamw, config)


def refuse_other_moments(optimizer: torch.optim.Optimizer) -> None:
    """Look at a state that was loaded: AdamW's means nothing to Muon, nor the other way round.

    Raises:
        CheckpointError: it is of another optimizer.
    """
    for group in optimizer.param_groups:
        is_muon = "momentum" in group
        for parameter in group["params"]:
            if any(("momentum_buffer" in key) != is_muon for key in optimizer.state.get(parameter, {})):
                raise CheckpointError(
                    "optim.optimizer must be the one that the checkpoint was made with, "
                    f"'{'adamw' if is_muon else 'muon'}'; give it, or start a new run.dir with --init-from"
                )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def scale_and_clip(parameters: Sequence[nn.Parameter], scale: Tensor, max_norm: float) -> Tensor:
    """Multiply gradients by ``scale``, then clip their global norm; nothing waits for the device.

    Returns:
        () float32, the norm after scaling and before clipping.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return scale.new_zeros(())
    norm = global_norm(grads) * scale
    factor = scale * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(own_shares(grads), factor)
    return norm


def step_if_finite(optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> Tensor:
    """Step unless the gradient norm is infinite or NaN; decided on the device, weights and moments then stay.

    Returns:
        () float32, 1 when the step was skipped, else 0.
    """
    skipped = (~torch.isfinite(grad_norm)).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]  # the fused kernel's own switch
    optimizer.step()
    # The fused kernel changes weights without counting it, and what is laid out for evaluation (model/kernels.py) goes
    # by that count: without this, validation would go on hearing with the weights of the first one.
    torch.autograd.graph.increment_version([p for group in optimizer.param_groups for p in group["params"]])
    return skipped
