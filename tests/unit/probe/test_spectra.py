"""Log-mel and MFCC: librosa's figures, counted as geometry says, beside each other as the period wants."""

import librosa
import numpy as np
import pytest
import torch

from audio_ssl.probe.spectra import LogMel, Mfcc, context_spectra, spectra_a_frame


def noise(num):
    return torch.randn(num, generator=torch.Generator().manual_seed(3))


def frames_of(spectra, waveform):
    frames, counts = spectra(waveform[None], torch.tensor([len(waveform)]), is_full=True)
    assert counts.tolist() == [frames.shape[2]]
    return frames[0, 0].numpy()


def test_log_mel_is_librosas_two_spectra_at_a_time():
    waveform = noise(400 + 160 * 6 + 31)  # 7 spectra
    mels = librosa.feature.melspectrogram(
        y=waveform.numpy(), sr=16000, n_fft=400, hop_length=160, n_mels=80, center=False
    )
    expected = np.log(mels / 400 + 1e-6).T
    frames = frames_of(LogMel(2), waveform)
    assert frames.shape == (4, 160)
    pairs = frames.reshape(8, 80)
    np.testing.assert_allclose(pairs[:7], expected, atol=1e-3)
    np.testing.assert_array_equal(pairs[7], pairs[6])  # there is no eighth
    wide = frames_of(LogMel(6), waveform)
    np.testing.assert_array_equal(wide[:, 160:320], frames)  # two spectra before, two after
    np.testing.assert_array_equal(wide[1, :160], frames[0])


def test_longer_periods_hold_more_spectra():
    waveform = noise(400 + 160 * 10)  # 11 spectra
    singles = frames_of(LogMel(1, per_frame=1), waveform)
    frames = frames_of(LogMel(6, per_frame=4), waveform)  # one before, one behind
    assert frames.shape == (3, 480)
    np.testing.assert_array_equal(frames[1].reshape(6, 80), singles[3:9])
    np.testing.assert_array_equal(frames[0].reshape(6, 80)[:2], singles[[0, 0]])


def test_mfcc_are_librosas_with_their_slopes():
    waveform = noise(400 + 160 * 6)
    mels = librosa.feature.melspectrogram(
        y=waveform.numpy(), sr=16000, n_fft=400, hop_length=160, n_mels=80, center=False
    )
    cepstra = librosa.feature.mfcc(S=np.log(mels / 400 + 1e-6), n_mfcc=13)  # (13, 7)

    def slopes(values):  # HTK's formula, ends repeated
        wide = np.pad(values, ((0, 0), (2, 2)), mode="edge")
        m = values.shape[1]
        return sum(n * (wide[:, 2 + n : 2 + n + m] - wide[:, 2 - n : 2 - n + m]) for n in (1, 2)) / 10

    found = frames_of(Mfcc(1, per_frame=1), waveform).T
    expected = np.concatenate((cepstra, slopes(cepstra), slopes(slopes(cepstra))))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert Mfcc(2).dim == 78


@pytest.mark.parametrize(("period", "spectra"), [(320, 2), (640, 4), (160, 1), (400, 2), (321, 3), (80, 1)])
def test_spectra_are_about_ten_milliseconds_apart(period, spectra):
    assert spectra_a_frame(period) == spectra


@pytest.mark.parametrize(("per_frame", "hop", "spectra"), [(2, 160, 14), (4, 160, 14), (1, 160, 13), (2, 200, 12)])
def test_a_context_is_the_same_on_both_sides(per_frame, hop, spectra):
    assert context_spectra(2240, per_frame=per_frame, hop_samples=hop) == spectra
    assert context_spectra(0, per_frame=per_frame, hop_samples=hop) == per_frame


@pytest.mark.parametrize("per_frame", [1, 2, 3])
def test_frames_are_as_many_as_geometry_says(per_frame):
    spectra = LogMel(per_frame + 2, per_frame=per_frame, hop_samples=107)
    for num in range(400, 1500, 53):
        assert len(frames_of(spectra, noise(num))) == spectra.geometry.num_frames(num)


def test_rows_of_a_batch_do_not_see_one_another():
    waveforms = torch.stack((noise(1200), torch.zeros(1200)))
    frames, counts = LogMel(2)(waveforms, torch.tensor([1200, 700]), is_full=False)
    alone, _ = LogMel(2)(waveforms[1:, :700], torch.tensor([700]), is_full=True)
    assert counts.tolist() == [3, 1]
    torch.testing.assert_close(frames[1, :, :1], alone[0])
