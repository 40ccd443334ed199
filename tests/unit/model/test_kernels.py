"""Kernels for inference against what they stand in for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small_models import small_encoder
from torch import nn

from audio_ssl.model import feature_encoder
from audio_ssl.model.conv import prepared_conv
from audio_ssl.model.feature_encoder import ConvLayer
from audio_ssl.model.kernels import FrozenLinear, Packing, freeze_linears, gelu, thaw_linears
from audio_ssl.model.positional import ConvPositionalEmbedding, fold_weight_norm


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 11), (1, 1, 11), (2, 0, 11)])
def test_a_frozen_linear_gives_the_numbers_of_its_source(shape, has_bias):
    source = nn.Linear(11, 5, bias=has_bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(FrozenLinear(source)(x), source(x), rtol=1e-6, atol=1e-6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got, expected = FrozenLinear(source)(x), source(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0.01, atol=0.01)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_a_frozen_linear_lays_its_weights_out_once_and_again_when_they_change():
    source, x = nn.Linear(11, 5), torch.randn(7, 11)
    frozen = FrozenLinear(source)
    with torch.no_grad():
        frozen(x)
        first = frozen._packed[torch.float32]
        frozen(x)
        assert frozen._packed[torch.float32] is first
        source.weight.mul_(2)
        torch.testing.assert_close(frozen(x), source(x))
        source.bias.data = torch.full((5,), 3.0)
        torch.testing.assert_close(frozen(x), source(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            frozen(x)
    assert set(frozen._packed) == {torch.float32, torch.bfloat16}
    with torch.backends.mkldnn.flags(enabled=False), torch.no_grad():
        other = FrozenLinear(source)
        torch.testing.assert_close(other(x), source(x))
    assert not other._packed


def test_thawing_puts_plain_layers_with_the_same_weights_back():
    layers = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Linear(5, 2, bias=False)))
    weights = [p.data_ptr() for p in layers.parameters()]
    freeze_linears(layers)
    thaw_linears(layers)
    assert [type(m) for m in (layers[0], layers[1][0])] == [nn.Linear, nn.Linear]
    assert [p.data_ptr() for p in layers.parameters()] == weights
    assert layers(torch.randn(7, 3)).shape == (7, 2)


def test_a_frozen_linear_has_gradients_can_be_copied_and_moved():
    source = nn.Linear(11, 5)
    frozen, x = FrozenLinear(source), torch.randn(7, 11)
    frozen(x).sum().backward()
    assert source.weight.grad is not None
    with torch.inference_mode():
        expected = frozen(x)
    clone = copy.deepcopy(frozen)
    with torch.inference_mode():
        torch.testing.assert_close(clone(x), expected)
    wide = copy.deepcopy(source).double()
    with torch.inference_mode():
        torch.testing.assert_close(FrozenLinear(wide)(x.double()), wide(x.double()))


def test_freezing_changes_no_frame(variant):
    encoder = small_encoder(variant).eval()
    frozen = copy.deepcopy(encoder)
    freeze_linears(frozen)
    assert sum(isinstance(m, FrozenLinear) for m in frozen.modules()) == sum(
        isinstance(m, nn.Linear) for m in encoder.modules()
    )
    waveforms, num_samples = torch.randn(2, 4000), torch.tensor([4000, 2345])
    with torch.inference_mode():
        torch.testing.assert_close(
            frozen(waveforms, num_samples).frames, encoder(waveforms, num_samples).frames, rtol=1e-5, atol=1e-5
        )


def test_gelu_works_in_place_only_where_no_gradient_will_want_its_input():
    x = torch.linspace(-3, 3, 7)
    kept = x.clone().requires_grad_()
    given = kept * 1.0
    before = given.detach().clone()
    torch.testing.assert_close(gelu(given), F.gelu(before))
    torch.testing.assert_close(given.detach(), before)
    given = x.clone()
    assert gelu(given).data_ptr() == given.data_ptr()
    torch.testing.assert_close(given, F.gelu(x))


@pytest.mark.parametrize("num_frames", [1, 3, 5, 6, 11])
def test_stretches_of_time_give_the_latents_of_the_whole(monkeypatch, variant, num_frames):
    monkeypatch.setattr(feature_encoder, "_STRETCH_BYTES", 0)
    monkeypatch.setattr(feature_encoder, "_SHORTEST_STRETCH", 3)
    encoder = small_encoder(variant).feature_encoder.eval()
    width = encoder.geometry.samples_for_frames(num_frames) + 13
    waveforms, num_samples = torch.randn(3, width) + 0.5, torch.tensor([width, 401, 399])
    widths = []
    monkeypatch.setattr(feature_encoder, "gelu", lambda x: (widths.append(x.shape[1]), gelu(x))[1])
    for is_full in (False, True):
        whole, counts = encoder(waveforms, num_samples, is_full=is_full)
        widths.clear()
        with torch.no_grad():
            latents, same_counts = encoder(waveforms, num_samples, is_full=is_full)
        torch.testing.assert_close(latents, whole, rtol=1e-5, atol=1e-5)
        assert torch.equal(counts, same_counts)
        assert max(widths) <= encoder.layers[0].geometry.num_frames(encoder.geometry.samples_for_frames(3))
        assert len(set(widths)) <= len(encoder.layers)  # one shape a layer


def test_stretches_grow_with_the_memory_that_they_may_take(monkeypatch):
    encoder = small_encoder("base").feature_encoder
    lengths = []
    for size in (1 << 20, 2 << 20):
        monkeypatch.setattr(feature_encoder, "_STRETCH_BYTES", size)
        lengths.append(encoder._stretch_frames(torch.zeros(2, 100, 1)))
    widest = max(
        320 // stride * layer.conv.out_channels
        for stride, layer in zip((5, 10, 20, 40, 80, 160, 320), encoder.layers, strict=True)
    )
    assert lengths == [(1 << 20) // (widest * 2 * 4), (2 << 20) // (widest * 2 * 4)]


CONVS = {
    "strided": (nn.Conv1d(6, 4, 3, stride=2), 11),
    "grouped": (nn.Conv1d(6, 4, 4, padding=2, groups=2, bias=False), 7),
}


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("has_gelu", [True, False])
@pytest.mark.parametrize("kind", sorted(CONVS))
def test_a_prepared_conv_gives_the_numbers_of_conv1d(kind, has_gelu, has_onednn):
    conv, num_frames = CONVS[kind]
    x, packing = torch.randn(3, num_frames, 6), Packing()
    with torch.backends.mkldnn.flags(enabled=has_onednn), torch.inference_mode():
        expected = conv(x.transpose(1, 2)).transpose(1, 2)
        expected = F.gelu(expected) if has_gelu else expected
        got = prepared_conv(conv, packing, dtype=torch.float32, has_gelu=has_gelu)(x)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        got = prepared_conv(conv, packing, dtype=torch.bfloat16, has_gelu=has_gelu)(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_a_prepared_conv_is_laid_out_once_and_again_when_it_changes():
    conv, packing, x = nn.Conv1d(6, 4, 3), Packing(), torch.randn(2, 9, 6)

    def run():
        with torch.no_grad():
            return prepared_conv(conv, packing, dtype=torch.float32, has_gelu=False)(x)

    before = run()
    first = packing[torch.float32]
    torch.testing.assert_close(run(), before)
    assert packing[torch.float32] is first
    with torch.no_grad():
        conv.weight.mul_(2)
        conv.bias.mul_(2)
    torch.testing.assert_close(run(), 2 * before)
    assert not copy.deepcopy(packing)


def test_validation_sees_the_convs_as_they_are_after_a_fused_step():
    """Fused optimizers change weights in a way that torch does not count."""
    layer, x = ConvLayer(6, 4, kernel=3, stride=2, bias=True, norm="layer"), torch.randn(2, 9, 6)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)

    def validated():
        layer.eval()
        with torch.no_grad():
            return layer.prepare(x, None)(x)

    before = validated()
    layer.train()
    layer(x, None).square().sum().backward()
    optimizer.step()
    after = layer(x, None).detach()
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(validated(), after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [4, 5])
def test_positions_without_gradients_are_those_with(kernel):
    positional = ConvPositionalEmbedding(12, kernel=kernel, groups=3)
    features = torch.randn(2, 9, 12)
    expected = positional(features).detach()
    with torch.inference_mode():
        torch.testing.assert_close(positional(features), expected, rtol=1e-5, atol=1e-6)
        fold_weight_norm(parent := nn.Sequential(positional))
        torch.testing.assert_close(parent(features), expected, rtol=1e-5, atol=1e-6)
    assert list(positional._packing) == ([torch.float32] if torch.backends.mkldnn.is_available() else [])
