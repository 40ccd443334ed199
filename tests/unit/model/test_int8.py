"""Linear layers in integers: by hand, against float, and that a frame's result is its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import small_encoder
from torch import nn

from audio_ssl.model import int8
from audio_ssl.model.int8 import AFTER_GELU, AFTER_SILU, SYMMETRIC, int8_products, missing_for_int8, quantize_frames
from audio_ssl.model.kernels import FrozenLinear, freeze_linears

needs_int8 = pytest.mark.skipif(missing_for_int8() is not None, reason=str(missing_for_int8()))


def test_frames_as_bytes_by_hand():
    x = torch.tensor([[1.26, -0.63, 0.004, 0.0], [0.0, 0.0, 0.0, 0.0], [-252.0, 2.0, 126.0, 1.0]])
    steps, step = quantize_frames(x, SYMMETRIC)
    assert steps.dtype == torch.uint8
    assert steps.tolist() == [[254, 65, 128, 128], [128] * 4, [2, 129, 191, 128]]
    assert step[[0, 2], 0].tolist() == pytest.approx([0.01, 2.0])


def test_after_gelu_nearly_all_bytes_are_above_zero_and_the_lowest_value_fits():
    x = torch.tensor([[2.22, 0.0, -0.16, 0.01], [0.0, -0.17, -0.17, 0.0]])
    steps, step = quantize_frames(x, AFTER_GELU)
    assert steps.tolist() == [[254, 32, 16, 33], [32, 0, 0, 32]]
    assert step[:, 0].tolist() == pytest.approx([0.01, 0.17 / 32])


@pytest.mark.parametrize(("spread", "function"), [(SYMMETRIC, None), (AFTER_GELU, F.gelu), (AFTER_SILU, F.silu)])
def test_no_bf16_value_runs_over_the_edge(spread, function):
    largest = torch.logspace(-6, 6, 20_000).bfloat16()
    lowest = function and function(torch.linspace(-4, 0, 10_001).bfloat16()).min()
    least = -largest if lowest is None else torch.full_like(largest, lowest)
    x = torch.stack([largest, least, torch.zeros_like(largest)], dim=-1)
    steps = quantize_frames(x, spread)[0].int()
    assert (steps[:, 0] >= steps[:, 2]).all()
    assert (steps[:, 1] <= steps[:, 2]).all()
    assert steps[:, 0].max() - spread.zero - spread.steps_above in (0, 1)  # all bytes are used, but for a rounding
    assert (steps[:, 2] == spread.zero).all()


@needs_int8
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_in_integers_by_hand(dtype, has_bias):
    torch.manual_seed(0)
    source = nn.Linear(37, 13, bias=has_bias)
    x = torch.randn(3, 7, 37).to(dtype)
    weight_step = source.weight.abs().amax(1, keepdim=True) / 127
    weight = (source.weight / weight_step).round() * weight_step
    step = x.float().abs().amax(-1, keepdim=True) / 126
    expected = ((x.float() / step).round() * step) @ weight.T
    expected = expected if source.bias is None else expected + source.bias
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32), int8_products():
        found = FrozenLinear(source)(x)
    assert found.dtype == dtype
    # in bf16 a value may fall to the neighbouring step, and the result is rounded
    atol = 2e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=atol)
    if dtype == torch.float32:  # and it is not the product in floats
        assert (found - source(x)).abs().max() > 1e-3


@needs_int8
def test_each_frame_and_each_channel_has_its_own_scale():
    torch.manual_seed(0)
    source = nn.Linear(37, 13, bias=False)
    with torch.no_grad():
        source.weight[3] *= 1000
    x = torch.randn(5, 37)
    frozen = FrozenLinear(source)
    with torch.inference_mode(), int8_products():
        alone, beside = frozen(x[:1]), frozen(torch.cat([x[:1], 1000 * x[1:]]))
        assert torch.equal(alone, beside[:1])
        error = (frozen(x) - source(x)).norm(dim=0) / source(x).norm(dim=0)
    assert (error < 0.03).all()


@needs_int8
def test_integers_are_used_only_where_asked_and_follow_their_weights():
    source, x = nn.Linear(16, 8), torch.randn(3, 16)
    frozen = FrozenLinear(source)
    apart = FrozenLinear(source, None)
    with torch.inference_mode():
        exact = frozen(x)
        with int8_products():
            first = frozen(x)
            torch.testing.assert_close(apart(x), exact)
        torch.testing.assert_close(frozen(x), exact)
    assert not torch.equal(first, exact)
    with int8_products():
        assert frozen(x).requires_grad
        with torch.no_grad():
            source.weight.mul_(2)
            source.bias.mul_(2)
            torch.testing.assert_close(frozen(x), 2 * first)


@needs_int8
@pytest.mark.parametrize(("variant", "kernel"), [("base", 0), ("large", 0), ("large", 3)])
def test_an_encoders_frames_are_near_those_in_float(variant, kernel):
    encoder = small_encoder(variant, block_conv_kernel=kernel).eval()
    freeze_linears(encoder)
    spreads = {name: m._spread for name, m in encoder.named_modules() if isinstance(m, FrozenLinear)}
    assert spreads.pop("feature_projection.projection") is None
    assert {name for name, spread in spreads.items() if spread is AFTER_GELU} == {
        name for name in spreads if name.endswith("feed_forward.output")
    }
    assert {name for name, spread in spreads.items() if spread is AFTER_SILU} == {
        name for name in spreads if name.endswith("local_conv.output")
    }
    waveforms, num_samples = torch.randn(2, 4000), torch.tensor([4000, 3210])
    with torch.inference_mode():
        exact = encoder(waveforms, num_samples)
        with int8_products():
            found = encoder(waveforms, num_samples).frames
            alone = encoder(waveforms[1:, :3210], num_samples[1:]).frames
    count = int(exact.num_frames[1])
    assert 0.999 < torch.cosine_similarity(found[1, :count], exact.frames[1, :count], dim=-1).min() < 0.9999999
    torch.testing.assert_close(found[1, :count], alone[0], rtol=0, atol=0.03)  # a step more or less, from rounding


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert "VNNI" in missing_for_int8()
    monkeypatch.setattr(int8, "_OPS", ("no_such_product",))
    assert "no oneDNN products of integers" in missing_for_int8()
