"""Settings of the encoder: conv feature encoder and transformer context network, with the named presets.

Reference: wav2vec 2.0 (2006.11477) section 4.2 and fairseq's published configurations for base and large.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from audio_ssl.config.section import Count, NonNegative, Rate, Section
from audio_ssl.geometry import ConvGeometry

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's BASE: group norm in the first conv layer, post-LN blocks, waveform as it is.
    "wav2vec2_base": {},
    # The paper's LARGE as released for LV-60k/XLSR: layer norm everywhere, pre-LN, conv bias, normalised waveform.
    "wav2vec2_large": {
        "conv_bias": True, "feature_norm": "layer", "norm_order": "pre", "normalize_waveform": True,
        "dim": 1024, "num_layers": 24, "num_heads": 16, "ffn_dim": 4096, "feature_grad_scale": 1.0,
        "dropout": 0.0, "attention_dropout": 0.0, "feature_dropout": 0.0, "layer_drop": 0.0,
    },
    # Layer norm after a convolution without bias takes the loudness away, and silence looks like noise: with a bias
    # the loss leaves chance within a hundred small updates, without one not in fifteen hundred (docs/decisions/0007).
    # About 12 M parameters: for one GPU or a patient CPU.
    "small": {
        "conv_bias": True, "conv_dims": (128, 256, 256, 256, 384, 384, 384), "feature_norm": "layer",
        "norm_order": "pre", "normalize_waveform": True, "dim": 384, "num_layers": 6, "num_heads": 6, "ffn_dim": 1536,
        "pos_conv_kernel": 64, "feature_grad_scale": 1.0, "dropout": 0.05, "attention_dropout": 0.05,
        "feature_dropout": 0.05, "layer_drop": 0.0,
    },
    # Conv channels widen as the rate falls, so that no layer dominates: hours of speech in minutes on two cores.
    "tiny_cpu": {
        "conv_bias": True, "conv_dims": (32, 64, 96, 128, 192, 256, 256), "feature_norm": "layer", "norm_order": "pre",
        "normalize_waveform": True, "dim": 256, "num_layers": 4, "num_heads": 4, "ffn_dim": 1024,
        "pos_conv_kernel": 32, "feature_grad_scale": 1.0, "dropout": 0.0, "attention_dropout": 0.0,
        "feature_dropout": 0.0, "layer_drop": 0.0,
    },
}  # fmt: skip


class ModelConfig(Section):
    """The encoder that is kept after pre-training. Defaults are the paper's BASE.

    ``preset`` fills every key that is not given; the resolved values are what is saved beside the weights.
    """

    preset: Literal["wav2vec2_base", "wav2vec2_large", "small", "tiny_cpu"] = "wav2vec2_base"
    sample_rate_hz: Count = 16_000
    normalize_waveform: bool = False
    """Zero mean and unit variance per utterance, over its real samples."""

    conv_dims: tuple[Count, ...] = (512,) * 7
    conv_kernels: tuple[Count, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[Count, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feature_norm: Literal["group", "layer"] = "group"
    feature_grad_scale: NonNegative = 0.1
    """Factor on the gradient that reaches the feature encoder."""
    feature_dropout: Rate = 0.1
    """Dropout on the projected features, before masks meet the transformer (fairseq: dropout_input)."""

    dim: Count = 768
    num_layers: Count = 12
    num_heads: Count = 12
    ffn_dim: Count = 3072
    norm_order: Literal["pre", "post"] = "post"
    pos_conv_kernel: Count = 128
    pos_conv_groups: Count = 16
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    activation_dropout: Rate = 0.0
    layer_drop: Rate = Field(default=0.05)
    layer_norm_eps: float = Field(default=1e-5, gt=0, le=1e-2)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**PRESETS.get(str(values.get("preset")), {}), **values}
        return values

    @model_validator(mode="after")
    def _check_shapes(self) -> ModelConfig:
        lengths = {len(self.conv_dims), len(self.conv_kernels), len(self.conv_strides)}
        faults = []
        if len(lengths) > 1:
            faults.append(
                "conv_dims, conv_kernels and conv_strides must have one value a layer, got "
                f"{len(self.conv_dims)}, {len(self.conv_kernels)} and {len(self.conv_strides)} values"
            )
        for key in ("num_heads", "pos_conv_groups"):
            if self.dim % getattr(self, key):
                faults.append(f"dim must be a multiple of {key}, got {self.dim} and {getattr(self, key)}")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def geometry(self) -> ConvGeometry:
        """The samples-to-frames arithmetic of this conv stack."""
        return ConvGeometry(self.conv_kernels, self.conv_strides)
