"""Candidates: which stand in a table, what they are called, and that their digest names what they give."""

import numpy as np
import pytest
import torch

from audio_ssl.config import ModelConfig
from audio_ssl.errors import CheckpointError, ConfigError
from audio_ssl.interop.source import load_encoder, weights_hash
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from audio_ssl.probe.candidates import CPU, candidates_for, log_mel, mfcc, of_model, random_encoder, random_of

CONFIG = ModelConfig(
    preset="tiny_cpu", conv_dims=(8,) * 7, dim=16, num_layers=2, num_heads=2, ffn_dim=24,
    pos_conv_kernel=8, pos_conv_groups=4,
)  # fmt: skip
SLOW = ModelConfig(
    preset="tiny_cpu", front_end="mel", mel_stack=4, dim=16, num_layers=1, num_heads=2, ffn_dim=24, pos_conv_kernel=8,
    pos_conv_groups=4,
)  # fmt: skip


def write_model(folder, config=CONFIG, seed=3):
    torch.manual_seed(seed)
    save_model_dir(folder, encoder_document(config), {"encoder": build_encoder(config)})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "first": write_model(root / "first" / "model"),
        "second": write_model(root / "second", seed=4),
        "slow": write_model(root / "slow", SLOW),
    }


def forward(candidate, num_samples=3000):
    waveform = torch.randn(1, num_samples, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        frames, counts = candidate.open(CPU).forward(waveform, torch.tensor([num_samples]), is_full=True)
    assert frames.shape[:2] == (1, candidate.num_layers)
    assert frames.shape[3] == candidate.dim
    assert counts.tolist() == [candidate.geometry.num_frames(num_samples)] == [frames.shape[2]]
    return frames[0]


def test_baselines_stand_in_front_of_the_models(models):
    found = candidates_for([models["first"], models["second"]])
    assert [one.name for one in found] == [
        "log-mel", "log-mel, 140 ms", "MFCC", "random weights", "first", "second",
    ]  # fmt: skip
    assert [one.role for one in found] == ["log_mel", "log_mel", "mfcc", "random", "model", "model"]
    assert [one.dim for one in found] == [160, 14 * 80, 78, 16, 16, 16]
    assert [one.num_layers for one in found] == [1, 1, 1, 3, 3, 3]
    assert {one.hop_s for one in found} == {0.02}
    assert len({one.digest for one in found}) == 6
    assert found[3].random_of == ("first", "second")
    assert found[4].model_hash == weights_hash(models["first"])
    for one in found:
        forward(one)
    assert [one.name for one in candidates_for([models["second"]], with_baselines=False)] == ["second"]


def test_each_frame_period_and_each_shape_has_its_baselines(models):
    found = candidates_for([models["first"], models["slow"]], random_seeds=(1, 2))
    assert [one.name for one in found] == [
        "log-mel, every 20 ms", "log-mel, 140 ms, every 20 ms", "MFCC, every 20 ms",
        "log-mel, every 40 ms", "log-mel, 140 ms, every 40 ms", "MFCC, every 40 ms",
        "random weights, first, seed 1", "random weights, first, seed 2",
        "random weights, slow, seed 1", "random weights, slow, seed 2", "first", "slow",
    ]  # fmt: skip
    assert [one.hop_s for one in found[:6]] == [0.02] * 3 + [0.04] * 3
    assert [one.dim for one in found[3:6]] == [320, 14 * 80, 4 * 39]
    assert found[8].random_of == ("slow",)
    assert found[8].geometry.hop_samples == found[3].geometry.hop_samples == 640


def test_a_models_layers_are_the_encoders(models):
    waveform = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1))
    encoder = load_encoder(models["first"])
    with torch.no_grad():
        layers = encoder(waveform, torch.tensor([3000]), return_layers=True).layers
    np.testing.assert_allclose(forward(of_model(models["first"])), torch.cat(layers), atol=1e-5)


def test_random_weights_are_the_same_each_time_and_leave_other_draws_alone(models):
    first, again = (forward(random_of(models["first"])) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    other = random_of(models["first"], 2)
    assert other.name == "random weights, seed 2"
    assert not torch.allclose(first, forward(other))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    random_encoder(CONFIG)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_a_digest_is_of_weights_settings_and_precision_and_not_of_the_name(models, monkeypatch):
    one = of_model(models["first"])
    assert one.digest == of_model(models["first"], name="x").digest
    assert one.digest != of_model(models["second"]).digest
    assert random_of(models["first"]).digest == random_of(models["second"]).digest
    assert random_of(models["first"]).digest != random_of(models["first"], 2).digest
    digests = {
        log_mel(20).digest,
        log_mel(40).digest,
        log_mel(20, 140).digest,
        log_mel(20, 100).digest,
        mfcc(20).digest,
    }
    assert len(digests) == 5
    other = "fp32" if one.precision == "bf16" else "bf16"
    monkeypatch.setattr("audio_ssl.probe.candidates.resolve_precision", lambda *_: other)
    assert of_model(models["first"]).digest != one.digest
    assert of_model(models["first"]).precision == other


def test_what_cannot_stand_in_a_table_is_refused(models, tmp_path):
    with pytest.raises(ConfigError, match=r"must have different names .*first more than once"):
        candidates_for([models["first"], models["first"]])
    with pytest.raises(ConfigError, match="MFCC more than once"):
        candidates_for([write_model(tmp_path / "MFCC")])
    with pytest.raises(ConfigError, match="one or more"):
        candidates_for([])
    with pytest.raises(CheckpointError, match="no such file"):
        candidates_for([tmp_path / "nothing"])
