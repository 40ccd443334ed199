"""Laws of positions and the context network."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from small_models import small_encoder

from audio_ssl.model.positional import ConvPositionalEmbedding, fold_weight_norm
from audio_ssl.tensors import FrameSubset


def test_position_k_of_the_kernel_sees_frame_t_plus_k_minus_half():
    positional = ConvPositionalEmbedding(4, kernel=6, groups=2)
    features = torch.zeros(1, 11, 4)
    features[0, 5, 0] = 1.0  # an impulse reaches frames t with 5 = t + k - 3, so t = 3..8, in group 0 only
    out = positional(features)
    weight = positional.conv.weight[:2, 0]  # (2, K)
    expected = torch.zeros(1, 11, 4)
    expected[0, 3:9, :2] = F.gelu(weight.flip(-1).T)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("kernel", [5, 8])
def test_positions_keep_the_number_of_frames(kernel):
    assert ConvPositionalEmbedding(6, kernel=kernel, groups=3)(torch.randn(3, 7, 6)).shape == (3, 7, 6)


def test_weight_norm_has_one_length_for_each_kernel_position():
    conv = ConvPositionalEmbedding(6, kernel=5, groups=3).conv
    length, direction = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
    assert length.shape == (1, 1, 5)
    expected = direction * length / direction.pow(2).sum(dim=(0, 1), keepdim=True).sqrt()
    torch.testing.assert_close(conv.weight, expected)


def test_positions_start_as_fairseq_draws_them():
    torch.manual_seed(0)
    conv = ConvPositionalEmbedding(64, kernel=32, groups=4).conv
    assert conv.weight.std().item() == pytest.approx((4 / (32 * 64)) ** 0.5, rel=0.03)
    assert conv.bias.abs().max() == 0


def test_folding_weight_norm_changes_no_number(variant):
    encoder = small_encoder(variant)
    folded = copy.deepcopy(encoder)
    fold_weight_norm(folded)
    waveforms, num_samples = torch.randn(2, 2003), torch.tensor([2003, 1500])
    assert torch.equal(folded(waveforms, num_samples).frames, encoder(waveforms, num_samples).frames)
    assert not any("parametrizations" in name for name in folded.state_dict())


@pytest.mark.parametrize("num_frames", [(7, 7), (7, 3)])
def test_both_ways_of_attention_agree(variant, num_frames):
    context = small_encoder(variant).context_network
    features, lengths = torch.randn(2, 7, 24), torch.tensor(num_frames)
    with torch.no_grad():
        fused = context(features, lengths).frames
    torch.testing.assert_close(context(features, lengths).frames, fused, rtol=1e-5, atol=1e-5)


def test_linears_start_as_bert():
    torch.manual_seed(0)
    block = small_encoder(dim=48, ffn_dim=512).context_network.blocks[0]
    assert block.feed_forward.inner.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.value.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_layers_are_the_blocks_chained(variant):
    context = small_encoder(variant).context_network
    features, num_frames = torch.randn(3, 7, 24), torch.tensor([7, 7, 7])
    output = context(features, num_frames, return_layers=True)
    assert len(output.layers) == 4
    for block, before, after in zip(context.blocks, output.layers, output.layers[1:], strict=False):
        assert torch.equal(block(before, None), after)
    last = output.layers[-1]
    assert torch.equal(output.frames, context.norm(last) if variant == "large" else last)


def test_max_layer_gives_that_block_as_it_is(variant):
    context = small_encoder(variant).context_network
    features, num_frames = torch.randn(3, 7, 24), torch.tensor([7, 5, 2])
    layers = context(features, num_frames, return_layers=True).layers
    for layer in range(4):
        output = context(features, num_frames, max_layer=layer)
        assert torch.equal(output.frames, layers[layer])
        assert output.layers is None


@pytest.mark.parametrize("layer", [-1, 4])
def test_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ValueError, match="between 0 and 3"):
        small_encoder().context_network(torch.randn(1, 7, 24), torch.tensor([7]), max_layer=layer)


def test_padding_is_zero_and_does_not_matter(variant):
    context = small_encoder(variant).context_network
    features, num_frames = torch.randn(3, 7, 24), torch.tensor([7, 5, 0])
    dirty = features.clone()
    dirty[1, 5:] = 30.0
    dirty[2] = -30.0
    clean, output = (context(x, num_frames, return_layers=True) for x in (features, dirty))
    for a, b in zip((clean.frames, *clean.layers), (output.frames, *output.layers), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
        assert b[1, 5:].abs().max() == 0
        assert b[2].abs().max() == 0


def test_a_row_without_frames_gives_finite_gradients(variant):
    encoder = small_encoder(variant).train()
    encoder(torch.randn(2, 1000), torch.tensor([1000, 399])).frames.square().sum().backward()
    assert all(p.grad.isfinite().all() for n, p in encoder.named_parameters() if n != "mask_embedding")


def test_layer_drop_leaves_features_unchanged_in_training_only(variant):
    context = small_encoder(variant, layer_drop=0.999).context_network
    features, num_frames = torch.randn(1, 7, 24), torch.tensor([7])
    kept = context(features, num_frames, return_layers=True).layers
    assert not torch.equal(kept[0], kept[1])
    torch.manual_seed(1)
    dropped = context.train()(features, num_frames, return_layers=True).layers
    assert all(torch.equal(dropped[0], layer) for layer in dropped[1:])


def test_layer_drop_rate_is_the_share_of_dropped_blocks():
    context = small_encoder("large", layer_drop=0.3, num_layers=5).context_network.train()
    torch.manual_seed(3)
    dropped = 0
    for _ in range(200):
        layers = context(torch.randn(1, 2, 24), torch.tensor([2]), return_layers=True).layers
        dropped += sum(torch.equal(a, b) for a, b in itertools.pairwise(layers))
    assert dropped / 1000 == pytest.approx(0.3, abs=0.05)  # three deviations


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "activation_dropout", "feature_dropout"])
def test_each_dropout_acts_in_training_only(rate):
    encoder = small_encoder("large", **{rate: 0.5})
    waveforms, num_samples = torch.randn(1, 2000), torch.tensor([2000])
    assert torch.equal(encoder(waveforms, num_samples).frames, encoder(waveforms, num_samples).frames)
    encoder.train()
    assert not torch.equal(encoder(waveforms, num_samples).frames, encoder(waveforms, num_samples).frames)


def test_kept_frames_go_through_the_blocks_alone(variant):
    """The row with frames 1, 2, 5 of 7, and of a row of 4 frames with 0, 3: blocks on these after positions on all."""
    context = small_encoder(variant).context_network
    features, num_frames = torch.randn(2, 7, 24), torch.tensor([7, 4])
    is_kept = torch.tensor([[0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0, 0]]).bool()
    kept = FrameSubset.of(is_kept, max_chosen=3)
    output = context(features, num_frames, kept_frames=kept, return_layers=True)
    assert output.num_frames.tolist() == [3, 2]
    for row, frames in enumerate(([1, 2, 5], [0, 3])):
        valid = features[row : row + 1, : num_frames[row]]
        x = (valid + context.positional(valid))[:, frames]
        x = context.norm(x) if context.norm_order == "post" else x
        layers = [x]
        for block in context.blocks:
            layers.append(block(layers[-1], None))
        expected = layers[-1] if context.norm_order == "post" else context.norm(layers[-1])
        torch.testing.assert_close(output.frames[row, : len(frames)], expected[0], atol=1e-5, rtol=1e-4)
        assert not output.frames[row, len(frames) :].any()
        for ours, theirs in zip(output.layers, layers, strict=True):
            torch.testing.assert_close(ours[row, : len(frames)], theirs[0], atol=1e-5, rtol=1e-4)


def test_keeping_all_frames_changes_no_number(variant):
    context = small_encoder(variant).context_network
    features, num_frames = torch.randn(2, 7, 24), torch.tensor([7, 4])
    kept = FrameSubset.of(torch.arange(7) < num_frames[:, None], max_chosen=7)
    found = context(features, num_frames, kept_frames=kept).frames
    torch.testing.assert_close(found, context(features, num_frames).frames)


def test_a_subset_is_packed_in_rising_order_and_shared_rows_are_picked_in_turn():
    is_chosen = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    subset = FrameSubset.of(is_chosen, max_chosen=2)
    assert subset.counts.tolist() == [2, 1, 2, 0]
    assert subset.frame_idx[[0, 2]].tolist() == [[1, 3], [2, 3]]
    shared = torch.tensor([[0, 1, 2, 3], [10, 11, 12, 13]])[..., None]  # rows 0, 1 and rows 2, 3 of the subset
    picked = subset.pick(shared)[..., 0]
    assert picked[0].tolist() == [1, 3]
    assert picked[1, 0] == 0
    assert picked[2].tolist() == [12, 13]
