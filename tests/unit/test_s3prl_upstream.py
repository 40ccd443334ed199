"""Our upstream for s3prl: its interface, and every value that of the encoder alone."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from audio_ssl import Embedder, LayerWeights, load_encoder
from audio_ssl.config import ModelConfig
from audio_ssl.errors import ConfigError
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from s3prl_upstream import compat, hubconf
from s3prl_upstream.expert import UpstreamExpert

LENGTHS = (9_003, 16_000, 400, 5_001)
NUM_FRAMES = (27, 49, 1, 15)
STYLES: dict[str, dict[str, Any]] = {
    "post": {"norm_order": "post", "feature_norm": "group", "normalize_waveform": False},
    "pre": {"norm_order": "pre", "feature_norm": "layer", "normalize_waveform": True},
    "squeezed": {"context_stride": 2},
}


def save(path: Path, **changes: Any) -> str:
    torch.manual_seed(3)
    config = ModelConfig(
        preset="tiny_cpu", conv_dims=(8,) * 7, dim=16, num_layers=3, num_heads=2, ffn_dim=24, pos_conv_kernel=8,
        pos_conv_groups=4, layer_drop=0.5, dropout=0.0, **changes,
    )  # fmt: skip
    encoder = build_encoder(config)
    with torch.no_grad():
        encoder.context_network.norm.weight.mul_(3.0)  # the final norm shows
    save_model_dir(path, encoder_document(config), {"encoder": encoder})
    return str(path)


@pytest.fixture(params=sorted(STYLES))
def model(request, tmp_path: Path) -> str:
    return save(tmp_path / "model", **STYLES[request.param])


def wavs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(n, generator=generator) + 0.02 for n in LENGTHS]


@torch.no_grad()
def states_of(expert: Any, given: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(expert(given)["hidden_states"])


def test_states_are_our_layers_and_our_output_whoever_is_in_the_batch(model: str) -> None:
    expert = hubconf.audio_ssl(model, model_config=None, refresh=False).eval()
    together = states_of(expert, wavs())
    assert [tuple(state.shape) for state in together] == [(4, 49, 16)] * 4
    e = Embedder(load_encoder(model))
    for row, wav in enumerate(wavs()):
        expected = [*e.extract(wav, layers=[0, 1, 2]).frames, e.extract(wav).frames]
        for own, alone, frames in zip(together, states_of(expert, [wav]), expected, strict=True):
            valid = own[row, : NUM_FRAMES[row]]
            torch.testing.assert_close(valid, torch.from_numpy(frames), rtol=0, atol=2e-5)
            torch.testing.assert_close(valid, alone[0], rtol=0, atol=2e-5)
            assert not own[row, NUM_FRAMES[row] :].any()


def test_the_interface(model: str) -> None:
    expert = UpstreamExpert(model)
    assert expert.get_downsample_rates("hidden_states") == 320
    result = expert(wavs())
    assert result["last_hidden_state"] is result["hidden_states"][-1]
    tiny = states_of(expert.eval(), [wavs()[0][:100], wavs()[0][:3]])  # shorter than a frame
    assert [tuple(state.shape) for state in tiny] == [(2, 1, 16)] * 4
    assert not any(state.any() for state in tiny)


def test_fine_tuning_trains_the_context_network_alone_and_drops_no_layer(model: str) -> None:
    expert = UpstreamExpert(model).train()
    for _ in range(8):  # layer_drop of the model is 0.5
        states = expert(wavs())["hidden_states"]
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(states))
    torch.stack(states).square().sum().backward()
    grads = {name for name, p in expert.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("blocks.2." in name for name in grads)
    assert not any("feature_encoder" in name for name in grads)


def test_another_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must take waveforms of 16000 Hz.*it takes 8000 Hz"):
        UpstreamExpert(save(tmp_path / "model", sample_rate_hz=8_000))


def test_what_torchaudio_no_longer_has(tmp_path: Path) -> None:
    samples = (0.3 * np.random.default_rng(0).standard_normal((4_410, 2))).astype(np.float32)
    sf.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    waveform, rate = compat.load(tmp_path / "a.wav", frame_offset=10, num_frames=5)
    assert (waveform.shape, waveform.dtype, rate) == ((2, 5), torch.float32, 44_100)
    np.testing.assert_array_equal(waveform.numpy(), samples[10:15].T)
    found = compat.info(tmp_path / "a.wav")
    assert (found.sample_rate, found.num_frames, found.num_channels) == (44_100, 4_410, 2)
    quiet, rate = compat.apply_effects_file(tmp_path / "a.wav", [["channels", "1"], ["gain", "-20.0"]])
    assert rate == 44_100
    np.testing.assert_allclose(quiet.numpy(), samples.mean(1)[None] / 10, atol=1e-7)
    slow, rate = compat.apply_effects_file(tmp_path / "a.wav", [["channels", "1"], ["rate", "16000"]])
    assert (slow.shape, rate) == ((1, 1_600), 16_000)
    with pytest.raises(ValueError, match=r"'silence 1 0\.1' must be one of channels 1, rate and gain"):
        compat.apply_effects_file(tmp_path / "a.wav", [["silence", "1", "0.1"]])


def test_s3prl_itself_takes_it(tmp_path: Path) -> None:
    for package in ("s3prl", "omegaconf"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from s3prl_upstream.run import register

    register()
    from s3prl.nn import Featurizer, S3PRLUpstream
    from s3prl.upstream.interfaces import Featurizer as CommandLineFeaturizer

    model = save(tmp_path / "model", **STYLES["post"])
    upstream = S3PRLUpstream("audio_ssl", path_or_url=model).eval()
    assert (upstream.num_layers, upstream.downsample_rates, upstream.hidden_sizes) == (4, [320] * 4, [16] * 4)
    padded = torch.nn.utils.rnn.pad_sequence(wavs(), batch_first=True)
    e = Embedder(load_encoder(model))
    with torch.no_grad():
        states, lengths = upstream(padded, torch.tensor(LENGTHS))
        assert lengths[0].tolist() == [29, 50, 2, 16]  # ceil(S / 320): s3prl repeats or counts a frame more
        for normalize in (False, True):
            summed, _ = Featurizer(upstream, normalize=normalize)(states, lengths)
            (of_command_line,) = CommandLineFeaturizer(
                upstream.upstream, upstream_device="cpu", normalize=normalize
            )(wavs()[:1], upstream.upstream(wavs()[:1]))  # fmt: skip
            for row, wav in enumerate(wavs()):
                expected = e.extract(wav, layers=LayerWeights((0.25,) * 4, layer_norm=normalize)).frames
                found = summed[row, : NUM_FRAMES[row]].numpy()
                np.testing.assert_allclose(found, expected, atol=2e-5)
                if row == 0:
                    np.testing.assert_allclose(of_command_line[:27].numpy(), expected, atol=2e-5)
