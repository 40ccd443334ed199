"""Waveforms in memory: another rate (torchaudio's or soxr's work), and zero mean with unit variance."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

VARIANCE_FLOOR = 1e-7
# torchaudio's sinc kernel has (orig/gcd) x (new/gcd) entries: 441 x 160 for 44.1 kHz, but 7e8 for 44101 Hz
_MAX_KERNEL_ENTRIES = 10_000_000
_BLAS_ALONE = 4096  # OpenBLAS takes one thread for a product of up to 10 000 numbers
_ONES = np.ones(_BLAS_ALONE, dtype=np.float32)


def resample(waveform: np.ndarray, *, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample with torchaudio's windowed sinc (Hann, 6 zero crossings), or soxr where its kernel would be huge.

    Args:
        waveform: (S,) float32.
        from_hz: rate of the input.
        to_hz: rate of the output.

    Returns:
        (ceil(S * to_hz / from_hz),) float32.
    """
    if from_hz == to_hz:
        return waveform
    shared = math.gcd(from_hz, to_hz)
    if (from_hz // shared) * (to_hz // shared) > _MAX_KERNEL_ENTRIES:
        import librosa

        length = -(-len(waveform) * to_hz // from_hz)
        resampled = librosa.resample(waveform, orig_sr=from_hz, target_sr=to_hz, res_type="soxr_hq")
        return np.asarray(librosa.util.fix_length(resampled, size=length), dtype=np.float32)
    import torch

    from audio_ssl.data.threads import one_torch_thread

    with torch.inference_mode(), one_torch_thread():
        result: np.ndarray = _resampler(from_hz, to_hz)(torch.from_numpy(waveform)).numpy()
    return result


def normalize(waveform: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """Zero mean, unit variance over the samples given (Hugging Face's ``do_normalize``: variance + 1e-7).

    Args:
        waveform: (S,) float32.
        out: (S,) float32 to write to, ``waveform`` itself for one; None makes one.

    Returns:
        (S,) float32: ``out``.
    """
    result = np.empty(len(waveform), dtype=np.float32) if out is None else out
    np.subtract(waveform, _sum_of_products(waveform) / len(waveform), out=result, casting="same_kind")
    variance = _sum_of_products(result, result) / len(result)
    result *= np.float32(1 / math.sqrt(variance + VARIANCE_FLOOR))
    return result


def _sum_of_products(samples: np.ndarray, others: np.ndarray | None = None) -> float:
    """Of samples with others, or with 1: piece by piece, since BLAS shares longer ones out among threads.

    The number of threads would then decide the last bits. As exact as numpy's own sum, and three times as fast.
    """
    num_whole = len(samples) // _BLAS_ALONE * _BLAS_ALONE
    pieces, rest = samples[:num_whole].reshape(-1, _BLAS_ALONE), samples[num_whole:]
    if others is None:
        sums, last = np.vecdot(pieces, _ONES), np.dot(rest, _ONES[: len(rest)])
    else:
        sums = np.vecdot(pieces, others[:num_whole].reshape(-1, _BLAS_ALONE))
        last = np.dot(rest, others[num_whole:])
    return float(sums.sum(dtype=np.float64)) + float(last)


def resampler_reach(*, from_hz: int, to_hz: int) -> int:
    """Samples on each side, at the rate of the input, that one output sample of :func:`resample` looks at.

    Of soxr it is what it takes for its output to agree with that of a longer input to about 1e-6 of full scale.
    """
    if from_hz == to_hz:
        return 0
    shared = math.gcd(from_hz, to_hz)
    if (from_hz // shared) * (to_hz // shared) > _MAX_KERNEL_ENTRIES:
        return from_hz // 10
    # as torchaudio: 6 zero crossings of a sinc at 0.99 of the lower rate, and the kernel of a whole step of both rates
    return math.ceil(6 * from_hz / (0.99 * min(from_hz, to_hz))) + from_hz // shared


@functools.lru_cache(maxsize=64)
def _resampler(from_hz: int, to_hz: int) -> Any:
    from torchaudio.transforms import Resample

    return Resample(from_hz, to_hz)
