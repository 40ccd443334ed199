"""Long recordings as rows of a few seconds, cut where nobody speaks; the rows point into the same files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from audio_ssl.data.addresses import shown
from audio_ssl.data.audio import load_segment
from audio_ssl.data.checks import UNREADABLE, Refusal
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.silence import (
    MARGIN_S,
    SegmentSettings,
    Span,
    speech_samples,
    split_at_pauses,
    split_at_silence,
    trim_silence,
)
from audio_ssl.data.vad import SileroVAD, resampled_blocks
from audio_ssl.errors import AudioError

NOTHING_LEFT = "no piece"
_BLOCK_S = 600  # librosa holds four copies of what it splits, so an hour goes through in parts
_VAD_BLOCK_S = 120  # the network needs no more than 16 s, but a file is opened anew for each block

Outcome = list[Utterance] | Refusal


@dataclass(frozen=True)
class SegmentResult:
    """What cutting a manifest gave.

    Attributes:
        manifest: short rows as they were, and pieces of the long ones.
        num_cut: rows that were cut.
        dropped_s: seconds of silence, trimmed or between pieces, and of pieces that were too short.
        num_texts_dropped: rows that lost their text, since it cannot be cut with them.
        refusals: rows that could not be read, or of which no piece is left.
    """

    manifest: Manifest
    num_cut: int
    dropped_s: float
    num_texts_dropped: int
    refusals: tuple[Refusal, ...]


def segment_manifest(
    manifest: Manifest,
    *,
    settings: SegmentSettings,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentResult:
    """Cut the rows that are longer than ``max_s``; the pieces point into the same files.

    Args:
        manifest: rows.
        settings: lengths, and what silence is.
        num_workers: threads; each holds a block of a row.
        progress: called with (rows done, rows in all).

    Raises:
        ManifestError: rows of a mapped file that break the rules.
        MissingExtraError: ``vad`` is ``silero``, and the packages for it are not installed.
    """
    manifest.check()
    vad = SileroVAD() if settings.vad == "silero" else None
    rows: list[Utterance] = []
    refusals: list[Refusal] = []
    num_cut = num_texts = 0
    dropped_s = 0.0
    for i, (row, outcome) in enumerate(_outcomes(manifest, settings, vad, num_workers=num_workers)):
        if progress is not None:
            progress(i, len(manifest))
        if isinstance(outcome, Refusal):
            refusals.append(outcome)
            continue
        rows += outcome
        dropped_s += (row.num_samples - sum(p.num_samples for p in outcome)) / row.sample_rate
        if not _is_short(row, settings):
            num_cut += 1
            num_texts += row.text is not None
        if not outcome:
            sound = "sound" if vad is None else "speech"
            length_s = row.num_samples / row.sample_rate
            told = f"{row.id}: there is no {sound} of {settings.min_s:g} s or more in its {length_s:.1f} s"
            refusals.append(Refusal(shown(row.path), NOTHING_LEFT, told))
    cut = Manifest.from_rows(rows, root=manifest.root)
    return SegmentResult(cut, num_cut, dropped_s, num_texts, tuple(refusals))


def _is_short(row: Utterance, settings: SegmentSettings) -> bool:
    return row.num_samples <= settings.max_s * row.sample_rate


def _outcomes(
    manifest: Manifest, settings: SegmentSettings, vad: SileroVAD | None, *, num_workers: int
) -> Iterator[tuple[Utterance, Outcome]]:
    """Each row and what becomes of it, in order; a few rows are read ahead."""
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="segment")
    waiting: deque[tuple[Utterance, Future[Outcome] | None]] = deque()

    def first() -> tuple[Utterance, Outcome]:
        row, future = waiting.popleft()
        return row, [row] if future is None else future.result()

    try:
        for i, row in enumerate(manifest):
            is_read = settings.trims or not _is_short(row, settings)
            waiting.append((row, pool.submit(_outcome, manifest, i, settings, vad) if is_read else None))
            if len(waiting) > 2 * num_workers:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(manifest: Manifest, i: int, settings: SegmentSettings, vad: SileroVAD | None) -> Outcome:
    row = manifest[i]
    try:
        if _is_short(row, settings):
            return [_trimmed(manifest, i, settings, vad)]
        spans = _loud_pieces(manifest, i, settings) if vad is None else _spoken_pieces(manifest, i, settings, vad)
    except AudioError as error:
        return Refusal(shown(row.path), UNREADABLE, f"{row.id}: {error}")
    return [
        replace(
            row,
            id=f"{row.id}-{round((row.start + a) * 1000 / row.sample_rate):09d}",
            start=row.start + a, num_samples=b - a, text=None,
        )
        for a, b in spans
    ]  # fmt: skip


def _trimmed(manifest: Manifest, i: int, settings: SegmentSettings, vad: SileroVAD | None) -> Utterance:
    """A row without the silence at its two ends (a margin stays); the row itself where all of it is silent."""
    row, rate = manifest[i], manifest[i].sample_rate
    if vad is None:
        waveform = _samples(manifest, i, start=row.start, num_samples=row.num_samples)
        start, stop = trim_silence(waveform, sample_rate_hz=rate, top_db=settings.top_db)
    else:
        probabilities = _probabilities(manifest, i, vad)
        speech = speech_samples(probabilities, num_samples=row.num_samples, sample_rate_hz=rate)
        start, stop = (speech[0][0], speech[-1][1]) if speech else (0, 0)
    if start >= stop:
        return row
    margin = round(MARGIN_S * rate)
    start, stop = max(0, start - margin), min(row.num_samples, stop + margin)
    return replace(row, start=row.start + start, num_samples=stop - start)


def _loud_pieces(manifest: Manifest, i: int, settings: SegmentSettings) -> list[Span]:
    """Ranges of samples from the row's first one; each block is cut for itself."""
    row, rate = manifest[i], manifest[i].sample_rate
    block = round(_BLOCK_S * rate)
    spans = []
    for offset in range(0, row.num_samples, block):
        wanted = min(block, row.num_samples - offset)
        waveform = _samples(manifest, i, start=row.start + offset, num_samples=wanted)
        found = split_at_silence(waveform, sample_rate_hz=rate, settings=settings)
        spans += [(offset + a, offset + b) for a, b in found]
    return spans


def _spoken_pieces(manifest: Manifest, i: int, settings: SegmentSettings, vad: SileroVAD) -> list[Span]:
    row, probabilities = manifest[i], _probabilities(manifest, i, vad)
    return split_at_pauses(
        probabilities, num_samples=row.num_samples, sample_rate_hz=row.sample_rate, settings=settings
    )


def _probabilities(manifest: Manifest, i: int, vad: SileroVAD) -> np.ndarray:
    """(F,) float32, of speech, of a whole row; an hour has 450 kB of them."""
    row = manifest[i]

    def read(first: int, num_samples: int) -> np.ndarray:
        return _samples(manifest, i, start=row.start + first, num_samples=num_samples)

    blocks = resampled_blocks(read, row.num_samples, from_hz=row.sample_rate, block_s=_VAD_BLOCK_S)
    return vad.probabilities(blocks)


def _samples(manifest: Manifest, i: int, *, start: int, num_samples: int) -> np.ndarray:
    """Samples of a row's file, which must have the row's rate: pieces are counted at it."""
    rate, file = manifest[i].sample_rate, manifest.audio_file(i)
    return load_segment(file, start=start, num_samples=num_samples, expected_rate_hz=rate, sample_rate_hz=rate)
