"""Encoding visible frames only, with the encoder of the package, and the decoder that predicts at masked ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.positional import fold_weight_norm
from audio_ssl.objective import build_objective
from audio_ssl.objective.decoder import FrameDecoder
from audio_ssl.tensors import Batch

# Two conv layers with hop 6 and layer norm: a row's latents do not depend on padding.
MODEL = ModelConfig(
    conv_dims=(7, 11), conv_kernels=(5, 3), conv_strides=(3, 2), feature_norm="layer", conv_bias=True, dim=12,
    num_layers=2, num_heads=3, ffn_dim=17, pos_conv_kernel=5, pos_conv_groups=2, feature_grad_scale=1.0,
    dropout=0.0, attention_dropout=0.0, feature_dropout=0.0, layer_drop=0.0,
)  # fmt: skip
SETTINGS = {
    "mask_prob": 0.5, "mask_span_frames": 3, "num_distractors": 5, "num_entries": 7, "code_dim": 6, "target_dim": 5,
    "target_dropout": 0.0, "decoder_dim": 8, "decoder_groups": 2, "decoder_layers": 3, "decoder_kernel": 5,
    "decoder_dropout": 0.0,
}  # fmt: skip
T = (31, 17, 23)


def make_pair(*, device: str | None = None, norm_order: str = "post", **changes):
    torch.manual_seed(3)
    with torch.device(device or "cpu"):
        encoder = build_encoder(MODEL.model_copy(update={"norm_order": norm_order}))
        config = Wav2Vec2Config(**{**SETTINGS, "encode": "visible", **changes})
        return encoder, build_objective(config, latent_dim=11, dim=12)


def make_batch(num_frames=T) -> Batch:
    num_samples = torch.tensor([MODEL.geometry.samples_for_frames(n) for n in num_frames])
    waveforms = torch.randn(
        len(T), MODEL.geometry.samples_for_frames(max(T)), generator=torch.Generator().manual_seed(4)
    )
    waveforms = waveforms[: len(num_frames), : int(num_samples.max())]
    waveforms = waveforms.masked_fill(torch.arange(waveforms.shape[1]) >= num_samples[:, None], 0.0)
    return Batch(waveforms, num_samples, tuple(range(len(num_frames))))


def frames_of(encoder, objective, batch, *, is_masked=None, features=None):
    """What reaches the loss: (B * N, T, D'); under the given masks, from the given features."""
    seen = []
    score = objective.score

    def spy(encoded, **kwargs):
        seen.append(encoded)
        return score(encoded, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "score", spy)
        if is_masked is not None:
            patch.setattr(objective, "sample_mask", lambda *_, **__: is_masked)
        if features is not None:
            patch.setattr(encoder.feature_projection, "forward", lambda x: (features, x))
        objective(encoder, batch, update=0, generator=torch.Generator().manual_seed(5))
    return seen[0]


@pytest.mark.parametrize("norm_order", ["pre", "post"])
@pytest.mark.parametrize("num_masks", [1, 3])
def test_blocks_see_visible_frames_only_and_positions_zeros_at_masked_ones(num_masks, norm_order):
    encoder, objective = make_pair(num_masks=num_masks, norm_order=norm_order)
    blocks, positions = [], []
    encoder.context_network.blocks[0].register_forward_hook(lambda _m, args, _out: blocks.append(args[0]))
    encoder.context_network.positional.register_forward_hook(lambda _m, args, _out: positions.append(args[0]))
    batch = make_batch((31, 31, 31))
    encoded = frames_of(encoder, objective, batch)
    num_visible = 31 - objective.num_masked(31)
    assert num_visible == 18  # 31 * (5 / 6) ** 3 = 17.94
    assert blocks[0].shape == (3 * num_masks, 18, 12)
    assert not positions[0][encoded.is_masked].any()
    features = encoder.feature_projection(encoded.latents)[0].repeat_interleave(num_masks, 0)
    torch.testing.assert_close(positions[0][~encoded.is_masked], features[~encoded.is_masked])
    placed = features * ~encoded.is_masked[..., None]
    placed = placed + encoder.context_network.positional(placed)
    if norm_order == "post":
        placed = encoder.context_network.norm(placed)
    torch.testing.assert_close(blocks[0].flatten(0, 1), placed[~encoded.is_masked])  # in rising order


@pytest.mark.parametrize("encode", ["all", "visible"])
def test_nothing_of_masked_features_reaches_the_prediction(encode):
    """Exactly: the gradient of what is scored is 0 for the features of masked frames, and not for visible ones."""
    encoder, objective = make_pair(encode=encode)
    features = torch.randn(3, 31, 12, requires_grad=True)
    encoded = frames_of(encoder, objective, make_batch(), features=features)
    (encoded.frames * torch.randn_like(encoded.frames))[encoded.is_masked].sum().backward()
    is_valid = torch.arange(31) < torch.tensor(T)[:, None]
    assert torch.equal(features.grad.abs().sum(-1) > 0, is_valid & ~encoded.is_masked)


def test_rows_depend_neither_on_padding_nor_on_batch_mates():
    encoder, objective = make_pair()
    together = frames_of(encoder, objective, make_batch())
    for row, length in enumerate(T):
        batch = make_batch()
        size = int(batch.num_samples[row])
        alone = Batch(batch.waveforms[row : row + 1, :size], batch.num_samples[row : row + 1], (0,), is_full=True)
        found = frames_of(encoder, objective, alone, is_masked=together.is_masked[row : row + 1, :length])
        torch.testing.assert_close(found.frames[0], together.frames[row, :length], atol=1e-5, rtol=1e-4)


def test_full_batches_need_no_masks():
    """With ``is_full`` no mask of padding is made: the same numbers."""
    encoder, objective = make_pair()
    batch = make_batch((31, 31, 31))
    looked = frames_of(encoder, objective, Batch(batch.waveforms, batch.num_samples, batch.rows, is_full=False))
    spared = frames_of(encoder, objective, Batch(batch.waveforms, batch.num_samples, batch.rows, is_full=True))
    torch.testing.assert_close(spared.frames, looked.frames, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("encode", ["all", "visible"])
@pytest.mark.parametrize("num_masks", [1, 3])
@pytest.mark.parametrize("is_full", [None, False, True])
def test_no_device_value_is_read_by_encoder_and_objective(encode, num_masks, is_full):
    encoder, objective = make_pair(device="meta", encode=encode, num_masks=num_masks, decoder_dropout=0.1)
    fold_weight_norm(encoder)  # its backward cannot run on the meta device
    batch = make_batch().to(torch.device("meta"))
    batch = Batch(batch.waveforms, batch.num_samples, batch.rows, is_full=is_full)
    objective(encoder, batch, update=3, generator=torch.Generator()).loss_sum.backward()
    for name, parameter in [*encoder.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None or "positional" in name, name


# The decoder


def reference(decoder: FrameDecoder, x):
    """data2vec 2.0's ``Decoder1d`` in its own words: (B, T, D) -> (B, T, hidden)."""
    x = x.transpose(1, 2)
    for conv in decoder.layers:
        y = conv(x)
        y = y[..., : x.shape[-1]]  # SamePad
        y = F.gelu(F.layer_norm(y.transpose(1, 2), (y.shape[1],))).transpose(1, 2)
        x = y + x if y.shape == x.shape else y
    return x.transpose(1, 2)


@pytest.mark.parametrize("kernel", [5, 4])
@pytest.mark.parametrize("dim", [6, 8])  # 8: as wide as the decoder, so that its first layer has a residual, too
def test_decoder_is_data2vecs(kernel, dim):
    torch.manual_seed(6)
    decoder = FrameDecoder(dim, hidden_dim=8, num_layers=3, kernel=kernel, groups=2, dropout=0.0)
    is_visible = torch.tensor([[0, 1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 1]]).bool()
    context, mask_embedding = torch.randn(2, 3, dim), torch.randn(dim)
    filled = mask_embedding.expand(2, 7, dim).clone()
    filled[0, [1, 4, 5]], filled[1, [0, 6]] = context[0], context[1, :2]
    found = decoder(context, is_visible=is_visible, mask_embedding=mask_embedding, is_valid=None)
    torch.testing.assert_close(found, reference(decoder, filled))
    assert [conv.weight.shape for conv in decoder.layers] == [(8, dim // 2, kernel)] + [(8, 4, kernel)] * 2


def test_padding_does_not_enter_the_decoder():
    torch.manual_seed(7)
    decoder = FrameDecoder(6, hidden_dim=8, num_layers=3, kernel=5, groups=2, dropout=0.0)
    is_visible = torch.tensor([[0, 1, 0, 0, 1]]).bool()
    context, mask_embedding = torch.randn(1, 2, 6), torch.randn(6)
    plain = decoder(context, is_visible=is_visible, mask_embedding=mask_embedding, is_valid=None)
    is_valid = F.pad(torch.ones(1, 5), (0, 4)).bool()
    wide = decoder(
        F.pad(context, (0, 0, 0, 2), value=9.0),
        is_visible=F.pad(is_visible, (0, 4)), mask_embedding=mask_embedding, is_valid=is_valid,
    )  # fmt: skip
    torch.testing.assert_close(wide[:, :5], plain)


def test_decoder_dropout_is_for_training_only():
    decoder = FrameDecoder(6, hidden_dim=8, num_layers=1, kernel=3, groups=2, dropout=0.5)
    context, is_visible = torch.randn(1, 5, 6), torch.ones(1, 5, dtype=torch.bool)

    def decode():
        return decoder(context, is_visible=is_visible, mask_embedding=torch.zeros(6), is_valid=None)

    assert not torch.equal(decode(), decode())
    decoder.eval()
    assert torch.equal(decode(), decode())


def test_decoder_by_default_is_the_papers():
    """Base for audio: 4 layers, kernel 7, width 384, 16 groups; the objective projects from its width."""
    objective = build_objective(Wav2Vec2Config(encode="visible"), latent_dim=512, dim=768)
    shapes = {name: tuple(value.shape) for name, value in objective.state_dict().items()}
    assert shapes.pop("context_projection.weight") == (256, 384)
    expected = {"decoder.layers.0.weight": (384, 48, 7), "decoder.layers.0.bias": (384,)}
    for i in (1, 2, 3):
        expected |= {f"decoder.layers.{i}.weight": (384, 24, 7), f"decoder.layers.{i}.bias": (384,)}
    assert {name: shape for name, shape in shapes.items() if name.startswith("decoder.")} == expected
    assert isinstance(objective.decoder, nn.Module)
    assert objective.decoder.dropout == 0.1
