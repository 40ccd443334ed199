"""Encoders with a mel front end, a squeezed context network, or both, keep every contract of the plain one."""

from __future__ import annotations

import pytest
import torch
from small_models import QUIET

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.interop.source import load_encoder
from audio_ssl.model import files
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.positional import fold_weight_norm
from audio_ssl.objective.registry import build_objective
from audio_ssl.tensors import Batch

CHEAPER = {
    "mel": {"front_end": "mel", "mel_bands": 11},
    "squeezed": {"context_stride": 3, "conv_dims": (7, 11, 13, 5, 7, 11, 13)},
    "both": {"front_end": "mel", "mel_bands": 11, "context_stride": 2},
    "local": {"front_end": "mel", "mel_bands": 11, "block_conv_kernel": 5},
}
OBJECTIVE = Wav2Vec2Config(num_entries=7, code_dim=6, target_dim=5, num_distractors=3)


def cheaper_config(name: str, **changes) -> ModelConfig:
    sizes = {"dim": 24, "num_layers": 2, "num_heads": 3, "ffn_dim": 31, "pos_conv_kernel": 8, "pos_conv_groups": 4}
    return ModelConfig(**{"norm_order": "pre", **sizes, **QUIET, **CHEAPER[name], **changes})


def cheaper_encoder(name: str, **changes) -> Encoder:
    torch.manual_seed(7)
    return build_encoder(cheaper_config(name, **changes)).eval()


@pytest.fixture(params=sorted(CHEAPER))
def name(request) -> str:
    return request.param


def test_frames_come_at_the_rate_that_the_geometry_says(name):
    encoder, waveforms, num_samples = cheaper_encoder(name), torch.randn(3, 8209), torch.tensor([8209, 5003, 1009])
    output = encoder(waveforms, num_samples, return_layers=True)
    assert encoder.geometry.hop_samples == 320
    # mel: floor((8209 - 560) / 320) + 1, convs: floor((8209 - 400) / 320) + 1
    expected = [25, 15, 2] if name == "squeezed" else [24, 14, 2]
    assert output.num_frames.tolist() == expected
    assert {x.shape for x in (output.frames, *output.layers)} == {(3, expected[0], 24)}
    assert encoder.num_layers == 2
    assert encoder.context_stride == CHEAPER[name].get("context_stride", 1)


def test_a_row_depends_neither_on_padding_nor_on_the_rows_beside_it(name):
    encoder, num_samples = cheaper_encoder(name), torch.tensor([8009, 5003, 1009])
    waveforms = torch.randn(3, 8009)
    frames = encoder(waveforms, num_samples).frames
    for row, samples in enumerate(num_samples.tolist()):
        alone = encoder(waveforms[row : row + 1, :samples], num_samples[row : row + 1])
        count = int(alone.num_frames)
        torch.testing.assert_close(frames[row, :count], alone.frames[0], rtol=1e-4, atol=1e-5)
        assert (frames[row, count:] == 0).all()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_pretraining_step_reads_no_device_value_and_reaches_every_part(name, device):
    """On the meta device there are no values: reading one, as a host sync does, fails."""
    config = cheaper_config(name, feature_grad_scale=1.0) if name == "squeezed" else cheaper_config(name)
    encoder = build_encoder(config).train()
    if device == "meta":  # torch has no backward of weight norm there
        fold_weight_norm(encoder)
    encoder = encoder.requires_grad_().to(device)
    objective = build_objective(OBJECTIVE, latent_dim=config.latent_dim, dim=config.dim).train().to(device)
    batch = Batch(torch.randn(2, 16_001), torch.tensor([16_001, 12_007]), (0, 1)).to(torch.device(device))
    with torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu"):
        terms = objective(encoder, batch, update=0, generator=torch.Generator().manual_seed(3))
    terms.loss_sum.backward()
    unreached = [name for name, p in (*encoder.named_parameters(), *objective.named_parameters()) if p.grad is None]
    assert unreached == []
    if device == "cpu":
        assert terms.loss_sum.isfinite()
        assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_bf16_is_close(name):
    encoder, waveforms, num_samples = cheaper_encoder(name), torch.randn(2, 8009), torch.tensor([8009, 5003])
    expected = encoder(waveforms, num_samples).frames
    with torch.autocast("cpu", torch.bfloat16):
        frames = encoder(waveforms, num_samples).frames
    assert (frames - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_a_model_directory_gives_the_same_encoder(name, tmp_path):
    config, encoder = cheaper_config(name), cheaper_encoder(name)
    files.save_model_dir(tmp_path / "m", files.encoder_document(config), {"encoder": encoder})
    assert files.read_model_dir(tmp_path / "m").model == config
    loaded, waveforms, num_samples = load_encoder(tmp_path / "m"), torch.randn(2, 8009), torch.tensor([8009, 5003])
    assert torch.equal(loaded(waveforms, num_samples).frames, encoder(waveforms, num_samples).frames)
    said = set(files.read_model_dir(tmp_path / "m").document["model"])
    assert ("conv_dims" in said, "mel_bands" in said) == (name == "squeezed", name != "squeezed")


def test_a_plain_model_is_saved_without_a_word_of_what_it_lacks():
    said = files.encoder_document(ModelConfig(preset="tiny_cpu"))["model"]
    others = ("front_end", "context_stride", "block_conv_kernel")
    assert not [key for key in said if key.startswith("mel_") or key in others]
    assert ModelConfig(**said) == ModelConfig(preset="tiny_cpu")
