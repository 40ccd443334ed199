"""Samples to frames: the reference values of the wav2vec 2.0 stack."""

import warnings

import numpy as np
import pytest
import torch

from audio_ssl.geometry import ConvGeometry, count_empty_mel_bands, fft_samples

WAV2VEC2 = ConvGeometry((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
# worked out from the floor chain by hand and listed with the published models
KNOWN = {0: 0, 399: 0, 400: 1, 719: 1, 720: 2, 16000: 49, 32000: 99, 160000: 499, 250000: 781, 320000: 999}


@pytest.mark.parametrize(("num_samples", "num_frames"), KNOWN.items())
def test_known_lengths(num_samples, num_frames):
    assert WAV2VEC2.num_frames(num_samples) == num_frames


def test_arrays_and_tensors_agree_with_integers():
    assert WAV2VEC2.num_frames(np.array(list(KNOWN))).tolist() == list(KNOWN.values())
    assert WAV2VEC2.num_frames(torch.tensor(list(KNOWN))).tolist() == list(KNOWN.values())


def test_hop_field_spans_and_centres():
    assert (WAV2VEC2.hop_samples, WAV2VEC2.receptive_field_samples) == (320, 400)
    assert WAV2VEC2.frame_span_samples(3) == (960, 1360)
    assert WAV2VEC2.frame_centre_s(0, sample_rate_hz=16000) == pytest.approx(0.0125)
    assert WAV2VEC2.frame_centre_s(50, sample_rate_hz=16000) == pytest.approx(1.0125)


def test_fewest_samples_for_a_number_of_frames_is_tight():
    odd = ConvGeometry((7, 3, 2), (3, 2, 1))
    for geometry in (WAV2VEC2, odd):
        for frames in (1, 2, 7, 31):
            samples = geometry.samples_for_frames(frames)
            assert geometry.num_frames(samples) == frames
            assert geometry.num_frames(samples - 1) == frames - 1


def test_stacked_windows_are_one_wide_layer():
    # 3 windows of 7 samples every 4: samples 0 to 15, then 12 further
    geometry = ConvGeometry.of_stacked_windows(7, 4, stack=3)
    assert (geometry.receptive_field_samples, geometry.hop_samples) == (15, 12)
    assert [geometry.num_frames(n) for n in (14, 15, 26, 27)] == [0, 1, 1, 2]


@pytest.mark.parametrize(("window", "points"), [(400, 512), (512, 512), (513, 1024), (2, 2)])
def test_points_of_a_transform(window, points):
    assert fft_samples(window) == points


@pytest.mark.parametrize(("bands", "hz", "n_fft"), [(80, (0, 8000), 512), (128, (0, 8000), 512), (23, (20, 7600), 64)])
def test_empty_mel_bands_are_torchaudios(bands, hz, n_fft):
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio's, of what is counted here
        filters = melscale_fbanks(n_fft // 2 + 1, *map(float, hz), n_mels=bands, sample_rate=16_000)
    assert count_empty_mel_bands(bands, hz, bin_hz=16_000 / n_fft) == int((filters.amax(0) == 0).sum())
