"""Schedules against values worked out by hand; clipping and skipping against plain torch."""

import copy
import math

import pytest
import torch
from torch import nn

from audio_ssl.config import ModelConfig, OptimConfig
from audio_ssl.model.encoder import build_encoder
from audio_ssl.train.optim import build_optimizer, learning_rate, scale_and_clip, set_learning_rate, step_if_finite


def rates(num_updates: int, **settings) -> list[float]:
    config = OptimConfig(lr=1.0, **settings)
    return [learning_rate(u, config=config, num_updates=num_updates) for u in range(num_updates)]


def test_polynomial_rises_to_the_peak_and_falls_in_a_straight_line():
    found = rates(10, schedule="polynomial", warmup_share=0.4, final_scale=0.0)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0])


def test_tri_stage_holds_then_decays_exponentially():
    found = rates(10, schedule="tri_stage", warmup_share=0.2, hold_share=0.4, final_scale=0.0625)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.5, 0.25, 0.125, 0.0625])


def test_cosine_passes_the_middle_at_half():
    found = rates(5, schedule="cosine", warmup_share=0.2, final_scale=0.0)
    assert found == pytest.approx([1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2, 0])


def test_groups_keep_their_own_factor():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([([a], 1.0), ([b], 10.0)], OptimConfig(lr=0.5))
    set_learning_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.2])


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_scale_then_clip_equals_torch(max_norm):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(2))]
    for p in ours[:2]:  # the third has no gradient
        p.grad = torch.randn_like(p)
    theirs = [nn.Parameter(torch.zeros_like(p)) for p in ours]
    for p, q in zip(ours[:2], theirs[:2], strict=True):
        q.grad = p.grad * 0.25
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    norm = scale_and_clip(ours, torch.tensor(0.25), max_norm)
    torch.testing.assert_close(norm, expected)
    for p, q in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_step_with_a_broken_gradient_changes_neither_weights_nor_moments():
    weight = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([([weight], 1.0)], OptimConfig(lr=0.1))

    def step(gradient: float) -> float:
        weight.grad = torch.full((3,), gradient)
        return float(step_if_finite(optimizer, weight.grad.norm()))

    assert step(1.0) == 0.0
    before = weight.detach().clone(), {k: v.clone() for k, v in optimizer.state[weight].items()}
    assert step(math.nan) == 1.0
    assert step(math.inf) == 1.0
    assert torch.equal(weight.detach(), before[0])
    assert all(torch.equal(optimizer.state[weight][k], v) for k, v in before[1].items())
    assert step(1.0) == 0.0
    assert not torch.equal(weight.detach(), before[0])


@pytest.mark.parametrize("is_bf16", [False, True])
def test_evaluation_after_a_step_uses_the_new_weights(is_bf16):
    torch.manual_seed(3)
    encoder = build_encoder(ModelConfig(preset="tiny_cpu", conv_dims=(16,) * 7, dim=48, num_heads=3, pos_conv_groups=4))
    waveforms, num_samples = torch.randn(2, 4000), torch.tensor([4000, 3100])
    optimizer = build_optimizer([(list(encoder.parameters()), 1.0)], OptimConfig(lr=0.1, weight_decay=0.0))

    def evaluate(model):
        model.eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            return model(waveforms, num_samples).frames

    before = evaluate(encoder)
    encoder.train()
    encoder(waveforms, num_samples).frames.square().sum().backward()
    step_if_finite(optimizer, torch.tensor(1.0))
    after = evaluate(encoder)
    assert not torch.equal(before, after)
    assert torch.equal(after, evaluate(copy.deepcopy(encoder)))  # a copy lays its weights out anew
