"""Sums over pieces are the statistics of the whole, wherever the pieces are cut, and an encoder goes by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audio_ssl.geometry import ConvGeometry
from audio_ssl.model.mel_encoder import MelEncoder
from audio_ssl.model.time_stats import TimeSums
from tests.unit.model.small_models import small_encoder

LENGTH = 8009
PIECES = {"one": [], "odd": [13, 14, 4000, 4003, 7999], "shorter than a kernel": [*range(1, 40)], "late": [8008]}


def speech() -> np.ndarray:
    return (0.3 * np.random.default_rng(4).standard_normal(LENGTH) + 0.7).astype(np.float32)


def added(sums: TimeSums, waveform: np.ndarray, cuts: list[int]) -> TimeSums:
    for part in np.split(waveform, cuts):
        sums.add(part)
    return sums


@pytest.mark.parametrize("cuts", PIECES.values(), ids=PIECES)
def test_moments_of_the_samples_under_a_kernel(cuts: list[int]) -> None:
    sums = small_encoder("base").feature_encoder.time_sums()
    stats = added(sums, speech(), cuts).stats()
    under = np.stack([speech()[t * 5 : t * 5 + 10] for t in range((LENGTH - 10) // 5 + 1)]).astype(np.float64)
    np.testing.assert_allclose(stats.mean[0, 0], under.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats.spread[0], np.cov(under.T, bias=True), rtol=1e-5, atol=1e-7)
    shifted = sums.stats(mean=0.5, std=0.25)
    np.testing.assert_allclose(shifted.mean[0, 0], ((under - 0.5) / 0.25).mean(0), rtol=1e-5)
    np.testing.assert_allclose(shifted.spread[0], np.cov(((under - 0.5) / 0.25).T, bias=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cuts", PIECES.values(), ids=PIECES)
def test_moments_of_mel_bands(cuts: list[int]) -> None:
    encoder = small_encoder(front_end="mel", mel_bands=13).feature_encoder
    assert isinstance(encoder, MelEncoder)
    stats = added(encoder.time_sums(), speech(), cuts).stats()
    energies = encoder.log_energies(torch.from_numpy(speech())[None])[0].double()
    torch.testing.assert_close(stats.mean[0, 0].double(), energies.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stats.spread[0, 0].double(), energies.var(0, correction=0), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="scaled before they are added"):
        added(encoder.time_sums(), speech(), cuts).stats(mean=0.5, std=2.0)


def test_a_layer_normed_stack_needs_none() -> None:
    assert small_encoder("large").feature_encoder.time_sums() is None


def test_too_few_samples_have_no_statistics() -> None:
    sums = TimeSums(ConvGeometry((10,), (5,)), lambda samples: samples.unfold(0, 10, 5), is_linear=True)
    sums.add(np.zeros(9, dtype=np.float32))
    with pytest.raises(ValueError, match="10 samples or more"):
        sums.stats()
    sums.add(np.ones(1, dtype=np.float32))
    assert sums.stats().mean[0, 0].tolist() == [0.0] * 9 + [1.0]


@pytest.mark.parametrize("changes", [{}, {"front_end": "mel", "mel_bands": 13}], ids=["conv", "mel"])
@pytest.mark.parametrize("has_gradients", [False, True])
def test_stretches_are_normed_as_the_whole(changes: dict[str, object], has_gradients: bool) -> None:
    encoder = small_encoder("base", **changes).feature_encoder
    waveform = torch.from_numpy(speech())
    stats = added(encoder.time_sums(), speech(), [3001]).stats()
    hop, span = encoder.geometry.hop_samples, encoder.geometry.samples_for_frames(7)
    first, second = waveform[3 * hop : 3 * hop + span], waveform[9 * hop : 9 * hop + span - hop]
    rows, lengths = torch.full((2, span), 9.0), torch.tensor([span, span - hop])  # the second row is padded
    rows[0], rows[1, : span - hop] = first, second
    with torch.set_grad_enabled(has_gradients):
        whole, _ = encoder(waveform[None], torch.tensor([LENGTH]))
        parts, num_frames = encoder(rows, lengths, time_stats=stats)
    assert num_frames.tolist() == [7, 6]
    torch.testing.assert_close(parts[0], whole[0, 3:10], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts[1, :6], whole[0, 9:15], rtol=1e-5, atol=1e-5)
    assert not parts[1, 6].any()
    alone, _ = encoder(rows[:1], lengths[:1])
    assert (alone[0] - parts[0]).abs().max() > 1e-2  # statistics of the stretch are others
