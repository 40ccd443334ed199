"""What augmentation does to a waveform: pure functions, without draws. ``docs/augmentation.md`` has the formulas.

All but :func:`change_speed` keep the number of samples. Levels are mean squares; nothing is clipped except by a codec.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TypeVar

import numpy as np
import soundfile as sf

from audio_ssl.config.augment import Codec
from audio_ssl.data.waveform import resample

CODEC_RATE_HZ = 8000
SILENT_POWER = 1e-12  # -120 dB of full scale, far below the last bit of 16
_CONTAINERS = {"ulaw": ("WAV", "ULAW"), "alaw": ("WAV", "ALAW"), "gsm": ("WAV", "GSM610"), "opus": ("OGG", "OPUS")}
Length = TypeVar("Length", int, np.ndarray)


def power(waveform: np.ndarray) -> float:
    """Mean square of (S,) samples; 0 for none."""
    return float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0


def speed_ratio(speed: float) -> Fraction:
    """The factor as a fraction of hundredths: 0.9 is 9/10."""
    return Fraction(round(speed * 100), 100)


def samples_after(num_samples: Length, *, speed: float) -> Length:
    """Samples that :func:`change_speed` makes of ``num_samples``: ceil(n / speed)."""
    ratio = speed_ratio(speed)
    return -(-num_samples * ratio.denominator // ratio.numerator)


def samples_before(num_samples: int, *, speed: float) -> int:
    """The fewest samples of which :func:`change_speed` makes at least ``num_samples`` (> 0)."""
    ratio = speed_ratio(speed)
    return (num_samples - 1) * ratio.numerator // ratio.denominator + 1


def change_speed(waveform: np.ndarray, *, speed: float) -> np.ndarray:
    """Play faster or slower by resampling; pitch moves with it.

    Args:
        waveform: (S,) float32.
        speed: > 1 is shorter and higher; in hundredths.

    Returns:
        (ceil(S / speed),) float32.

    Reference: Ko et al. 2015, "Audio Augmentation for Speech Recognition", x(speed * t).
    """
    ratio = speed_ratio(speed)
    changed: np.ndarray = resample(waveform, from_hz=ratio.numerator, to_hz=ratio.denominator)
    return changed


def change_gain(waveform: np.ndarray, *, gain_db: float) -> np.ndarray:
    """Multiply (S,) float32 by 10 ** (gain_db / 20)."""
    changed: np.ndarray = waveform * np.float32(10 ** (gain_db / 20))
    return changed


def add_noise(waveform: np.ndarray, noise: np.ndarray, *, snr_db: float) -> np.ndarray:
    """Add noise, scaled so that 10 log10(power of the waveform / power of what is added) is ``snr_db``.

    Args:
        waveform: (S,) float32; where it is silent nothing is added.
        noise: (S,) float32; silence adds nothing.
        snr_db: signal-to-noise ratio.
    """
    noisy: np.ndarray = waveform + _at_snr(noise, signal_power=power(waveform), snr_db=snr_db)
    return noisy


def mix_in(waveform: np.ndarray, other: np.ndarray, *, start: int, num_samples: int, snr_db: float) -> np.ndarray:
    """Lay the first samples of another utterance over a stretch of a waveform.

    The levels compared are those of the whole waveform and of all of ``other``, as in WavLM: a short stretch may be a
    pause, which must not be raised to the level of speech.

    Args:
        waveform: (S,) float32.
        other: (N,) float32.
        start: where the stretch starts in ``waveform``.
        num_samples: its length, at most N and S - start.
        snr_db: level of ``waveform`` over that of ``other``.

    Reference: WavLM (2110.13900) algorithm 1.
    """
    mixed = waveform.copy()
    scaled = _at_snr(other, signal_power=power(waveform), snr_db=snr_db)
    mixed[start : start + num_samples] += scaled[:num_samples]
    return mixed


def reverberate(waveform: np.ndarray, impulse_response: np.ndarray) -> np.ndarray:
    """Convolve with a room's impulse response: speech stays where it was, and as loud as it was.

    The strongest tap is the direct path, and moves to time 0; the power over the row is kept, as in Kaldi's
    ``wav-reverberate --shift-output --normalize-output``.

    Args:
        waveform: (S,) float32.
        impulse_response: (N,) float32, not silent.

    Returns:
        (S,) float32.
    """
    from scipy.signal import fftconvolve

    direct = int(np.abs(impulse_response).argmax())
    wet = fftconvolve(waveform, impulse_response)[direct : direct + len(waveform)]  # (S + N - 1,) -> (S,)
    before, after = power(waveform), power(wet)
    scale = np.sqrt(before / after) if after > 0 else 0.0
    scaled: np.ndarray = (wet * scale).astype(np.float32, copy=False)
    return scaled


def limit_band(waveform: np.ndarray, *, cutoff_hz: int, sample_rate_hz: int) -> np.ndarray:
    """Remove what lies above a frequency, by resampling to twice that rate and back (soxr, -100 dB and more).

    Args:
        waveform: (S,) float32.
        cutoff_hz: at most half of the rate; the upper tenth below it falls off.
        sample_rate_hz: of the waveform.
    """
    low = _soxr(waveform, from_hz=sample_rate_hz, to_hz=2 * cutoff_hz)
    return _with_length(_soxr(low, from_hz=2 * cutoff_hz, to_hz=sample_rate_hz), len(waveform))


def through_codec(waveform: np.ndarray, *, codec: Codec, sample_rate_hz: int) -> np.ndarray:
    """Encode at 8 kHz in memory, decode, and come back to the rate; samples beyond -1 .. 1 are clipped, as on a line.

    Args:
        waveform: (S,) float32.
        codec: ``ulaw`` and ``alaw`` (G.711), ``gsm`` (GSM 06.10 full rate), ``opus`` (narrow band).
        sample_rate_hz: of the waveform.
    """
    low = _soxr(waveform, from_hz=sample_rate_hz, to_hz=CODEC_RATE_HZ)
    container, subtype = _CONTAINERS[codec]
    file = io.BytesIO()
    sf.write(file, np.clip(low, -1, 1), CODEC_RATE_HZ, format=container, subtype=subtype)
    file.seek(0)
    decoded = sf.read(file, dtype="float32")[0][: len(low)]  # GSM fills its last frame
    return _with_length(_soxr(decoded, from_hz=CODEC_RATE_HZ, to_hz=sample_rate_hz), len(waveform))


def _at_snr(noise: np.ndarray, *, signal_power: float, snr_db: float) -> np.ndarray:
    noise_power = power(noise)
    scale = np.sqrt(signal_power / noise_power * 10 ** (-snr_db / 10)) if noise_power > SILENT_POWER else 0.0
    scaled: np.ndarray = noise * np.float32(scale)
    return scaled


def _soxr(waveform: np.ndarray, *, from_hz: int, to_hz: int) -> np.ndarray:
    """Not :func:`audio_ssl.data.waveform.resample`: six zero crossings let hundreds of Hz above the cut-off through."""
    if from_hz == to_hz:
        return waveform
    import librosa

    resampled = librosa.resample(waveform, orig_sr=from_hz, target_sr=to_hz, res_type="soxr_hq")
    return np.asarray(resampled, dtype=np.float32)


def _with_length(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """A sample or two more or less after two roundings of the length."""
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))
