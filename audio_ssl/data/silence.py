"""Silences: where speech starts and ends, and where long recordings may be cut.

What is silent is known by loudness (librosa's effects) or by a network's word (``vad``). This module knows waveforms
and probabilities; ``segment`` reads files and makes rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from audio_ssl.data.vad import FRAME_SAMPLES, RATE_HZ, speech_spans
from audio_ssl.errors import ConfigError

FRAME_S, HOP_S = 0.064, 0.016
MARGIN_S = 0.1  # kept around speech, so that soft first and last sounds stay
MAX_PAUSE_S = 1.0  # a longer pause always ends a piece

Detector = Literal["energy", "silero"]
Span = tuple[int, int]


@dataclass(frozen=True)
class SegmentSettings:
    """Lengths of pieces in seconds, and what counts as silence.

    Attributes:
        min_s: shorter pieces are joined to a neighbour, or left out and counted.
        max_s: no piece is longer; without a silence in reach, the cut is at the quietest place (the one that is least
            like speech).
        top_db: quieter than the loudest frame by this much is silence; without a meaning where ``vad`` is ``silero``.
        trims: whether rows that are short enough lose the silence at their two ends.
        vad: what tells silence: ``energy``, or ``silero``, a network that also knows noise and music from speech.
    """

    min_s: float = 1.0
    max_s: float = 20.0
    top_db: float = 40.0
    trims: bool = False
    vad: Detector = "energy"

    def __post_init__(self) -> None:
        if not 0 < self.min_s < self.max_s or self.top_db <= 0:
            raise ConfigError(
                f"min_s must be in (0, max_s) and top_db > 0, got min_s {self.min_s}, max_s {self.max_s}, "
                f"top_db {self.top_db}"
            )


def trim_silence(waveform: np.ndarray, *, sample_rate_hz: int, top_db: float = 40.0) -> Span:
    """First sample of sound and the one after the last; (0, 0) where all is silent.

    Args:
        waveform: (S,) float32.
        sample_rate_hz: its rate.
        top_db: quieter than the loudest frame by this much is silence.
    """
    spans = _sounds(waveform, sample_rate_hz=sample_rate_hz, top_db=top_db)
    return (spans[0][0], spans[-1][1]) if spans else (0, 0)


def split_at_silence(waveform: np.ndarray, *, sample_rate_hz: int, settings: SegmentSettings) -> list[Span]:
    """Cut a recording into pieces of ``min_s`` to ``max_s`` at its silences.

    Args:
        waveform: (S,) float32.
        sample_rate_hz: its rate.
        settings: lengths and loudness.

    Returns:
        Half-open sample ranges, in order, without overlap.
    """
    sounds = _sounds(waveform, sample_rate_hz=sample_rate_hz, top_db=settings.top_db)
    width = max(1, round(settings.max_s * sample_rate_hz) // 100)

    def quietest(first: int, last: int) -> int:
        half = waveform[first:last]
        energy = np.square(half[: len(half) // width * width]).reshape(-1, width).sum(axis=1)
        return first + int(energy.argmin()) * width + width // 2

    return _within_limits(sounds, settings, num_samples=len(waveform), sample_rate_hz=sample_rate_hz, quietest=quietest)


def split_at_pauses(
    probabilities: np.ndarray, *, num_samples: int, sample_rate_hz: int, settings: SegmentSettings
) -> list[Span]:
    """Cut a recording into pieces of ``min_s`` to ``max_s`` where nobody speaks.

    Args:
        probabilities: (F,) float32, of speech in each frame of 512 samples at 16 kHz; see ``vad``.
        num_samples: of the recording, at its own rate.
        sample_rate_hz: its own rate.
        settings: lengths.

    Returns:
        Half-open ranges of samples at its own rate, in order, without overlap.
    """
    scale = FRAME_SAMPLES * sample_rate_hz / RATE_HZ  # samples of a frame
    speech = speech_samples(probabilities, num_samples=num_samples, sample_rate_hz=sample_rate_hz)
    around = np.pad(probabilities, 1, mode="edge")
    smooth = around[:-2] + around[1:-1] + around[2:]  # (F,)

    def least_speech(first: int, last: int) -> int:
        a, b = (max(0, int(np.ceil(edge / scale - 0.5))) for edge in (first, last))
        if a >= min(b, len(smooth)):  # pieces shorter than a frame
            return (first + last) // 2
        lowest = np.flatnonzero(smooth[a:b] == smooth[a:b].min())
        run = int(np.flatnonzero(np.diff(lowest, append=-1) != 1)[0])  # of neighbours, the first such
        return round((a + float(lowest[0] + lowest[run]) / 2 + 0.5) * scale)

    return _within_limits(
        speech, settings, num_samples=num_samples, sample_rate_hz=sample_rate_hz, quietest=least_speech,
        spares_short=True,
    )  # fmt: skip


def speech_samples(probabilities: np.ndarray, *, num_samples: int, sample_rate_hz: int) -> list[Span]:
    """Ranges of samples with speech, at the recording's own rate.

    Args:
        probabilities: (F,) float32, of speech in each frame of 512 samples at 16 kHz.
        num_samples: of the recording, at its own rate.
        sample_rate_hz: its own rate.
    """
    scale = FRAME_SAMPLES * sample_rate_hz / RATE_HZ
    return [(round(a * scale), min(round(b * scale), num_samples)) for a, b in speech_spans(probabilities)]


def _sounds(waveform: np.ndarray, *, sample_rate_hz: int, top_db: float) -> list[Span]:
    from librosa.effects import split

    hop = max(1, round(HOP_S * sample_rate_hz))
    if not np.any(waveform):  # librosa measures against the loudest frame, so it calls digital silence sound
        return []
    frame = max(2, round(FRAME_S * sample_rate_hz))
    spans = split(waveform, top_db=top_db, frame_length=frame, hop_length=hop)
    return [(int(a), min(int(b), len(waveform))) for a, b in spans]


def _with_margins(spans: list[Span], margin: int, length: int) -> list[Span]:
    """Each span wider by the margin, meeting its neighbour half way at most."""
    edges = [0, *((a[1] + b[0]) // 2 for a, b in pairwise(spans)), length]
    return [(max(a - margin, edges[i]), min(b + margin, edges[i + 1])) for i, (a, b) in enumerate(spans)]


def _within_limits(
    sounds: list[Span],
    settings: SegmentSettings,
    *,
    num_samples: int,
    sample_rate_hz: int,
    quietest: Callable[[int, int], int],
    spares_short: bool = False,
) -> list[Span]:
    """Pieces around sounds: long ones cut, short ones joined, what is too short left out.

    ``spares_short``: no sound is cut so near to its end that the rest would be too short, and what is too short is
    joined over a long pause only where short pauses have not made it longer.
    """
    min_samples, max_samples = (round(s * sample_rate_hz) for s in (settings.min_s, settings.max_s))
    padded = _with_margins(sounds, round(MARGIN_S * sample_rate_hz), num_samples)
    least_rest = min(min_samples, max_samples // 2) if spares_short else 0
    short = [part for span in padded for part in _cut_long(span, max_samples, quietest, least_rest=least_rest)]
    pause = round(MAX_PAUSE_S * sample_rate_hz)
    if spares_short:
        short = _joined(short, 0, max_samples, pause)
    return [span for span in _joined(short, min_samples, max_samples, pause) if span[1] - span[0] >= min_samples]


def _cut_long(span: Span, max_samples: int, quietest: Callable[[int, int], int], *, least_rest: int) -> Iterator[Span]:
    """Parts of at most ``max_samples``, cut at the quietest place of each second half."""
    start, stop = span
    while stop - start > max_samples:
        cut = quietest(start + max_samples // 2, min(start + max_samples, stop - least_rest))
        yield start, cut
        start = cut
    yield start, stop


def _joined(spans: list[Span], min_samples: int, max_samples: int, max_pause: int) -> list[Span]:
    """Neighbours joined while they fit ``max_samples``; long pauses part them unless a side is too short alone."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and stop - joined[-1][0] <= max_samples:
            is_short = min(stop - start, joined[-1][1] - joined[-1][0]) < min_samples
            if start - joined[-1][1] <= max_pause or is_short:
                joined[-1] = (joined[-1][0], stop)
                continue
        joined.append((start, stop))
    return joined
