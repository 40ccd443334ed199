"""Laws of the convolution inside a block: by hand, where it stands, and what a row's end and a subset mean to it."""

from __future__ import annotations

import pytest
import torch
from small_models import small_config, small_encoder

from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.local_conv import LocalConv
from audio_ssl.tensors import FrameSubset


def shaken(module):
    """Fresh norms and biases are 1 and 0: faults in them would not show."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def normed(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def by_hand(conv: LocalConv, x, num_frames: int):
    """One row, (T, D), of which ``num_frames`` are there."""
    dim, half = x.shape[1], conv.depthwise.kernel_size[0] // 2
    wide = x @ conv.inner.weight.T + conv.inner.bias
    gated = wide[:, :dim] / (1 + (-wide[:, dim:]).exp())
    mixed = conv.depthwise.bias.expand(num_frames, dim).clone()
    for t in range(num_frames):
        for k in range(2 * half + 1):
            if 0 <= t + k - half < num_frames:
                mixed[t] += conv.depthwise.weight[:, 0, k] * gated[t + k - half]
    mixed = normed(mixed, conv.norm)
    return mixed / (1 + (-mixed).exp()) @ conv.output.weight.T + conv.output.bias


@pytest.mark.parametrize("has_gradients", [True, False])
@pytest.mark.parametrize("kernel", [1, 5, 21])
def test_neighbours_of_a_row_are_mixed_and_nothing_beyond_it(kernel, has_gradients):
    conv, x = shaken(LocalConv(6, kernel=kernel, layer_norm_eps=1e-3)), torch.randn(3, 7, 6)
    x[1, 4:], x[2, 1:] = 1e4, torch.nan
    attends = (torch.arange(7) < torch.tensor([7, 4, 1])[:, None])[:, None, None]
    with torch.set_grad_enabled(has_gradients):
        found, alone = conv(x, attends), conv(x[1:2, :4], None)
    for row, num_frames in enumerate((7, 4, 1)):
        torch.testing.assert_close(found[row, :num_frames], by_hand(conv, x[row], num_frames), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone[0], found[1, :4], rtol=1e-4, atol=1e-5)


def test_it_stands_before_the_attention_normed_as_the_other_parts(variant):
    block = shaken(small_encoder(variant, block_conv_kernel=3).context_network.blocks[0])
    x, conv, norm = torch.randn(2, 7, 24), block.local_conv, block.local_conv_norm
    before = x + conv(normed(x, norm), None) if variant == "large" else normed(x + conv(x, None), norm)
    expected = block(x, None)
    block.local_conv = None  # the rest is a plain block, which other tests know
    torch.testing.assert_close(expected, block(before, None), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, block(x, None), atol=0.1)


def test_its_output_is_dropped_as_that_of_the_other_parts():
    block = small_encoder("large", block_conv_kernel=3, dropout=0.5).context_network.blocks[0].train()
    torch.nn.init.zeros_(block.attention.output.weight)
    torch.nn.init.zeros_(block.attention.output.bias)
    torch.nn.init.zeros_(block.feed_forward.output.weight)
    torch.nn.init.zeros_(block.feed_forward.output.bias)
    added = block(torch.zeros(5, 7, 24), None)
    assert 0.3 < (added == 0).float().mean() < 0.7


@pytest.mark.parametrize("changes", [{}, {"context_stride": 2}, {"front_end": "mel"}])
def test_training_reaches_all_of_it(variant, changes):
    encoder = small_encoder(variant, block_conv_kernel=5, **changes).train()
    encoder(torch.randn(2, 4000), torch.tensor([4000, 2003])).frames.square().sum().backward()
    parts = {name: p for name, p in encoder.named_parameters() if ".local_conv" in name}
    assert len(parts) == 3 * 10  # four parts of a convolution and its norm, weight and bias of each, in three blocks
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in parts.values())


def test_it_starts_as_the_rest_of_the_network():
    conv = LocalConv(96, kernel=9, layer_norm_eps=1e-5)
    assert conv.inner.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert conv.output.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert conv.depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert not any(layer.bias.any() for layer in (conv.inner, conv.output, conv.depthwise))


def test_a_subset_of_frames_is_refused():
    network = small_encoder(block_conv_kernel=3).context_network
    subset = FrameSubset.of(torch.tensor([[True, False, True]]), max_chosen=2)
    with pytest.raises(ValueError, match="kept_frames must be None where blocks have convolutions"):
        network(torch.randn(1, 3, 24), torch.tensor([3]), kept_frames=subset)


def test_a_model_without_it_has_its_names_and_draws_alone():
    torch.manual_seed(9)
    plain = build_encoder(small_config())
    generator_after = torch.get_rng_state()
    torch.manual_seed(9)
    assert not [name for name in build_encoder(small_config(block_conv_kernel=0)).state_dict() if "local_conv" in name]
    assert torch.equal(torch.get_rng_state(), generator_after)
    torch.manual_seed(9)
    other = build_encoder(small_config(block_conv_kernel=3)).state_dict()
    assert set(plain.state_dict()) == {name for name in other if ".local_conv" not in name}
