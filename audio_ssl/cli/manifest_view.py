"""How ``audio-ssl manifest`` shows its results: tables on standard output, progress on standard error."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from audio_ssl.data.checks import Refusal
    from audio_ssl.data.dedupe import DedupeResult
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.pack import PackResult
    from audio_ssl.data.scan_report import ScanReport
    from audio_ssl.data.segment import SegmentResult
    from audio_ssl.data.summary import ManifestSummary

SPEAKERS_SHOWN = 10
REFUSALS_SHOWN = 5


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error that a function of (done, total) moves."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_line(text: str) -> None:
    """A line on standard output, never wrapped or coloured."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def show_scan(report: ScanReport, *, out: Path) -> None:
    """What a scan found: rows, refusals by reason, skipped files, sources and notes."""
    from audio_ssl.data.refusals import refusals_path

    print_line(f"wrote {report.num_rows} rows, {report.hours:.2f} h of audio, to {out}")
    if report.refused:
        num_refused = sum(kind.count for kind in report.refused)
        table = Table("refused because", "files", "for example", title=f"{num_refused} files refused")
        for kind in report.refused:
            table.add_row(kind.reason, str(kind.count), escape(f"{kind.example.path}: {kind.example.detail}"))
        _console().print(table)
        print_line(f"all refused files, with reasons: {refusals_path(out)}")
    for source in report.sources:
        print_line(f"{source.file}: {source.num_texts} texts, {source.num_speakers} speakers")
    if report.skipped:
        skipped = ", ".join(f"{n} {extension}" for extension, n in report.skipped.items())
        print_line(f"not audio by their names, skipped: {skipped}")
    for note in report.notes:
        print_line(f"note: {note}")


def show_summary(summary: ManifestSummary, *, name: str) -> None:
    """Figures of a manifest as tables."""
    from audio_ssl.data.summary import LENGTH_EDGES_S

    console = _console()
    print_line(f"{name}: {summary.num_rows} rows in {summary.num_files} files, {summary.hours:.2f} h")
    rates = Table("sample rate", "rows", "hours", title="Sample rates")
    for rate, (rows, hours) in summary.hours_by_rate.items():
        rates.add_row(f"{rate} Hz", str(rows), f"{hours:.2f}")
    lengths = Table("seconds", "rows", "", title="Lengths")
    most = max(summary.length_counts, default=1) or 1
    for (low, high), count in zip(pairwise(LENGTH_EDGES_S), summary.length_counts, strict=True):
        if count:
            lengths.add_row(f"{low:g} to {high:g}", str(count), "█" * max(1, round(30 * count / most)))
    console.print(rates, lengths)
    quantiles = "  ".join(f"{q:.2f}" for q in summary.length_quantiles_s)
    print_line(f"seconds a row, 0/25/50/75/100 %: {quantiles}")
    _show_speakers(summary)
    languages = ", ".join(f"{tag} {rows}" for tag, rows in summary.languages.items())
    print_line(f"languages: {languages or 'none'}")
    without = summary.num_rows - summary.num_texts - summary.num_empty_texts
    print_line(
        f"texts: {summary.num_texts} ({summary.num_characters} characters), {summary.num_empty_texts} empty, "
        f"{without} rows without"
    )


def show_parts(parts: Mapping[Path, Manifest], *, total_hours: float) -> None:
    """Rows, hours and speakers of each part of a split."""
    for folder in {path.parent for path in parts}:  # outside the table, which would cut a long one
        print_line(f"wrote the parts to {folder}")
    table = Table("part", "rows", "hours", "share", "speakers")
    for path, part in parts.items():
        hours = float(part.durations_s().sum()) / 3600
        speakers = len(set(part.column("speaker")) - {None})
        table.add_row(escape(path.name), str(len(part)), f"{hours:.2f}", f"{hours / total_hours:.1%}", str(speakers))
    _console().print(table)


def show_segments(result: SegmentResult, *, num_before: int, out: Path, listed_at: Path) -> None:
    """What cutting gave."""
    print_line(f"wrote {len(result.manifest)} rows (from {num_before}; {result.num_cut} were cut) to {out}")
    print_line(f"{result.dropped_s:.1f} s of silence and of too short pieces are in no row")
    if result.num_texts_dropped:
        print_line(f"note: {result.num_texts_dropped} rows lost their text, since it cannot be cut with the audio")
    _show_reasons(result.refusals, listed_at)


def show_pack(result: PackResult, *, out: Path, listed_at: Path) -> None:
    """What packing gave."""
    print_line(f"wrote {len(result.manifest)} rows to {out}")
    print_line(f"{result.num_files} files, {result.num_bytes / 1e6:.1f} MB, in {len(result.shards)} shards")
    _show_reasons(result.refusals, listed_at)


def show_duplicates(result: DedupeResult, *, num_before: int, out: Path, listed_at: Path) -> None:
    """What looking for equal rows gave."""
    print_line(f"wrote {len(result.manifest)} rows (from {num_before}; {result.num_duplicates} duplicates) to {out}")
    if result.num_texts_differ:
        print_line(f"note: {result.num_texts_differ} of them have another text than the row that stays")
    _show_reasons(result.refusals, listed_at)


def _show_reasons(refusals: Sequence[Refusal], listed_at: Path) -> None:
    if refusals:
        reasons = Counter(refusal.reason for refusal in refusals)
        counts = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        print_line(f"left out: {counts}; all with reasons: {listed_at}")


def show_row(manifest: Manifest, row: int) -> None:
    """One row, a field a line."""
    utterance = manifest[row]
    print_line(manifest.describe(row))
    for name in utterance.__dataclass_fields__:
        value = getattr(utterance, name)
        print_line(f"{name}: unknown" if value is None else f"{name}: {value!r}")
    print_line(f"seconds: {utterance.num_samples / utterance.sample_rate:.3f}")
    print_line(f"file: {manifest.audio_file(row)}")


def show_rows(manifest: Manifest, *, limit: int) -> None:
    """The first rows."""
    from audio_ssl.data.table import PACK_COLUMNS, is_packed

    print_line(f"{len(manifest)} rows, root {manifest.root}")
    places = PACK_COLUMNS if is_packed(manifest.table) else ()
    table = Table("id", "path", *places, "start", "num_samples", "sample_rate", "text", "speaker", "language")
    for i in range(min(limit, len(manifest))):
        row = manifest[i]
        known = (escape(value or "") for value in (row.text, row.speaker, row.language))
        place = ("" if getattr(row, name) is None else str(getattr(row, name)) for name in places)
        numbers = map(str, (row.start, row.num_samples, row.sample_rate))
        table.add_row(escape(row.id), escape(row.path), *place, *numbers, *known)
    _console().print(table)


def _show_speakers(summary: ManifestSummary) -> None:
    speakers = summary.hours_by_speaker
    print_line(f"speakers: {len(speakers)}; {summary.num_without_speaker} rows without")
    if not speakers:
        return
    table = Table("speaker", "hours", title="Speakers with most hours")
    for name, hours in list(speakers.items())[:SPEAKERS_SHOWN]:
        table.add_row(escape(name), f"{hours:.3f}")
    _console().print(table)


def _console() -> Console:
    # a pipe or a file has no width: 80 columns would break tables that a person reads later
    width = None if os.isatty(1) else 120
    return Console(width=width)
