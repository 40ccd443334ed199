"""Grouped convs by matrix products against torch's, and who uses them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from audio_ssl.model.conv import conv_over_time
from audio_ssl.model.first_conv import TimeNormedConv, fit_time_normed_conv
from audio_ssl.model.grouped_conv import grouped_conv, grouped_weight_gradient
from audio_ssl.model.positional import ConvPositionalEmbedding, normed_weight

# rows, frames, channels in, channels out, kernel, groups, stride, padding
SHAPES = [
    (2, 50, 12, 12, 16, 3, 1, 8),
    (3, 41, 8, 12, 7, 4, 1, 3),  # a kernel that is no multiple of the shifts, and fewer channels in than out
    (2, 33, 12, 12, 16, 3, 2, 8),
    (1, 20, 4, 6, 5, 2, 3, 2),  # frames are left over at the end
    (2, 9, 4, 4, 128, 2, 1, 64),  # a kernel longer than the row
    (2, 10, 4, 4, 128, 2, 2, 64),
    (2, 13, 8, 4, 3, 2, 2, 0),
]


def leaves(rows, frames, channels, outputs, kernel, groups, dtype=torch.float64):
    torch.manual_seed(3)
    shapes = ((rows, frames, channels), (outputs, channels // groups, kernel), (outputs,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def torchs(x, weight, bias, **settings):
    return F.conv1d(x.transpose(1, 2), weight, bias, **settings).transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_conv1ds(shape):
    *sizes, stride, padding = shape
    settings = {"stride": stride, "padding": padding, "groups": sizes[-1]}
    inputs = leaves(*sizes)
    ours, expected = grouped_conv(*inputs, **settings), torchs(*inputs, **settings)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(expected)
    ours_back, expected_back = (torch.autograd.grad(y, inputs, grad) for y in (ours, expected))
    torch.testing.assert_close(ours_back, expected_back, rtol=1e-12, atol=1e-12)
    if stride == 1:
        of_weight = grouped_weight_gradient(
            grad, inputs[0].detach(), kernel=sizes[4], padding=padding, groups=sizes[-1]
        )
        torch.testing.assert_close(of_weight, expected_back[1], rtol=1e-12, atol=1e-12)


def test_without_bias_none_is_added():
    x, weight, _ = leaves(1, 9, 4, 4, 3, 2)
    settings = {"stride": 1, "padding": 1, "groups": 2}
    torch.testing.assert_close(grouped_conv(x, weight, None, **settings), torchs(x, weight, None, **settings))


@pytest.mark.parametrize("conv", [grouped_conv, conv_over_time])
def test_bf16_keeps_the_number_format_of_products_and_the_gradients_of_weights(conv):
    """On a CPU ``conv_over_time`` takes oneDNN's conv and the weight's gradient from products."""
    inputs = leaves(2, 60, 32, 32, 16, 4, dtype=torch.float32)
    settings = {"stride": 1, "padding": 8, "groups": 4}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(*inputs, **settings)
    assert y.dtype == torch.bfloat16
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    expected = torchs(*doubles, **settings)
    assert (y - expected).abs().max() < 0.01 * expected.abs().max()
    grad = torch.randn_like(expected)
    ours = torch.autograd.grad(y, inputs, grad.to(y.dtype))
    for found, wanted in zip(ours, torch.autograd.grad(expected, doubles, grad), strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() < 0.01 * wanted.abs().max()


class Operations(TorchDispatchMode):
    """Names of what was run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stride", [1, 2])
def test_no_device_but_the_cpu_runs_a_grouped_conv(stride):
    with torch.device("meta"):
        positional = ConvPositionalEmbedding(32, kernel=16, groups=4, stride=stride)
        features = torch.zeros(2, 21, 32, requires_grad=True)
    with Operations() as seen:
        y = positional(features)
        y.sum().backward()
    assert y.shape == (2, -(-21 // stride), 32)
    assert "bmm" in seen.names
    assert not [name for name in seen.names if "convolution" in name or "weight_norm" in name]


def test_the_normed_weight_is_torchs():
    conv = ConvPositionalEmbedding(12, kernel=6, groups=3).conv
    with torch.no_grad():
        conv.parametrizations.weight.original0.mul_(torch.linspace(0.5, 2, 6))
    torch.testing.assert_close(normed_weight(conv), conv.weight, rtol=1e-6, atol=1e-7)


def test_zeros_after_the_bias_change_no_number_and_a_gpu_gets_them():
    settings = {"stride": 5, "norm_weight": torch.rand(8), "norm_bias": torch.randn(8), "eps": 1e-5}
    weight = torch.randn(8, 1, 10)
    waveforms = torch.randn(2, 400)
    plain = fit_time_normed_conv(waveforms, weight, num_frames=None, **settings)
    assert plain.taps.shape[1] == 11
    padded = TimeNormedConv(plain.mean, F.pad(plain.taps, (0, 0, 0, 5)), plain.kernel, plain.stride)
    torch.testing.assert_close(padded(waveforms), plain(waveforms))
    on_meta = {key: value.to("meta") if torch.is_tensor(value) else value for key, value in settings.items()}
    fitted = fit_time_normed_conv(waveforms.to("meta"), weight.to("meta"), num_frames=None, **on_meta)
    assert fitted.taps.shape[1] == 16
    assert fitted(waveforms.to("meta")).shape == plain(waveforms).shape
