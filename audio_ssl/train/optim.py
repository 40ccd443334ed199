"""AdamW and learning-rate schedules as pure functions of the update number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audio_ssl.config import OptimConfig
from audio_ssl.train.distributed import global_norm, own_shares


def build_optimizer(groups: Sequence[tuple[Sequence[nn.Parameter], float]], config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW, decoupled weight decay on every parameter as in fairseq.

    Args:
        groups: (parameters, factor on the learning rate) pairs.
        config: the optimizer's settings.
    """
    return torch.optim.AdamW(
        [{"params": list(params), "lr": config.lr * scale, "lr_scale": scale} for params, scale in groups],
        lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip


def learning_rate(update: int, *, config: OptimConfig, num_updates: int) -> float:
    """The rate of update ``update`` (0-based): linear warm-up, an optional hold, then decay to ``final_scale * lr``.

    Args:
        update: number of updates done before this one.
        config: peak, shares and shape; ``polynomial`` decays linearly (fairseq's power 1), ``cosine`` by a half
            cosine, ``tri_stage`` exponentially (wav2vec 2.0 fine-tuning, 10/40/50 %).
        num_updates: length of the run; the last update has the last rate.

    Reference: wav2vec 2.0 (2006.11477) sections 4.2 and 4.3.
    """
    warmup = config.warmup_updates(num_updates)
    hold = round(config.hold_share * num_updates)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    if update < warmup + hold:
        return config.lr
    progress = min(1.0, (update - warmup - hold + 1) / max(1, num_updates - warmup - hold))
    return config.lr * _decay(progress, config)


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


def _decay(progress: float, config: OptimConfig) -> float:
    if config.schedule == "cosine":
        return config.final_scale + (1 - config.final_scale) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "tri_stage":
        return math.exp(progress * math.log(max(config.final_scale, 1e-3)))  # an exponential never reaches 0
    return 1 - (1 - config.final_scale) * progress
