"""Settings of the optimizer and of the learning rate's schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from audio_ssl.config.section import NonNegative, Positive, Probability, Rate, Section

# Settings of a schedule that only some have: one that would do nothing is refused.
SCHEDULES_WITH = {
    "hold_share": ("linear", "cosine", "polynomial", "tri_stage"),
    "decay_share": ("wsd",),
    "power": ("polynomial",),
    "final_scale": ("linear", "cosine", "polynomial", "tri_stage", "wsd"),
}


class OptimConfig(Section):
    """The optimizer and its learning-rate schedule."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: Muon for the matrices of the context network, AdamW for every other weight; ``lr`` means the same."""
    lr: Positive = 5e-4
    betas: tuple[Rate, Rate] = (0.9, 0.98)
    eps: Positive = 1e-6
    weight_decay: NonNegative = 0.01
    clip_norm: Positive = 1.0
    schedule: Literal["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "tri_stage", "wsd"] = "linear"
    """The rate after the linear warm-up; the formulas stand in ``audio_ssl/train/schedules.py``."""
    warmup_share: Rate = 0.08
    """Share of the updates over which the rate rises to ``lr``."""
    hold_share: Rate = 0.0
    """Share of the updates at ``lr`` between the warm-up and the decay (linear, cosine, polynomial, tri_stage)."""
    decay_share: Probability = 0.2
    """Share of the updates at the end over which the rate decays (wsd)."""
    power: Positive = 1.0
    """Exponent of ``polynomial``; 1 is the straight line of ``linear``."""
    final_scale: Probability = 0.0
    """The last rate as a share of ``lr`` (all but constant and inverse_sqrt, which end where they end)."""
    ema_decay: Rate = 0.0
    """Decay of a running average of the weights, which validation measures and the finished model holds; 0: none."""

    @model_validator(mode="after")
    def _check_shares(self) -> OptimConfig:
        faults = []
        second = "decay_share" if self.schedule == "wsd" else "hold_share"
        if self.warmup_share + getattr(self, second) > 1:
            faults.append(
                f"optim.warmup_share + optim.{second} must be <= 1, got {self.warmup_share} + {getattr(self, second)}"
            )
        faults += [
            f"optim.{key} must be left out where optim.schedule is {self.schedule!r}, which has no use for it, got "
            f"{getattr(self, key)}"
            for key, users in SCHEDULES_WITH.items()
            if self.schedule not in users and getattr(self, key) != OptimConfig.model_fields[key].default
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def warmup_updates(self, num_updates: int) -> int:
        """Updates of the warm-up in a run of ``num_updates``."""
        return max(1, round(self.warmup_share * num_updates))
