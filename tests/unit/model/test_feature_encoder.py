"""Laws of the conv feature encoder."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import small_encoder

from audio_ssl.geometry import ConvGeometry
from audio_ssl.model.conv import conv_over_time
from audio_ssl.model.feature_encoder import FeatureEncoder, TimeNorm
from audio_ssl.model.first_conv import fit_time_normed_conv

# docs of the field: hop 320, receptive field 400
FRAMES_OF_SAMPLES = {399: 0, 400: 1, 719: 1, 720: 2, 16000: 49, 32000: 99, 160000: 499, 250000: 781, 320000: 999}


def test_frame_counts_are_the_published_ones():
    geometry = small_encoder().geometry
    assert {n: geometry.num_frames(n) for n in FRAMES_OF_SAMPLES} == FRAMES_OF_SAMPLES


@pytest.mark.parametrize("num_samples", [400, 719, 720, 1361])
def test_width_and_lengths_agree_with_the_arithmetic(variant, num_samples):
    encoder = small_encoder(variant)
    latents, num_frames = encoder.feature_encoder(torch.randn(2, num_samples), torch.tensor([num_samples, 401]))
    assert latents.shape == (2, encoder.geometry.num_frames(num_samples), 13)
    assert num_frames.tolist() == [encoder.geometry.num_frames(num_samples), 1]


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 0, 1), (3, 2, 1), (1, 4, 3)])
def test_conv_over_time_is_conv1d(stride, padding, groups):
    x, weight, bias = torch.randn(3, 17, 6), torch.randn(9, 6 // groups, 5), torch.randn(9)
    settings = {"stride": stride, "padding": padding, "groups": groups}
    expected = F.conv1d(x.transpose(1, 2), weight, bias, **settings).transpose(1, 2)
    torch.testing.assert_close(conv_over_time(x, weight, bias, **settings), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(7, 3, 2), (7, 2, 2), (5, 3, 1), (3, 1, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_of_conv_over_time_are_conv1ds(channels, kernel, stride, with_bias):
    x, weight = torch.randn(3, 17, channels), torch.randn(9, channels, kernel)
    bias = torch.randn(9) if with_bias else None
    both = []
    for conv in (
        lambda x, w, b: conv_over_time(x, w, b, stride=stride),
        lambda x, w, b: F.conv1d(x.transpose(1, 2), w, b, stride=stride).transpose(1, 2),
    ):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
        y = conv(*leaves, *([] if with_bias else [None]))
        both.append([y, *torch.autograd.grad((y * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum(), leaves)])
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_wide_convs_in_bf16_have_the_gradients_of_float32():
    x, weight = torch.randn(2, 31, 512), torch.randn(512, 512, 3) / 40
    grads = []
    for enabled in (True, False):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = conv_over_time(*leaves, None, stride=2)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        grads.append(torch.autograd.grad(y.float().square().sum(), leaves))
    for low, full in zip(*grads, strict=True):
        assert low.dtype == torch.float32
        assert (low - full).abs().max() < 0.02 * full.abs().max()


@pytest.mark.parametrize("lengths", [None, [400, 173, 61]])
def test_first_conv_and_norm_in_one_product_are_both_apart(lengths):
    torch.manual_seed(2)
    waveforms = torch.randn(3, 400) + 2.5  # a constant must not cost digits
    conv, norm = torch.nn.Conv1d(1, 7, 10, stride=5).double(), TimeNorm(7).double()
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    num_frames = None if lengths is None else (torch.tensor(lengths) - 10) // 5 + 1
    leaves = [conv.weight, norm.weight, norm.bias]
    apart = norm.forward(conv(waveforms[:, None].double()).transpose(1, 2), num_frames)
    kernel, weight, bias = (leaf.detach().float().requires_grad_() for leaf in leaves)
    joined = fit_time_normed_conv(
        waveforms, kernel, stride=5, norm_weight=weight, norm_bias=bias, eps=norm.eps, num_frames=num_frames
    )(waveforms, num_frames)
    assert (joined - apart).abs().max() < 1e-5 * apart.abs().max()
    probe = torch.linspace(-1, 2, apart.numel()).view(apart.shape)
    expected = torch.autograd.grad((apart * probe).sum(), leaves)
    found = torch.autograd.grad((joined * probe).sum(), [kernel, weight, bias])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_first_conv_has_no_negative_variance_on_a_slow_ramp():
    encoder = FeatureEncoder((64,), geometry=ConvGeometry((10,), (5,)), bias=False, norm="group")
    with torch.no_grad():
        weight = encoder.layers[0].conv.weight
        weight.mul_(30).sub_(weight.mean(-1, keepdim=True))  # differences: a constant gives nothing
    waveforms = torch.linspace(-1, 1, 16_000).expand(2, -1)
    for is_training in (True, False):
        with torch.set_grad_enabled(is_training):
            latents, _ = encoder(waveforms, torch.tensor([16_000, 16_000]))
        assert latents.isfinite().all()


def test_first_conv_in_bf16_keeps_its_digits_beside_a_constant():
    encoder = FeatureEncoder((8,), geometry=ConvGeometry((10,), (5,)), bias=False, norm="group")
    waveforms, num_samples = torch.randn(2, 4000), torch.tensor([4000, 4000])
    expected, _ = encoder(waveforms, num_samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = encoder(waveforms + 30.0, num_samples)  # 30 deviations off zero
    assert (found.float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_time_norm_of_a_row_by_hand():
    norm = TimeNorm(1, eps=0.0)
    row = torch.tensor([[[1.0], [3.0], [100.0]]])  # the third frame is padding: mean 2, deviation 1
    assert norm(row, torch.tensor([2]))[0, :2, 0].tolist() == [-1.0, 1.0]
    assert norm(row[:, :2], None)[0, :, 0].tolist() == [-1.0, 1.0]


def test_time_norm_without_padding_is_group_norm():
    norm = TimeNorm(5)
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    x = 3 + 2 * torch.randn(3, 7, 5)
    expected = F.group_norm(x.transpose(1, 2), 5, norm.weight, norm.bias).transpose(1, 2)
    torch.testing.assert_close(norm(x, None), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm(x, torch.tensor([7, 7, 7])), expected, rtol=1e-5, atol=1e-6)


def test_what_lies_in_the_padding_does_not_matter(variant):
    feature_encoder = small_encoder(variant).feature_encoder
    waveforms, num_samples = torch.randn(3, 3001), torch.tensor([3001, 1999, 97])
    dirty = waveforms.clone()
    dirty[1, 1999:] = 50.0
    dirty[2, 97:] = torch.randn(2904)
    clean, num_frames = feature_encoder(waveforms, num_samples)
    latents, _ = feature_encoder(dirty, num_samples)
    torch.testing.assert_close(latents, clean, rtol=1e-5, atol=1e-5)
    assert num_frames.tolist() == [9, 5, 0]
    assert latents[1, 5:].abs().max() == 0
    assert latents[2].abs().max() == 0


def test_padded_row_equals_the_row_alone(variant):
    feature_encoder = small_encoder(variant).feature_encoder
    waveforms = torch.randn(2, 3001)
    together, num_frames = feature_encoder(waveforms, torch.tensor([3001, 1999]))
    alone, _ = feature_encoder(waveforms[1:, :1999], torch.tensor([1999]))
    torch.testing.assert_close(together[1:, : num_frames[1]], alone, rtol=1e-5, atol=1e-5)


def test_claiming_a_full_batch_skips_the_masks_only(variant):
    feature_encoder = small_encoder(variant).feature_encoder
    waveforms, num_samples = torch.randn(2, 1361), torch.tensor([1361, 1361])
    looked, _ = feature_encoder(waveforms, num_samples)
    masked, _ = feature_encoder(waveforms, num_samples, is_full=False)
    torch.testing.assert_close(masked, looked, rtol=1e-5, atol=1e-6)


def test_batch_without_room_for_a_frame_is_refused():
    with pytest.raises(ValueError, match="400 samples"):
        small_encoder().feature_encoder(torch.randn(2, 399), torch.tensor([399, 3]))


def _first_conv_gradient(grad_scale: float) -> torch.Tensor | None:
    encoder = small_encoder("large", feature_grad_scale=grad_scale)
    latents, _ = encoder.feature_encoder(torch.randn(1, 800, generator=torch.manual_seed(2)), torch.tensor([800]))
    if latents.requires_grad:
        latents.square().sum().backward()
    return encoder.feature_encoder.layers[0].conv.weight.grad


def test_gradient_is_scaled_and_zero_means_no_graph():
    whole, tenth = _first_conv_gradient(1.0), _first_conv_gradient(0.1)
    torch.testing.assert_close(tenth, 0.1 * whole)
    assert whole.abs().max() > 0
    assert _first_conv_gradient(0.0) is None


def test_convs_start_as_kaiming_normal():
    torch.manual_seed(0)
    layer = FeatureEncoder(
        (64, 64), geometry=small_encoder().geometry.__class__((10, 3), (5, 2)), bias=False, norm="layer"
    ).layers[1]
    assert layer.conv.weight.std().item() == pytest.approx((2 / (64 * 3)) ** 0.5, rel=0.03)
