"""Parts of a recording as the whole would give them, also where the model wants another rate."""

from __future__ import annotations

from math import gcd

from audio_ssl.data.waveform import resampler_reach
from audio_ssl.inference.source import Samples, Source
from audio_ssl.inference.windows import resampled_length


def part_samples(seconds: float, *, from_hz: int, to_hz: int) -> int:
    """Samples at the file's rate of a part of about ``seconds`` whose end is a sample of both rates."""
    grid = from_hz // gcd(from_hz, to_hz)
    return max(int(seconds * from_hz) // grid, 1) * grid


def load_part(source: Source, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
    """Part of an utterance, equal to the same part of the whole when that is resampled.

    What the resampler looks at beyond the part is read with it, resampled and dropped again.

    Args:
        source: holds the utterance.
        row: which.
        start: first sample at the utterance's own rate; a sample of both rates.
        num_samples: of the part, at the utterance's own rate.
        to_hz: the rate that is wanted.

    Returns:
        (ceil(num_samples * to_hz / rate),) float32 mono.

    Raises:
        AudioError: it cannot be read.
    """
    from_hz = source.rate_hz(row)
    if from_hz == to_hz:
        return source.load(row, start, num_samples, to_hz=to_hz)
    grid = from_hz // gcd(from_hz, to_hz)
    margin = -(-resampler_reach(from_hz=from_hz, to_hz=to_hz) // grid) * grid
    before = min(margin, start)
    after = min(margin, source.num_samples(row) - start - num_samples)
    wide = source.load(row, start - before, before + num_samples + after, to_hz=to_hz)
    first = before * to_hz // from_hz
    return wide[first : first + resampled_length(num_samples, from_hz=from_hz, to_hz=to_hz)]
