"""Each effect by a property that can be worked out by hand."""

import numpy as np
import pytest

from audio_ssl.data.augment import effects

RATE = 16000


def noise(num_samples: int, seed: int = 0, scale: float = 0.1) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def sine(frequency_hz: float, num_samples: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / RATE).astype(np.float32)


def power_db(waveform: np.ndarray) -> float:
    return 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2))


def peak_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax()) * RATE / len(waveform)


def test_gain_is_in_decibels_of_amplitude():
    waveform = np.array([0.25, -0.5, 0.0], dtype=np.float32)
    louder = effects.change_gain(waveform, gain_db=20.0)
    assert louder.tolist() == [2.5, -5.0, 0.0]
    assert louder.dtype == np.float32
    np.testing.assert_allclose(effects.change_gain(waveform, gain_db=-6.0206), [0.125, -0.25, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("speed", "after"), [(2.0, 9), (0.5, 34), (1.1, 16), (0.9, 19), (1.0, 17)])
def test_lengths_at_another_speed(speed: float, after: int):
    assert effects.samples_after(17, speed=speed) == after  # ceil(17 / speed)
    assert len(effects.change_speed(noise(17), speed=speed)) == after
    assert effects.samples_after(np.array([17, 0]), speed=speed).tolist() == [after, 0]


@pytest.mark.parametrize("speed", [0.5, 0.9, 0.95, 1.0, 1.05, 1.1, 1.37, 2.0])
def test_samples_before_are_the_fewest_that_suffice(speed: float):
    for wanted in range(1, 60):
        before = effects.samples_before(wanted, speed=speed)
        assert effects.samples_after(before, speed=speed) >= wanted
        assert effects.samples_after(before - 1, speed=speed) < wanted


@pytest.mark.parametrize(("speed", "heard_hz"), [(2.0, 1000), (0.5, 250), (1.1, 550), (0.9, 450)])
def test_speed_moves_the_pitch(speed: float, heard_hz: float):
    heard = effects.change_speed(sine(500, 3 * RATE), speed=speed)
    assert peak_hz(heard[:RATE]) == pytest.approx(heard_hz, abs=1)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.3, 20.0])
def test_noise_comes_at_its_snr(snr_db: float):
    waveform = noise(12345, seed=1)
    noisy = effects.add_noise(waveform, noise(12345, seed=2, scale=3.0), snr_db=snr_db)
    assert power_db(waveform) - power_db(noisy - waveform) == pytest.approx(snr_db, abs=1e-3)
    assert noisy.dtype == np.float32


def test_silence_has_no_snr():
    waveform, silence = noise(97), np.zeros(97, dtype=np.float32)
    np.testing.assert_array_equal(effects.add_noise(waveform, silence, snr_db=-5), waveform)
    np.testing.assert_array_equal(effects.add_noise(silence, waveform, snr_db=-5), silence)


def test_mixing_changes_its_stretch_alone_and_comes_at_its_snr():
    waveform, other = noise(1009, seed=1), noise(503, seed=2, scale=2.0)
    mixed = effects.mix_in(waveform, other, start=211, num_samples=307, snr_db=3.0)
    added = mixed.astype(np.float64) - waveform
    assert set(np.flatnonzero(added)) <= set(range(211, 518))
    assert np.count_nonzero(added[211:518]) > 290
    scale = (added[211:518] @ other[:307]) / (other[:307].astype(np.float64) @ other[:307])
    np.testing.assert_allclose(added[211:518], scale * other[:307], atol=1e-6)
    # the level of all of the other, not of the stretch
    assert power_db(waveform) - power_db(scale * other) == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize(("length", "at"), [(1, 0), (700, 0), (700, 423), (5000, 4999)])
def test_a_room_without_echo_changes_nothing(length: int, at: int):
    impulse = np.zeros(length, dtype=np.float32)
    impulse[at] = 0.3
    waveform = noise(3001)
    np.testing.assert_allclose(effects.reverberate(waveform, impulse), waveform, atol=1e-6)


def test_an_echo_comes_after_the_direct_path_at_the_same_power():
    room = np.zeros(1000, dtype=np.float32)
    room[[100, 150]] = 0.5, 0.25  # direct, and half as strong 50 samples later
    waveform = noise(3001)
    wet = effects.reverberate(waveform, room)
    expected = waveform.astype(np.float64)
    expected[50:] += 0.5 * waveform[:-50]
    expected *= np.sqrt(np.mean(waveform.astype(np.float64) ** 2) / np.mean(expected**2))
    np.testing.assert_allclose(wet, expected, atol=1e-6)
    assert wet.dtype == np.float32
    assert power_db(wet) == pytest.approx(power_db(waveform), abs=1e-3)
    assert not effects.reverberate(np.zeros(50, dtype=np.float32), room).any()


@pytest.mark.parametrize("cutoff_hz", [1000, 3400, 7000])
@pytest.mark.parametrize("num_samples", [16001, 15997, 407])
def test_a_limited_band_has_nothing_above_its_cut_off(cutoff_hz: int, num_samples: int):
    limited = effects.limit_band(noise(num_samples), cutoff_hz=cutoff_hz, sample_rate_hz=RATE)
    assert (len(limited), limited.dtype) == (num_samples, np.float32)
    if num_samples > 10_000:
        power = np.abs(np.fft.rfft(limited * np.blackman(num_samples))) ** 2
        frequency = np.fft.rfftfreq(num_samples, 1 / RATE)
        passed = power[frequency < 0.85 * cutoff_hz].mean()
        assert power[frequency > cutoff_hz + 20].max() < 1e-8 * passed  # 80 dB below
        whole = np.abs(np.fft.rfft(noise(num_samples) * np.blackman(num_samples))) ** 2
        assert passed == pytest.approx(whole[frequency < 0.85 * cutoff_hz].mean(), rel=0.01)


def test_a_limited_band_stays_where_it_was():
    waveform = sine(500)
    limited = effects.limit_band(waveform, cutoff_hz=3400, sample_rate_hz=RATE)
    np.testing.assert_allclose(limited[500:-500], waveform[500:-500], atol=1e-3)


@pytest.mark.parametrize("codec", ["ulaw", "alaw", "gsm", "opus"])
@pytest.mark.parametrize("num_samples", [16001, 401])
def test_codecs_keep_length_place_and_most_of_the_telephone_band(codec, num_samples: int):
    waveform = effects.limit_band(noise(num_samples, seed=3), cutoff_hz=3000, sample_rate_hz=RATE)
    coded = effects.through_codec(waveform, codec=codec, sample_rate_hz=RATE)
    assert (len(coded), coded.dtype) == (num_samples, np.float32)
    assert not np.array_equal(coded, waveform)
    if num_samples > 1000:
        lags = np.correlate(coded, waveform[100:-100], "valid")  # index 100 is no shift
        assert int(lags.argmax()) == 100
        assert np.corrcoef(coded, waveform)[0, 1] > (0.7 if codec == "gsm" else 0.95)  # GSM is made for voices
        power = np.abs(np.fft.rfft(coded * np.blackman(num_samples))) ** 2
        frequency = np.fft.rfftfreq(num_samples, 1 / RATE)
        assert power[frequency > 4020].max() < 1e-8 * power.max()  # coded at 8 kHz


def test_mu_law_is_that_of_g711_and_clips():
    """Expected values from the segments of ITU-T G.711, at the codec's own rate so that nothing is resampled."""
    samples = [0.5, -0.51, 0.013, 0.9, 1.7, -3.0]
    coded = effects.through_codec(np.array(samples * 60, dtype=np.float32), codec="ulaw", sample_rate_hz=8000)
    for value, got in zip(samples, coded.tolist(), strict=False):
        biased = min(int(min(abs(value), 1.0) * 32768), 32635) + 132  # 16 bits
        exponent = biased.bit_length() - 8
        mantissa = (biased >> (exponent + 3)) & 15
        middle = ((mantissa << 3) + 132 << exponent) - 132
        assert got * 32768 == pytest.approx(np.sign(value) * middle, abs=1)


def test_g711_has_256_values_and_a_law_none_that_is_zero():
    samples = noise(50_000, scale=0.3)
    values = {
        codec: np.unique(effects.through_codec(samples, codec=codec, sample_rate_hz=8000)) for codec in ("ulaw", "alaw")
    }
    assert 128 < len(values["ulaw"]) <= 256
    assert 128 < len(values["alaw"]) <= 256
    assert 0 in values["ulaw"]
    # A-law has no zero: its lowest step, of 16 on the scale of 16 bits, has its middle at 8
    assert np.abs(values["alaw"]).min() == 8 / 32768


def test_codecs_give_the_same_bits_every_time():
    waveform = noise(4801)
    for codec in ("ulaw", "alaw", "gsm", "opus"):
        first, again = (effects.through_codec(waveform, codec=codec, sample_rate_hz=RATE) for _ in range(2))
        np.testing.assert_array_equal(first, again)
