"""Settings of the pretext task, which pre-training throws away when it ends.

Reference: wav2vec 2.0 (2006.11477) sections 3 and 4; defaults as fairseq's BASE configuration.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from audio_ssl.config.section import Count, NonNegative, NonNegativeCount, Positive, Probability, Rate, Section

OF_PRESETS: dict[str, dict[str, Any]] = {
    # What differs from the class's defaults (the paper's BASE) when `model.preset` is another one.
    "wav2vec2_base": {},
    "wav2vec2_large": {
        "code_dim": 768, "target_dim": 768, "gumbel_end": 0.1, "target_dropout": 0.0, "feature_penalty_weight": 0.0,
    },
    # Small batches need more diversity than the paper's 0.1, or the codebook collapses (docs/decisions/0007).
    # `small` needs codes that start nearly even, too.
    "small": {
        "quantizer_logit_scale": 0.25, "diversity_weight": 1.0, "target_dropout": 0.0, "feature_penalty_weight": 0.0,
        "gumbel_decay": 0.9995,
    },
    "tiny_cpu": {
        "diversity_weight": 1.0, "target_dropout": 0.0, "feature_penalty_weight": 0.0, "gumbel_decay": 0.999,
        "num_entries": 160,
    },
}  # fmt: skip


class Wav2Vec2Config(Section):
    """Masked contrastive prediction of quantized latents."""

    name: Literal["wav2vec2"] = "wav2vec2"
    mask_prob: Probability = 0.65
    """Share p: ``p * T / mask_span_frames`` spans start in a row of T frames; overlaps make the masked share
    smaller than p (.65 with spans of 10 gives about .49)."""
    mask_span_frames: Count = 10
    min_masks: NonNegativeCount = 2
    num_masks: Count = 1
    """Masks of each utterance in an update: the conv stack runs once, the transformer once a mask (data2vec 2.0
    has 8). Memory of the transformer grows as ``data.micro_batch_s`` times this."""

    encode: Literal["all", "visible"] = "all"
    """Frames that go through the transformer. ``all``: masked ones too, as the mask embedding (wav2vec 2.0).
    ``visible``: masked ones are left out, half of the frames at p = .65, and a small decoder predicts at their places
    (data2vec 2.0). The model that is kept is the same, and encodes all frames."""

    num_distractors: Count = 100
    logit_temperature: Positive = 0.1
    num_groups: Count = 2
    num_entries: Count = 320
    code_dim: Count = 256
    """Width of a quantized vector: all groups together."""
    target_dim: Count = 256
    """Width in which context and quantized targets are compared."""
    gumbel_start: Positive = 2.0
    gumbel_end: Positive = 0.5
    gumbel_decay: float = Field(default=0.999995, gt=0, le=1)
    """The Gumbel temperature at update n is ``max(start * decay**n, end)``."""
    quantizer_logit_scale: Positive = 1.0
    """Factor on the initial weights of the code logits; below 1 starts nearer to uniform code use."""
    target_dropout: Rate = 0.1
    """Dropout on the latents that the quantizer sees (fairseq: dropout_features)."""
    diversity_weight: NonNegative = 0.1
    feature_penalty_weight: NonNegative = 10.0

    random_projection_weight: NonNegative = 0.0
    """Weight of a second task on the same masked frames: tell codes of random projections of the clean latents
    (BEST-RQ, w2v-BERT 2.0). 0: there is none. Needs ``model.front_end = "mel"``, whose latents do not learn."""
    random_projection_codebooks: Count = 4
    random_projection_entries: Count = 512
    """Codes of each codebook; BEST-RQ has 8192 for thousands of hours of speech."""

    decoder_dim: Count = 384
    """Width of the decoder of ``encode = "visible"``; defaults of ``decoder_*`` are data2vec 2.0's BASE for audio."""
    decoder_layers: Count = 4
    decoder_kernel: Count = 7
    """Frames that a layer of the decoder sees."""
    decoder_groups: Count = 16
    """Groups of channels; must divide ``decoder_dim`` and ``model.dim``."""
    decoder_dropout: Rate = 0.1
    """Dropout on the context frames that enter the decoder (fairseq: decoder.input_dropout)."""

    @model_validator(mode="after")
    def _check_widths(self) -> Wav2Vec2Config:
        if self.code_dim % self.num_groups:
            raise ValueError(f"code_dim must be a multiple of num_groups, got {self.code_dim} and {self.num_groups}")
        if self.decoder_dim % self.decoder_groups:
            raise ValueError(
                f"decoder_dim must be a multiple of decoder_groups, got {self.decoder_dim} and {self.decoder_groups}"
            )
        if self.gumbel_end > self.gumbel_start:
            raise ValueError(f"gumbel_end must be <= gumbel_start, got {self.gumbel_end} and {self.gumbel_start}")
        return self
