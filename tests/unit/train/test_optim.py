"""Clipping, skipping and Muon against plain torch and an SVD."""

import copy
import math

import pytest
import torch
from torch import nn

from audio_ssl.config import ModelConfig, OptimConfig
from audio_ssl.model.encoder import build_encoder
from audio_ssl.train.muon import MuonAdamW, hidden_matrices
from audio_ssl.train.optim import build_optimizer, scale_and_clip, set_learning_rate, step_if_finite


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


MUON = OptimConfig(lr=0.1, optimizer="muon", weight_decay=0.5, betas=(0.9, 0.98), eps=1e-6)


def two_kinds() -> tuple[nn.Parameter, nn.Parameter]:
    """A matrix for Muon and a vector for AdamW."""
    torch.manual_seed(3)
    return nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(7))


def build(optimizer: str, matrix: nn.Parameter, vector: nn.Parameter) -> torch.optim.Optimizer:
    config = MUON.model_copy(update={"optimizer": optimizer})
    return build_optimizer([([matrix, vector], 1.0)], config, matrices=[matrix])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_with_a_broken_gradient_changes_neither_weights_nor_moments(name):
    weights = two_kinds()
    optimizer = build(name, *weights)

    def step(gradient: float) -> float:
        for weight in weights:
            weight.grad = torch.full_like(weight, gradient)
        return float(step_if_finite(optimizer, weights[0].grad.norm()))

    def everything():
        return [weight.detach().clone() for weight in weights] + [
            value.clone() for weight in weights for _, value in sorted(optimizer.state[weight].items())
        ]

    first = [weight.detach().clone() for weight in weights]
    assert step(math.nan) == 1.0  # where there are no moments yet
    assert all(torch.equal(w.detach(), f) for w, f in zip(weights, first, strict=True))
    assert all(not value.any() for weight in weights for value in optimizer.state[weight].values())
    assert step(1.0) == 0.0
    before = everything()
    assert step(math.nan) == 1.0
    assert step(math.inf) == 1.0
    assert all(torch.equal(a, b) for a, b in zip(everything(), before, strict=True))
    assert step(1.0) == 0.0
    assert not any(torch.equal(a, b) for a, b in zip(everything(), before, strict=True))


def test_muon_takes_the_matrices_it_is_given_and_adamw_the_rest():
    matrix, vector = two_kinds()
    left = nn.Parameter(torch.randn(3, 2))  # a matrix that is none of the hidden ones
    optimizer = build_optimizer([([left, matrix], 1.0), ([vector], 3.0)], MUON, matrices=[matrix])
    for weight in (matrix, vector, left):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert set(optimizer.state[matrix]) == {"momentum_buffer"}
    assert set(optimizer.state[vector]) == set(optimizer.state[left]) == {"step", "exp_avg", "exp_avg_sq"}
    set_learning_rate(optimizer, 0.02)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.02, 0.02, 0.06])


def test_a_step_of_muon_has_the_size_of_adamws_and_the_direction_of_the_polar_factor():
    """From an SVD: Newton-Schulz brings singular values to 0.7 ... 1.2, not to 1; both steps decay weights alike."""
    torch.manual_seed(5)
    matrix, vector = nn.Parameter(torch.randn(48, 96)), nn.Parameter(torch.randn(96))
    old = matrix.detach().clone(), vector.detach().clone()
    optimizer = build("muon", matrix, vector)
    matrix.grad, vector.grad = torch.randn(48, 96), torch.randn(96)
    u, _, v = torch.linalg.svd(matrix.grad, full_matrices=False)
    optimizer.step()
    step = (old[0] * (1 - 0.1 * 0.5) - matrix.detach()) / 0.1
    polar = 0.2 * math.sqrt(96) * u @ v
    assert torch.cosine_similarity(step.flatten(), polar.flatten(), dim=0) > 0.97
    assert step.square().mean().sqrt() == pytest.approx(0.2, rel=0.15)
    assert vector.detach() == pytest.approx(old[1] * (1 - 0.1 * 0.5) - 0.1 * vector.grad.sign(), abs=1e-4)


def test_muon_equals_torchs_two_optimizers():
    ours, theirs = two_kinds(), two_kinds()
    optimizer = build("muon", *ours)
    muon = torch.optim.Muon([theirs[0]], lr=0.1, weight_decay=0.5, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([theirs[1]], lr=0.1, weight_decay=0.5, betas=(0.9, 0.98), eps=1e-6)
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        step_if_finite(optimizer, torch.tensor(1.0))
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)
    torch.testing.assert_close(ours[1], theirs[1])


def test_a_loaded_state_goes_on_bit_for_bit():
    """By torch's own way, which replaces groups and state."""
    straight, broken = two_kinds(), two_kinds()
    optimizer, first = build("muon", *straight), build("muon", *broken)

    def step(weights, optimizer, seed):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        step_if_finite(optimizer, torch.tensor(1.0))

    for seed in range(4):
        step(straight, optimizer, seed)
    for seed in range(2):
        step(broken, first, seed)
    second = build("muon", *broken)
    second.load_state_dict(first.state_dict())
    assert isinstance(second, MuonAdamW)
    for seed in range(2, 4):
        step(broken, second, seed)
    assert all(torch.equal(a, b) for a, b in zip(straight, broken, strict=True))


def test_a_weight_without_a_gradient_stays_and_gets_no_moments():
    matrix, vector = two_kinds()
    optimizer = build("muon", matrix, vector)
    old = matrix.detach().clone()
    vector.grad = torch.ones_like(vector)
    assert step_if_finite(optimizer, torch.tensor(1.0)) == 0
    assert torch.equal(matrix.detach(), old)
    assert matrix not in optimizer.state


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 24), ({"context_stride": 2}, 25), ({"block_conv_kernel": 5}, 32), ({"adapter_dim": 5}, 32)],
)
def test_the_hidden_matrices_are_those_of_the_context_network(changes, count):
    """Four of attention, two each of feed-forward network, local conv and adapter in four blocks; the upsampling."""
    with torch.device("meta"):
        encoder = build_encoder(ModelConfig(preset="tiny_cpu", **changes))
    chosen = set(hidden_matrices(encoder))
    names = [name for name, parameter in encoder.named_parameters() if parameter in chosen]
    assert len(names) == count
    assert all(name.startswith("context_network.") and name.endswith("weight") for name in names)
    assert all(encoder.get_parameter(name).ndim == 2 for name in names)


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
