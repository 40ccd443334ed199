"""What learns in the place of a frozen encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from audio_ssl.config.section import NonNegativeCount, Positive, Section


class AdaptConfig(Section):
    """Small parts that are put into a frozen encoder; beside the head, they alone learn. Nothing by default."""

    adapter_dim: NonNegativeCount = 0
    """Width of a bottleneck after each transformer block (MMS has 16); it stays a part of the model. 0: none."""
    lora_rank: NonNegativeCount = 0
    """Rank of what is added to the weights of linear layers; the finished model has it merged into them. 0: none."""
    lora_alpha: Positive = 16.0
    """The addition counts ``lora_alpha / lora_rank`` times."""
    lora_targets: tuple[Literal["query", "key", "value", "output", "feed_forward"], ...] = ("query", "value")
    """Of each block: attention's projections, and both layers of the feed-forward network."""

    @model_validator(mode="after")
    def _check_lora(self) -> AdaptConfig:
        fields = type(self).model_fields
        faults = [
            f"{key} must be left out where lora_rank is 0, got {getattr(self, key)}"
            for key in ("lora_alpha", "lora_targets")
            if self.lora_rank == 0 and getattr(self, key) != fields[key].default
        ]
        if not self.lora_targets or len(set(self.lora_targets)) < len(self.lora_targets):
            faults.append(f"lora_targets must name layers, each once, got {list(self.lora_targets)}")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def freezes_encoder(self) -> bool:
        """Whether anything is put in, so that the encoder's own weights stay as they are."""
        return self.adapter_dim > 0 or self.lora_rank > 0
