"""The squeezed context network beside a plain one of torch's own parts, and its laws."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small_models import small_encoder
from torch import nn

from audio_ssl.model.positional import ConvPositionalEmbedding, fold_weight_norm
from audio_ssl.model.squeeze import SqueezedContextNetwork, pool


def squeezed(variant: str = "base", *, stride: int = 3, **changes) -> SqueezedContextNetwork:
    network = small_encoder(variant, context_stride=stride, **changes).context_network
    assert isinstance(network, SqueezedContextNetwork)
    return network


def reference(context: SqueezedContextNetwork, features: torch.Tensor, *, stride: int) -> list[torch.Tensor]:
    """Layers at the pooled rate and the network's frames, of rows without padding (B, T, D)."""
    pooled = nn.AvgPool1d(stride, stride, ceil_mode=True)(
        features.transpose(1, 2)
    )  # a short group: mean of what exists
    conv = nn.Conv1d(24, 24, context.positional.conv.kernel_size[0], stride=stride, groups=4,
                     padding=context.positional.conv.padding[0])  # fmt: skip
    conv.weight, conv.bias = nn.Parameter(context.positional.conv.weight), context.positional.conv.bias
    positions = F.gelu(conv(features.transpose(1, 2)))[..., : pooled.shape[2]]
    x, network = (pooled + positions).transpose(1, 2), context.network
    layers = [network.norm(x) if network.norm_order == "post" else x]
    for block in network.blocks:
        layers.append(block(layers[-1], None))
    frames = layers[-1] if network.norm_order == "post" else network.norm(layers[-1])
    up = [
        F.linear(frames, *part)
        for part in zip(context.upsample.weight.chunk(stride), context.upsample.bias.chunk(stride), strict=True)
    ]
    whole = torch.stack(up, dim=2).flatten(1, 2)[:, : features.shape[1]]  # frame n * j + i is chunk i of pooled frame j
    return [*layers, context.norm(features + whole)]


@pytest.mark.parametrize(("stride", "num_frames"), [(2, 8), (2, 7), (3, 7), (3, 8), (5, 3)])
@pytest.mark.parametrize("kernel", [8, 5])
def test_frames_and_layers_are_those_of_plain_parts(variant, stride, num_frames, kernel):
    context, features = squeezed(variant, stride=stride, pos_conv_kernel=kernel), torch.randn(3, num_frames, 24)
    output = context(features, torch.full((3,), num_frames), return_layers=True)
    *layers, frames = reference(context, features, stride=stride)
    torch.testing.assert_close(output.frames, frames, rtol=1e-5, atol=1e-5)
    assert len(output.layers) == len(layers) == 4
    for ours, theirs in zip(output.layers, layers, strict=True):
        repeated = torch.stack([theirs[:, t // stride] for t in range(num_frames)], dim=1)
        torch.testing.assert_close(ours, repeated, rtol=1e-5, atol=1e-5)


def test_the_mean_of_a_short_group_is_over_what_exists():
    features = torch.tensor([[2.0, 4.0, 9.0, 1.0, 5.0], [3.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 5])[..., None]
    pooled = pool(features, torch.tensor([5, 1, 0]), stride=3)
    assert pooled[..., 0].tolist() == [[5.0, 3.0], [3.0, 0.0], [0.0, 0.0]]


def test_padding_is_zero_and_does_not_matter(variant):
    context, num_frames = squeezed(variant), torch.tensor([11, 7, 3, 1, 0])
    features = torch.randn(5, 11, 24)
    output = context(features, num_frames, return_layers=True)
    for row, frames in enumerate(num_frames.tolist()):
        for x in (output.frames, *output.layers):
            assert (x[row, frames:] == 0).all()
        if frames:
            alone = context(features[row : row + 1, :frames], num_frames[row : row + 1], return_layers=True)
            torch.testing.assert_close(output.frames[row, :frames], alone.frames[0], rtol=1e-5, atol=1e-5)
            for ours, theirs in zip(output.layers, alone.layers, strict=True):
                torch.testing.assert_close(ours[row, :frames], theirs[0], rtol=1e-5, atol=1e-5)
    known = context(features[:1], num_frames[:1], is_full=True)
    torch.testing.assert_close(known.frames, context(features[:1], num_frames[:1], is_full=False).frames)


def test_max_layer_gives_that_block_as_it_is(variant):
    context, features, num_frames = squeezed(variant), torch.randn(2, 7, 24), torch.tensor([7, 5])
    layers = context(features, num_frames, return_layers=True).layers
    for layer in range(4):
        output = context(features, num_frames, max_layer=layer)
        assert torch.equal(output.frames, layers[layer])
        assert output.layers is None
    with pytest.raises(ValueError, match="max_layer must be between 0 and 3, got 4"):
        context(features, num_frames, max_layer=4)


def test_every_parameter_learns_from_every_frame(variant):
    context, features = squeezed(variant).train(), torch.randn(2, 7, 24, requires_grad=True)
    context(features, torch.tensor([7, 5])).frames.square().sum().backward()
    silent = {name for name, p in context.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent <= {f"network.blocks.{i}.attention.key.bias" for i in range(3)}  # softmax takes it away
    assert features.grad[0].any(-1).all()


@pytest.mark.parametrize(("kernel", "stride"), [(8, 2), (5, 2), (8, 3), (5, 3)])
@pytest.mark.parametrize("num_frames", [6, 7, 8])
def test_strided_positions_are_every_nth_of_the_plain_ones(kernel, stride, num_frames):
    strided = ConvPositionalEmbedding(6, kernel=kernel, groups=3, stride=stride)
    plain = ConvPositionalEmbedding(6, kernel=kernel, groups=3)
    plain.load_state_dict(strided.state_dict())
    features = torch.randn(2, num_frames, 6)
    torch.testing.assert_close(strided(features), plain(features)[:, ::stride])


def test_folding_weight_norm_changes_no_number():
    context = squeezed()
    folded, features = copy.deepcopy(context), torch.randn(2, 7, 24)
    fold_weight_norm(folded)
    num_frames = torch.tensor([7, 5])
    assert torch.equal(folded(features, num_frames).frames, context(features, num_frames).frames)
    assert not any("parametrizations" in name for name in folded.state_dict())


def test_a_subset_of_frames_is_refused():
    network = small_encoder("large", context_stride=2).context_network
    with pytest.raises(ValueError, match="kept_frames must be None"):
        network(torch.zeros(1, 4, 24), torch.tensor([4]), kept_frames=object())


def test_the_way_up_starts_as_bert():
    torch.manual_seed(0)
    upsample = squeezed(dim=48).upsample
    assert upsample.weight.shape == (144, 48)
    assert small_encoder(dim=48, context_stride=3).context_network.upsample.weight.std().item() == pytest.approx(
        0.02, rel=0.05
    )
