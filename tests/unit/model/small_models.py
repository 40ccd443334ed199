"""Small encoders with prime sizes where a size is free."""

from __future__ import annotations

import torch

from audio_ssl.config import ModelConfig
from audio_ssl.model.encoder import Encoder, build_encoder

QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "feature_dropout": 0.0, "layer_drop": 0.0}
OF_CONVS = {"conv_dims", "conv_bias", "feature_norm", "feature_grad_scale"}
VARIANTS = {
    "base": {"feature_norm": "group", "norm_order": "post", "conv_bias": False},
    "large": {"feature_norm": "layer", "norm_order": "pre", "conv_bias": True},
}


def small_config(variant: str = "base", **changes) -> ModelConfig:
    sizes = {"conv_dims": (7, 11, 13, 5, 7, 11, 13), "dim": 24, "num_layers": 3, "num_heads": 3, "ffn_dim": 31}
    sizes |= {"pos_conv_kernel": 8, "pos_conv_groups": 4, "feature_grad_scale": 1.0}
    settings = {**sizes, **QUIET, **VARIANTS[variant], **changes}
    if changes.get("front_end") == "mel":  # it knows nothing of the conv stack
        settings = {name: value for name, value in settings.items() if name not in OF_CONVS}
    return ModelConfig(**settings)


def small_encoder(variant: str = "base", **changes) -> Encoder:
    torch.manual_seed(5)
    encoder = build_encoder(small_config(variant, **changes))
    with torch.no_grad():  # fresh norms and biases are 1 and 0: faults in them would not show
        for name, parameter in encoder.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder.eval()
