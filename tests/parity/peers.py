"""Random small models, and the comparisons that every peer's test makes."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.objective.registry import build_objective

OBJECTIVE = Wav2Vec2Config(num_groups=2, num_entries=5, code_dim=6, target_dim=7)
SYMBOLS = ("<pad>", "<unk>", "|", "a", "b", "'", "ü")
SEEDS = (0, 1, 2, 3)


def random_config(seed: int) -> ModelConfig:
    """A small model; seeds 0 to 3 are the four pairs of conv norm and norm order."""
    draw = random.Random(seed)
    heads, groups = draw.choice([2, 3]), draw.choice([1, 2, 4])
    return ModelConfig(
        conv_dims=tuple(draw.randint(5, 17) for _ in range(7)),
        conv_bias=draw.random() < 0.5,
        feature_norm=("group", "layer")[seed % 2],
        norm_order=("post", "pre")[seed // 2 % 2],
        feature_grad_scale=1.0,
        feature_dropout=0.0,
        dim=heads * groups * draw.choice([3, 5]),
        num_layers=draw.randint(2, 3),
        num_heads=heads,
        ffn_dim=draw.randint(11, 23),
        pos_conv_kernel=draw.choice([5, 8, 16]),
        pos_conv_groups=groups,
        dropout=0.0,
        attention_dropout=0.0,
        layer_drop=0.0,
    )


def random_encoder(config: ModelConfig, seed: int = 7) -> Encoder:
    torch.manual_seed(seed)
    encoder = build_encoder(config)
    with torch.no_grad():  # fresh norms and biases are 1 and 0: a wrong map of them would not show
        for name, parameter in encoder.named_parameters():
            if "norm" in name or "bias" in name or "original0" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter)).add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def random_objective(config: ModelConfig) -> torch.nn.Module:
    return build_objective(OBJECTIVE, latent_dim=config.conv_dims[-1], dim=config.dim)


def prefixed(prefix: str, tensors) -> dict[str, Tensor]:
    return {f"{prefix}.{k}": v for k, v in tensors.items()}


def batches(config: ModelConfig) -> list[tuple[Tensor, Tensor]]:
    """Batches on which peers agree: with padding only where theirs keeps it out (layer norm), else rows alone."""
    generator = torch.Generator().manual_seed(11)
    num_samples = torch.tensor([5003, 3001, 1201])
    waveforms = torch.randn(3, 5003, generator=generator)
    for row, n in enumerate(num_samples.tolist()):
        waveforms[row, n:] = 0.0
    if config.feature_norm == "layer":
        return [(waveforms, num_samples)]
    return [(waveforms[i : i + 1, :n], num_samples[i : i + 1]) for i, n in enumerate(num_samples.tolist())]


def assert_near(ours: Tensor, theirs: Tensor, *, rel: float) -> None:
    """Largest difference against the largest value."""
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs().max().item()
    assert difference <= rel * theirs.abs().max().item() + 1e-9, f"{difference=}, largest={theirs.abs().max().item()}"


def assert_same_frames(ours, theirs, *, is_valid: Tensor) -> None:
    """Valid frames to 1e-5."""
    assert_near(ours[is_valid], theirs[is_valid], rel=1e-5)
