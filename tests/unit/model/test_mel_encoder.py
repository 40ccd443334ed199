"""The mel front end: torchaudio's energies on the samples that exist, normalised over them, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from audio_ssl.config import ModelConfig
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.mel_encoder import MelEncoder

# 11.025 kHz: 20 ms are 220.5 samples, 10 ms are 110.25
ODD = {
    "sample_rate_hz": 11_025, "mel_bands": 13, "mel_window_ms": 20.0, "mel_stack": 3, "mel_min_hz": 50.0,
    "mel_max_hz": 5000.0,
}  # fmt: skip


def mel_encoder(**settings) -> MelEncoder:
    encoder = build_encoder(ModelConfig(front_end="mel", dim=16, num_heads=2, num_layers=1, **settings))
    assert isinstance(encoder.feature_encoder, MelEncoder)
    return encoder.feature_encoder


def reference(waveform: torch.Tensor, *, stack: int, **settings) -> torch.Tensor:
    """Latents (T, C) of one waveform (S,) by torchaudio's spectrogram, whose windows stand in the middle of n_fft."""
    from torchaudio.transforms import MelSpectrogram

    n_fft, window = settings["n_fft"], settings["win_length"]
    left = (n_fft - window) // 2
    padded = F.pad(waveform, (left, n_fft - window - left))
    energies = MelSpectrogram(center=False, power=2.0, **settings)(padded).T  # (F, M) -> (M, F)
    energies = energies[: len(energies) // stack * stack].double()
    logs = (energies + 1e-6).log()
    normed = (logs - logs.mean(0)) / (logs.var(0, correction=0) + 1e-5).sqrt()
    return torch.stack([torch.cat([*normed[i : i + stack]]) for i in range(0, len(normed), stack)]).float()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"sample_rate": 16_000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80, "stack": 2}),
        (ODD, {"sample_rate": 11_025, "n_fft": 256, "win_length": 220, "hop_length": 110, "n_mels": 13, "stack": 3,
               "f_min": 50.0, "f_max": 5000.0}),
    ],
)  # fmt: skip
def test_latents_are_torchaudios_energies_normed_and_stacked(ours, theirs):
    waveform = 0.1 * torch.randn(7919, generator=torch.Generator().manual_seed(1)) + 0.01
    encoder = mel_encoder(**ours)
    latents, num_frames = encoder(waveform[None], torch.tensor([7919]))
    expected = reference(waveform, **theirs)
    assert num_frames.tolist() == [len(expected)]
    torch.testing.assert_close(latents[0], expected, rtol=1e-4, atol=1e-4)


def test_geometry_by_hand():
    # windows of 400 samples every 160; frame t holds windows 2t and 2t + 1: samples 320 t to 320 t + 160 + 400
    geometry = mel_encoder().geometry
    assert (geometry.hop_samples, geometry.receptive_field_samples) == (320, 560)
    assert [geometry.num_frames(n) for n in (559, 560, 879, 880, 16_000)] == [0, 1, 1, 2, 49]
    assert geometry.frame_centre_s(1, sample_rate_hz=16_000) == pytest.approx(0.0375)
    # 8 kHz, 3 windows of 30 ms every 7.5 ms: 240 + 2 * 60 samples every 180
    config = ModelConfig(
        front_end="mel",
        sample_rate_hz=8000,
        mel_window_ms=30,
        mel_hop_ms=7.5,
        mel_stack=3,
        mel_max_hz=4000,
        mel_bands=40,
    )
    assert (config.geometry.kernels, config.geometry.strides, config.latent_dim) == ((360,), (180,), 120)


def test_a_row_depends_on_its_samples_alone():
    torch.manual_seed(2)
    encoder, num_samples = mel_encoder(), torch.tensor([4001, 2003, 560, 559])
    waveforms = torch.randn(4, 4001)
    waveforms[1, 2003:] = 1e4
    waveforms[2, 560:] = math.nan
    latents, num_frames = encoder(waveforms, num_samples)
    assert num_frames.tolist() == [11, 5, 1, 0]
    for row, (samples, frames) in enumerate(zip(num_samples.tolist(), num_frames.tolist(), strict=True)):
        assert (latents[row, frames:] == 0).all()
        if frames:
            alone, _ = encoder(waveforms[row : row + 1, :samples], num_samples[row : row + 1])
            torch.testing.assert_close(latents[row, :frames], alone[0], rtol=1e-5, atol=1e-5)
    claimed, _ = encoder(waveforms[:1], num_samples[:1], is_full=False)
    torch.testing.assert_close(claimed, encoder(waveforms[:1], num_samples[:1])[0], rtol=1e-5, atol=1e-5)


def test_silence_is_zero_and_loudness_does_not_matter():
    encoder, num_samples = mel_encoder(), torch.tensor([5003])
    silence, _ = encoder(torch.zeros(1, 5003), num_samples)
    assert (silence == 0).all()
    speech = torch.randn(1, 5003, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(encoder(4 * speech, num_samples)[0], encoder(speech, num_samples)[0], rtol=0, atol=1e-4)


def test_half_precision_around_it_changes_nothing():
    encoder, waveforms = mel_encoder(), torch.randn(2, 5003)
    expected, _ = encoder(waveforms, torch.tensor([5003, 3001]))
    with torch.autocast("cpu", torch.bfloat16):
        latents, _ = encoder(waveforms, torch.tensor([5003, 3001]))
    assert latents.dtype == torch.float32
    assert torch.equal(latents, expected)


def test_it_holds_nothing_that_a_checkpoint_would():
    encoder = mel_encoder()
    assert not encoder.state_dict()
    assert not list(encoder.parameters())
    assert {buffer.shape for buffer in encoder.buffers()} == {(400,), (257, 80)}


def test_batch_without_room_for_a_frame_is_refused():
    with pytest.raises(ValueError, match=r"at least 560 samples.*got 559"):
        mel_encoder()(torch.randn(2, 559), torch.tensor([559, 559]))
