"""Exits: what the network would give if it ended after a block, and what is told to the blocks above."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small_models import small_encoder

from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.depth import by_depth
from audio_ssl.model.squeeze import SqueezedContextNetwork, pool

FEATURES, NUM_FRAMES = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1)), torch.tensor([7, 5])
SHAPES = [("base", 1), ("large", 1), ("base", 2), ("large", 2)]


def network_of(variant: str, stride: int):
    return small_encoder(variant, context_stride=stride).context_network


def cut(network, num_blocks: int):
    """The same network with its first blocks alone."""
    short = copy.deepcopy(network)
    inner = short.network if isinstance(short, SqueezedContextNetwork) else short
    inner.blocks = inner.blocks[:num_blocks]
    return short


@pytest.mark.parametrize(("variant", "stride"), SHAPES)
def test_an_exit_is_given_what_the_network_gives_if_it_ends_there(variant, stride):
    network, found = network_of(variant, stride), {}
    plain = network(FEATURES, NUM_FRAMES).frames
    exits = {n: lambda frames, n=n: found.update({n: frames}) for n in (1, 2, 3)}
    assert torch.equal(network(FEATURES, NUM_FRAMES, exits=exits).frames, plain)  # nothing added: nothing changes
    for number, frames in found.items():
        torch.testing.assert_close(frames, cut(network, number)(FEATURES, NUM_FRAMES).frames)
        assert not frames[1, 5:].any()


@pytest.mark.parametrize(("variant", "stride"), SHAPES)
def test_what_an_exit_returns_is_added_before_the_next_block(variant, stride):
    network = network_of(variant, stride)
    added = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(2)) * (torch.arange(7) < 5)[None, :, None]
    layers = network(FEATURES, NUM_FRAMES, return_layers=True).layers
    told = network(FEATURES, NUM_FRAMES, return_layers=True, exits={2: lambda _: added}).layers
    assert torch.equal(told[1], layers[1])
    pooled = pool(added, NUM_FRAMES, stride=stride).repeat_interleave(stride, dim=1)[:, :7]
    torch.testing.assert_close(told[2][0], (layers[2] + pooled)[0])
    assert not torch.allclose(told[3], layers[3])


def test_a_self_conditioned_recogniser_tells_its_blocks_the_probabilities():
    model = CTCModel(small_encoder("large"), 5, conditioned_after=(1,)).eval()
    plain = CTCModel(model.encoder, 5).eval()
    plain.head = model.head
    waveforms, num_samples = torch.randn(1, 3000), torch.tensor([3000])
    before = plain(waveforms, num_samples)[0]
    assert torch.equal(model(waveforms, num_samples)[0], before)  # as it begins it tells them nothing
    torch.nn.init.normal_(model.condition.weight)
    torch.nn.init.normal_(model.condition.bias)
    network = model.encoder.context_network
    latents, _ = model.encoder.feature_encoder(waveforms, num_samples)
    features, _ = model.encoder.feature_projection(latents)
    x = network.blocks[0](features + network.positional(features), None)
    probabilities = F.softmax(F.linear(network.norm(x), model.head.weight, model.head.bias), dim=-1)
    x = x + probabilities @ model.condition.weight.T + model.condition.bias
    for block in network.blocks[1:]:
        x = block(x, None)
    expected = F.log_softmax(model.head(network.norm(x)), dim=-1)
    found = model(waveforms, num_samples)[0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, before)


NAMES_AT_DEPTH = {
    ("base", 1): {"norm.weight": 0, "positional.conv.bias": 0, "blocks.0.attention.query.weight": 1},
    ("large", 1): {"norm.weight": 4, "blocks.2.feed_forward_norm.bias": 3},
    ("base", 2): {"norm.weight": 4, "upsample.bias": 4,
                  "network.norm.weight": 0, "network.blocks.1.attention.key.bias": 2},
    ("large", 2): {"norm.weight": 4, "network.norm.weight": 4, "positional.conv.bias": 0},
}  # fmt: skip


@pytest.mark.parametrize(("variant", "stride"), SHAPES)
def test_every_weight_has_one_depth(variant, stride):
    encoder = small_encoder(variant, context_stride=stride)
    depths = by_depth(encoder)
    assert len(depths) == 5
    found = [id(parameter) for group in depths for parameter in group]
    assert sorted(found) == sorted(map(id, encoder.parameters()))
    of_name = {id(p): n.removeprefix("context_network.") for n, p in encoder.named_parameters()}
    named = {of_name[id(p)]: depth for depth, group in enumerate(depths) for p in group}
    assert named.items() >= NAMES_AT_DEPTH[variant, stride].items()
    assert {named["mask_embedding"], named["feature_projection.projection.weight"]} == {0}
