"""What a scan tells about itself, kept as running figures: neither rows nor refusals are held for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from audio_ssl.data.checks import Refusal
from audio_ssl.data.sidecars import Sidecars, SourceReport


@dataclass(frozen=True)
class RefusedKind:
    """Refusals of one reason: how many, and the first."""

    reason: str
    count: int
    example: Refusal


@dataclass(frozen=True)
class ScanReport:
    """What a scan found, in figures.

    Attributes:
        num_rows: rows of the manifest.
        hours: of audio in them.
        refused: what stays out, by reason, most frequent first.
        skipped: files without an audio extension (sidecars that were used excepted), by extension.
        sources: what each sidecar file gave.
        notes: sentences for the user: long files, rows without text, conflicting texts ...
    """

    num_rows: int
    hours: float
    refused: tuple[RefusedKind, ...]
    skipped: Mapping[str, int]
    sources: tuple[SourceReport, ...]
    notes: tuple[str, ...]

    def refusal_counts(self) -> dict[str, int]:
        """Number of refusals by reason, most frequent first."""
        return {kind.reason: kind.count for kind in self.refused}


class Tally:
    """Running figures of a scan.

    Args:
        max_s: rows longer than this are counted.
    """

    def __init__(self, *, max_s: float) -> None:
        self.num_rows = 0
        self.seconds = 0.0
        self._max_s = max_s
        self._num_long = 0
        self._longest: tuple[float, str] = (-1.0, "")
        self._num_unknown = {"text": 0, "speaker": 0}
        self._refused: dict[str, RefusedKind] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the next rows, in any schema of a manifest; at least one."""
        samples, rates = (batch.column(name).to_numpy() for name in ("num_samples", "sample_rate"))
        durations_s = samples / rates.astype(np.float64)
        self.num_rows += batch.num_rows
        self.seconds += float(durations_s.sum())
        self._num_long += int((durations_s > self._max_s).sum())
        longest = int(durations_s.argmax())
        if durations_s[longest] > self._longest[0]:
            self._longest = (float(durations_s[longest]), batch.column("path")[longest].as_py())
        for name in self._num_unknown:
            self._num_unknown[name] += batch.column(name).null_count

    def refuse(self, refusal: Refusal) -> None:
        """Count a refusal."""
        known = self._refused.get(refusal.reason)
        self._refused[refusal.reason] = RefusedKind(
            refusal.reason, known.count + 1 if known else 1, known.example if known else refusal
        )

    def refused(self) -> tuple[RefusedKind, ...]:
        """What was refused, by reason, most frequent first."""
        return tuple(sorted(self._refused.values(), key=lambda kind: -kind.count))

    def notes(self, sidecars: Sidecars, *, has_speaker_rule: bool, num_hidden: int) -> list[str]:
        """Sentences about what a user should know."""
        notes = []
        if self._num_long:
            seconds, path = self._longest
            notes.append(
                f"{self._num_long} rows are longer than {self._max_s:g} s (the longest has {seconds:.1f} s: "
                f"{path}): training crops them; `audio-ssl manifest segment` cuts them at silences"
            )
        is_expected = {"text": bool(sidecars.reports), "speaker": bool(sidecars.reports) or has_speaker_rule}
        for name, num_unknown in self._num_unknown.items():
            if is_expected[name] and num_unknown:
                notes.append(f"{num_unknown} of {self.num_rows} rows have no {name}")
        for report in sidecars.reports:
            if report.num_unmatched:
                named = ", ".join(report.examples)
                notes.append(f"{report.file}: {report.num_unmatched} entries have no audio file ({named} ...)")
        if sidecars.num_conflicts:
            notes.append(f"{sidecars.num_conflicts} rows have different texts in two files; the first listed was taken")
        if num_hidden:
            notes.append(f"{num_hidden} hidden files (names with a dot in front) were not looked at")
        return notes
