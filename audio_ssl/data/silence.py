"""Silences: where speech starts and ends, and where long recordings may be cut (librosa's effects)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from audio_ssl.data.audio import load_segment
from audio_ssl.data.checks import Refusal
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioError, ConfigError

FRAME_S, HOP_S = 0.064, 0.016
MARGIN_S = 0.1  # kept around speech, so that soft first and last sounds stay
MAX_PAUSE_S = 1.0  # a longer pause always ends a piece
_BLOCK_S = 600  # librosa holds four copies of what it splits, so an hour goes through in parts

Span = tuple[int, int]


@dataclass(frozen=True)
class SegmentSettings:
    """Lengths of pieces in seconds, and what counts as silence.

    Attributes:
        min_s: shorter pieces are joined to a neighbour, or left out and counted.
        max_s: no piece is longer; without a silence in reach, the cut is at the quietest place.
        top_db: quieter than the loudest frame by this much is silence.
        trims: whether rows that are short enough lose the silence at their two ends.
    """

    min_s: float = 1.0
    max_s: float = 20.0
    top_db: float = 40.0
    trims: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.min_s < self.max_s or self.top_db <= 0:
            raise ConfigError(
                f"min_s must be in (0, max_s) and top_db > 0, got min_s {self.min_s}, max_s {self.max_s}, "
                f"top_db {self.top_db}"
            )


@dataclass(frozen=True)
class SegmentResult:
    """What cutting a manifest gave.

    Attributes:
        manifest: short rows as they were, and pieces of the long ones.
        num_cut: rows that were cut.
        dropped_s: seconds of silence, trimmed or between pieces, and of pieces that were too short.
        num_texts_dropped: rows that lost their text, since it cannot be cut with them.
        refusals: rows that could not be read.
    """

    manifest: Manifest
    num_cut: int
    dropped_s: float
    num_texts_dropped: int
    refusals: tuple[Refusal, ...]


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
    min_samples, max_samples = (round(s * sample_rate_hz) for s in (settings.min_s, settings.max_s))
    sounds = _sounds(waveform, sample_rate_hz=sample_rate_hz, top_db=settings.top_db)
    padded = _with_margins(sounds, round(MARGIN_S * sample_rate_hz), len(waveform))
    short = [part for span in padded for part in _cut_long(waveform, span, max_samples)]
    pause = round(MAX_PAUSE_S * sample_rate_hz)
    return [span for span in _joined(short, min_samples, max_samples, pause) if span[1] - span[0] >= min_samples]


def segment_manifest(
    manifest: Manifest, *, settings: SegmentSettings, progress: Callable[[int, int], None] | None = None
) -> SegmentResult:
    """Cut the rows that are longer than ``max_s``; the pieces point into the same files.

    Args:
        manifest: rows.
        settings: lengths and loudness.
        progress: called with (rows done, rows in all).

    Raises:
        ManifestError: rows of a mapped file that break the rules.
    """
    manifest.check()
    rows: list[Utterance] = []
    refusals: list[Refusal] = []
    num_cut = num_texts = 0
    dropped_s = 0.0
    for i, row in enumerate(manifest):
        if progress is not None:
            progress(i, len(manifest))
        is_short = row.num_samples <= settings.max_s * row.sample_rate
        if is_short and not settings.trims:
            rows.append(row)
            continue
        try:
            if is_short:
                trimmed = _trimmed(manifest, i, settings)
                rows.append(trimmed)
                dropped_s += (row.num_samples - trimmed.num_samples) / row.sample_rate
                continue
            pieces = _pieces(manifest, i, settings)
        except AudioError as error:
            refusals.append(Refusal(row.path, "unreadable", f"{row.id}: {error}"))
            continue
        rows += pieces
        num_cut += 1
        num_texts += row.text is not None
        dropped_s += (row.num_samples - sum(p.num_samples for p in pieces)) / row.sample_rate
    cut = Manifest.from_rows(rows, root=manifest.root)
    return SegmentResult(cut, num_cut, dropped_s, num_texts, tuple(refusals))


def _trimmed(manifest: Manifest, i: int, settings: SegmentSettings) -> Utterance:
    """A row without the silence at its two ends (a margin stays); the row itself where all of it is silent."""
    row, rate = manifest[i], manifest[i].sample_rate
    waveform = _samples(manifest, i, start=row.start, num_samples=row.num_samples)
    start, stop = trim_silence(waveform, sample_rate_hz=rate, top_db=settings.top_db)
    if start >= stop:
        return row
    margin = round(MARGIN_S * rate)
    start, stop = max(0, start - margin), min(row.num_samples, stop + margin)
    return replace(row, start=row.start + start, num_samples=stop - start)


def _pieces(manifest: Manifest, i: int, settings: SegmentSettings) -> list[Utterance]:
    row, rate = manifest[i], manifest[i].sample_rate
    pieces = []
    block = round(_BLOCK_S * rate)
    for offset in range(0, row.num_samples, block):
        start = row.start + offset
        wanted = min(block, row.num_samples - offset)
        waveform = _samples(manifest, i, start=start, num_samples=wanted)
        for a, b in split_at_silence(waveform, sample_rate_hz=rate, settings=settings):
            identity = f"{row.id}-{round((start + a) * 1000 / rate):09d}"
            pieces.append(replace(row, id=identity, start=start + a, num_samples=b - a, text=None))
    return pieces


def _samples(manifest: Manifest, i: int, *, start: int, num_samples: int) -> np.ndarray:
    """Samples of a row's file, which must have the row's rate: pieces are counted at it."""
    rate, file = manifest[i].sample_rate, manifest.audio_file(i)
    return load_segment(file, start=start, num_samples=num_samples, expected_rate_hz=rate, sample_rate_hz=rate)


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


def _cut_long(waveform: np.ndarray, span: Span, max_samples: int) -> Iterator[Span]:
    """Parts of at most ``max_samples``, cut at the quietest hundredth of each second half."""
    start, stop = span
    while stop - start > max_samples:
        width = max(1, max_samples // 100)
        half = waveform[start + max_samples // 2 : start + max_samples]
        energy = np.square(half[: len(half) // width * width]).reshape(-1, width).sum(axis=1)
        cut = start + max_samples // 2 + int(energy.argmin()) * width + width // 2
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
