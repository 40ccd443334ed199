"""Figures about a manifest, and the check of its rows against the files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio_ssl.data.addresses import shown
from audio_ssl.data.audio import AudioInfo, read_audio
from audio_ssl.data.checks import Refusal, inspect_file
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.parallel import FILES_IN_FLIGHT, map_in_order
from audio_ssl.errors import AudioError

LENGTH_EDGES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 30.0, 60.0, float("inf"))


@dataclass(frozen=True)
class ManifestSummary:
    """Figures about a manifest.

    Attributes:
        num_rows: rows.
        num_files: different audio files (those in shards counted one by one).
        hours: of all rows.
        hours_by_rate: sample rate in Hz to (rows, hours).
        length_counts: rows between neighbouring :data:`LENGTH_EDGES_S`.
        length_quantiles_s: 0, 25, 50, 75 and 100 % of the rows' seconds.
        hours_by_speaker: hours of each known speaker, most first.
        num_without_speaker: rows whose speaker is unknown.
        languages: rows by language; unknown ones under ``unknown``.
        num_texts: rows with a text that is not empty.
        num_empty_texts: rows whose text is known and empty.
        num_characters: characters of all texts.
    """

    num_rows: int
    num_files: int
    hours: float
    hours_by_rate: Mapping[int, tuple[int, float]]
    length_counts: tuple[int, ...]
    length_quantiles_s: tuple[float, ...]
    hours_by_speaker: Mapping[str, float]
    num_without_speaker: int
    languages: Mapping[str, int]
    num_texts: int
    num_empty_texts: int
    num_characters: int


def summarize(manifest: Manifest) -> ManifestSummary:
    """Count a manifest's rows; reads no audio."""
    seconds = manifest.durations_s()
    rates = manifest.table.column("sample_rate").to_numpy()
    speakers = manifest.column("speaker")
    hours: defaultdict[str, float] = defaultdict(float)
    for speaker, duration in zip(speakers, seconds.tolist(), strict=True):
        if speaker is not None:
            hours[speaker] += duration / 3600
    texts = [text for text in manifest.column("text") if text is not None]
    quantiles = np.quantile(seconds, [0, 0.25, 0.5, 0.75, 1]) if len(seconds) else np.zeros(5)
    return ManifestSummary(
        num_rows=len(manifest),
        num_files=len(set(manifest.file_keys())),
        hours=float(seconds.sum()) / 3600,
        hours_by_rate={
            int(r): (int((rates == r).sum()), float(seconds[rates == r].sum()) / 3600) for r in np.unique(rates)
        },
        length_counts=tuple(np.histogram(seconds, bins=np.asarray(LENGTH_EDGES_S))[0].tolist()),
        length_quantiles_s=tuple(quantiles.tolist()),
        hours_by_speaker=dict(sorted(hours.items(), key=lambda item: -item[1])),
        num_without_speaker=speakers.count(None),
        languages=dict(Counter(tag or "unknown" for tag in manifest.column("language")).most_common()),
        num_texts=sum(bool(text.strip()) for text in texts),
        num_empty_texts=sum(not text.strip() for text in texts),
        num_characters=sum(map(len, texts)),
    )


def find_faults(
    manifest: Manifest,
    *,
    decode: bool = False,
    num_workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Compare every row with its file; a fault a row, named as ``Manifest.describe`` does.

    Args:
        manifest: rows that keep the rules of the table (:meth:`Manifest.check`).
        decode: decode every row, and find NaN, infinity and early ends; else headers and last samples only.
        num_workers: threads.
        progress: called with (rows done, rows in all).
    """
    faults = []
    rows = range(len(manifest))
    found = map_in_order(
        lambda row: _fault(manifest, row, decode=decode), rows, num_workers=num_workers, window=FILES_IN_FLIGHT
    )
    with closing(found):
        for row, fault in enumerate(found):
            if fault is not None:
                faults.append(f"{manifest.describe(row)}: {fault}")
            if progress is not None:
                progress(row + 1, len(manifest))
    return tuple(faults)


def row_fault(utterance: Utterance, info: AudioInfo) -> str | None:
    """Where a row disagrees with what its file is; None where it does not."""
    if info.sample_rate != utterance.sample_rate:
        return f"sample_rate must be the file's {info.sample_rate}, got {utterance.sample_rate}"
    stop = utterance.start + utterance.num_samples
    if stop > info.num_samples:
        return f"start + num_samples must be <= the file's {info.num_samples}, got {stop}"
    return None


def _fault(manifest: Manifest, row: int, *, decode: bool) -> str | None:
    utterance, path = manifest[row], manifest.audio_file(row)
    place = manifest.audio_path(row)
    if isinstance(place, Path) and not place.is_file():
        return f"no file {place}"
    info = inspect_file(path, name=shown(utterance.path), check="ends")
    if isinstance(info, Refusal):
        return f"{info.reason}: {info.detail}"
    fault = row_fault(utterance, info)
    if fault is not None:
        return fault
    if decode:
        try:
            read_audio(path, start=utterance.start, num_samples=utterance.num_samples)
        except AudioError as error:
            return str(error)
    return None
