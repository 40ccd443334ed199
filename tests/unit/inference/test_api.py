"""The Python interface: every kind of input gives the same numbers, and what is wrong with an input is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import audio_ssl
from audio_ssl.data.waveform import normalize, resample
from audio_ssl.errors import AudioError, CheckpointError
from audio_ssl.inference.api import load_recogniser
from audio_ssl.model.encoder import Encoder
from tests.unit.inference.conftest import noise, write_wav

WAVEFORM = noise(12_345)


def test_paths_arrays_and_tensors_give_the_same(model_dir: Path, tmp_path: Path) -> None:
    encoder = audio_ssl.load(model_dir)
    assert not encoder.training
    path = write_wav(tmp_path / "a.wav", WAVEFORM)
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(normalize(WAVEFORM))[None], torch.tensor([12_345])).frames[0].numpy()
    for model, given in (
        (encoder, WAVEFORM),
        (model_dir, path),
        (str(model_dir), str(path)),
        (encoder, torch.from_numpy(WAVEFORM)[None]),
        (encoder, WAVEFORM.astype(np.float64)),
    ):
        found = audio_ssl.extract(model, given)
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_list_gives_a_list_in_order(encoder: Encoder) -> None:
    lengths = (4_000, 16_000, 9_000)
    found = audio_ssl.extract(encoder, [noise(n) for n in lengths], layer="all")
    assert [f.shape for f in found] == [(4, encoder.geometry.num_frames(n), 16) for n in lengths]
    one = audio_ssl.extract(encoder, [noise(4_000)])
    assert [f.shape for f in one] == [(12, 16)]


def test_layers_are_the_encoders(encoder: Encoder) -> None:
    everything = audio_ssl.extract(encoder, WAVEFORM, layer="all")
    for layer in range(4):
        np.testing.assert_allclose(audio_ssl.extract(encoder, WAVEFORM, layer=layer), everything[layer], atol=1e-6)
    last = audio_ssl.extract(encoder, WAVEFORM)
    assert (audio_ssl.extract(encoder, WAVEFORM, layer="last") == last).all()


def test_other_rates_are_resampled(encoder: Encoder) -> None:
    found = audio_ssl.extract(encoder, WAVEFORM, sample_rate_hz=48_000)
    at_16k = resample(WAVEFORM, from_hz=48_000, to_hz=16_000)
    assert len(found) == encoder.geometry.num_frames(4_115)
    np.testing.assert_allclose(found, audio_ssl.extract(encoder, at_16k), atol=1e-6)


def test_integers_are_scaled(encoder: Encoder) -> None:
    integers = np.round(WAVEFORM * 32768).astype(np.int16)
    expected = audio_ssl.extract(encoder, integers / 32768)
    np.testing.assert_array_equal(audio_ssl.extract(encoder, integers), expected)
    np.testing.assert_array_equal(audio_ssl.extract(encoder, torch.from_numpy(integers)), expected)


def test_the_models_mode_comes_back(encoder: Encoder) -> None:
    encoder.train()
    try:
        audio_ssl.extract(encoder, WAVEFORM)
        assert encoder.training
    finally:
        encoder.eval()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (np.zeros((2, 9_000), np.float32), r"must be one mono waveform of shape \(S,\), got shape \(2, 9000\)"),
        (np.full(9_000, np.nan, np.float32), "finite"),
        (np.zeros(399, np.float32), "array 0 .*25 ms or more"),
        (np.zeros(9_000, bool), "floating point or signed integer"),
        ([np.zeros(9_000, np.float32), "a.wav"], "of one kind"),
        ("nowhere.wav", "no such file"),
    ],
)
def test_bad_inputs_are_refused(encoder: Encoder, given: object, named: str) -> None:
    with pytest.raises(AudioError, match=named):
        audio_ssl.extract(encoder, given)


def test_transcribe_takes_what_extract_takes(ctc_dir: Path, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", WAVEFORM)
    recogniser = load_recogniser(ctc_dir)
    text = audio_ssl.transcribe(recogniser, WAVEFORM)
    assert isinstance(text, str)
    assert text
    assert audio_ssl.transcribe(ctc_dir, [path, str(path)]) == [text, text]
    # the encoder of a recogniser gives embeddings as well
    assert audio_ssl.extract(ctc_dir, WAVEFORM).shape == (38, 16)


def test_an_encoder_is_no_recogniser(model_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="must be a recogniser"):
        audio_ssl.transcribe(model_dir, WAVEFORM)
