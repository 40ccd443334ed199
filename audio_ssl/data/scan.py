"""A folder of audio to a manifest: every file becomes a row, or is refused with its path and a reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from audio_ssl.data.audio import AudioInfo
from audio_ssl.data.checks import MIN_DURATION_S, TOO_SHORT, Check, Refusal, inspect_file, with_rows
from audio_ssl.data.files import find_files, stem_path
from audio_ssl.data.formats.sidecar_files import Entry
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.sidecars import Segment, Sidecars, SourceReport, count_extensions, read_sidecars
from audio_ssl.errors import ManifestError

OUTSIDE = "segment outside its file"
SEGMENT_SLACK_S = 0.1  # segment times are rounded in many corpora; so much beyond the end is taken as the end
Progress = Callable[[int, int], None]
SpeakerRule = Callable[[str], str | None]


@dataclass(frozen=True)
class ScanResult:
    """What a scan found.

    Attributes:
        manifest: the rows, in the order of their paths.
        refusals: every file that stays out, and why.
        skipped: files without an audio extension (sidecars that were used excepted), by extension.
        sources: what each sidecar file gave.
        notes: sentences for the user: long files, rows without text, conflicting texts ...
    """

    manifest: Manifest
    refusals: tuple[Refusal, ...]
    skipped: Mapping[str, int]
    sources: tuple[SourceReport, ...]
    notes: tuple[str, ...]

    def refusal_counts(self) -> dict[str, int]:
        """Number of refusals by reason, most frequent first."""
        return dict(Counter(refusal.reason for refusal in self.refusals).most_common())


def scan(
    root: str | Path,
    *,
    transcripts: Path | None = None,
    speaker_from: str = "none",
    language: str | None = None,
    check: Check = "ends",
    num_workers: int = 8,
    max_s: float = 20.0,
    progress: Progress | None = None,
) -> ScanResult:
    """Scan a folder: find audio and sidecars, look at every audio file in parallel, and put rows together.

    Args:
        root: folder.
        transcripts: a table of the user's own, as ``transcripts.tsv`` (``docs/manifest_format.md``).
        speaker_from: ``none`` (sidecars alone), ``parent`` (the name of the file's folder), or a regular expression
            with a group named ``speaker`` that is searched in the relative path.
        language: of rows whose sidecars name none.
        check: how closely each file is looked at; see ``checks.inspect_file``.
        num_workers: threads.
        max_s: files longer than this are noted, since training crops them.
        progress: called with (files done, files in all).

    Raises:
        ManifestError: no folder, no audio in it, or a sidecar file that cannot be read.
    """
    root = Path(root).absolute()
    rule = speaker_rule(speaker_from)
    files = find_files(root)
    sidecars = read_sidecars(root, files.audio, files.others, transcripts=transcripts)
    outside = sorted({*sidecars.known, *sidecars.segments} - set(files.audio))
    names = [*files.audio, *outside]
    if not names and not sidecars.refusals:
        there = ", ".join(f"{n} {e}" for e, n in count_extensions((*files.others, *files.hidden)).items()) or "nothing"
        raise ManifestError(f"{root} must hold audio files, but holds {there}")
    found = _inspect_all(root, names, check=check, num_workers=num_workers, progress=progress)
    refusals = [*sidecars.refusals, *_refused(found, sidecars)]
    infos = {name: info for name, info in found.items() if isinstance(info, AudioInfo)}
    rows, odd = _rows(infos, sidecars, rule=rule, language=language)
    manifest = Manifest.from_rows(_with_distinct_ids(rows), root=root)
    notes = _notes(manifest, sidecars, max_s=max_s, speaker_from=speaker_from)
    if files.hidden:
        notes.append(f"{len(files.hidden)} hidden files (names with a dot in front) were not looked at")
    return ScanResult(
        manifest=manifest,
        refusals=tuple(sorted((*refusals, *odd), key=lambda refusal: refusal.path)),
        skipped=count_extensions(name for name in files.others if name not in sidecars.used),
        sources=tuple(sidecars.reports),
        notes=tuple(notes),
    )


def speaker_rule(rule: str) -> SpeakerRule:
    """A function from relative path to speaker.

    Raises:
        ManifestError: neither ``none``, ``parent`` nor a regular expression with a group ``speaker``.
    """
    if rule == "none":
        return lambda _: None
    if rule == "parent":
        return lambda name: PurePosixPath(name).parent.name or None
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ManifestError(f"speaker-from must be none, parent or a regular expression: {rule!r}: {error}") from error
    if "speaker" not in pattern.groupindex:
        raise ManifestError(
            rf"speaker-from must be none, parent or a regular expression with a group named speaker, such as "
            rf"'(?P<speaker>\d+)-\d+-\d+', got {rule!r}"
        )

    def search(name: str) -> str | None:
        match = pattern.search(name)
        return match["speaker"] if match else None

    return search


def _inspect_all(
    root: Path, names: list[str], *, check: Check, num_workers: int, progress: Progress | None
) -> dict[str, AudioInfo | Refusal]:
    found: dict[str, AudioInfo | Refusal] = {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        # map keeps the order of the names, so the manifest does not depend on which thread was first
        for name, info in zip(
            names, pool.map(lambda name: inspect_file(root / name, name=name, check=check), names), strict=True
        ):
            found[name] = info
            if progress is not None:
                progress(len(found), len(names))
    return found


def _refused(found: Mapping[str, AudioInfo | Refusal], sidecars: Sidecars) -> Iterator[Refusal]:
    """Files that stay out, each with its segments."""
    for name, info in found.items():
        if isinstance(info, Refusal):
            segments = sidecars.segments.get(name, ())
            yield with_rows(info, [segment.id for segment in segments]) if segments else info


def _rows(
    infos: Mapping[str, AudioInfo], sidecars: Sidecars, *, rule: SpeakerRule, language: str | None
) -> tuple[list[Utterance], list[Refusal]]:
    """Rows in the order of the files, and the segments that do not fit their file."""
    rows: list[Utterance] = []
    refusals: list[Refusal] = []
    for name, info in infos.items():
        by_path = rule(name)

        def fill(entry: Entry, speaker: str | None = by_path) -> Entry:
            return replace(entry, speaker=speaker or entry.speaker, language=entry.language or language)

        if name not in sidecars.segments:
            known = fill(sidecars.known.get(name, Entry(name)))
            rows.append(
                _row(sidecars.ids.get(name, stem_path(name)), name, info, span=(0, info.num_samples), known=known)
            )
        for segment in sidecars.segments.get(name, ()):
            span = _span(segment, name, info)
            if isinstance(span, Refusal):
                refusals.append(span)
            else:
                rows.append(_row(segment.id, name, info, span=span, known=fill(segment.known)))
    return rows, refusals


def _span(segment: Segment, name: str, info: AudioInfo) -> tuple[int, int] | Refusal:
    """First sample and the one after the last, or why the segment is refused."""
    rate, length = info.sample_rate, info.num_samples
    start = round(segment.start_s * rate)
    stop = length if segment.end_s is None else round(segment.end_s * rate)
    if length < stop <= length + SEGMENT_SLACK_S * rate:
        stop = length
    if not 0 <= start < stop <= length:
        return Refusal(
            name,
            OUTSIDE,
            f"{segment.id} is {segment.start_s} s to {segment.end_s} s, the file ends at {length / rate} s",
        )
    if stop - start < MIN_DURATION_S * rate:
        return Refusal(name, TOO_SHORT, f"{segment.id} has {stop - start} samples at {rate} Hz")
    return start, stop


def _row(identity: str, name: str, info: AudioInfo, *, span: tuple[int, int], known: Entry) -> Utterance:
    return Utterance(
        id=identity,
        path=name,
        start=span[0],
        num_samples=span[1] - span[0],
        sample_rate=info.sample_rate,
        text=known.text,
        speaker=known.speaker,
        language=known.language,
    )


def _with_distinct_ids(rows: list[Utterance]) -> list[Utterance]:
    """Rows whose ids clash (a.wav beside a.flac) get their whole path as id, and segments their start too."""
    counts = Counter(row.id for row in rows)
    return [
        row if counts[row.id] == 1 else replace(row, id=f"{row.path}:{row.start}" if row.start else row.path)
        for row in rows
    ]


def _notes(manifest: Manifest, sidecars: Sidecars, *, max_s: float, speaker_from: str) -> list[str]:
    notes = []
    durations = manifest.durations_s()
    num_long = int((durations > max_s).sum())
    if num_long:
        longest = int(durations.argmax())
        notes.append(
            f"{num_long} rows are longer than {max_s:g} s (the longest has {durations[longest]:.1f} s: "
            f"{manifest[longest].path}): training crops them; `audio-ssl manifest segment` cuts them at silences"
        )
    for column, source in (("text", sidecars.reports), ("speaker", sidecars.reports or speaker_from != "none")):
        without = manifest.table.column(column).null_count
        if source and without:
            notes.append(f"{without} of {len(manifest)} rows have no {column}")
    for report in sidecars.reports:
        if report.num_unmatched:
            named = ", ".join(report.examples)
            notes.append(f"{report.file}: {report.num_unmatched} entries have no audio file ({named} ...)")
    if sidecars.num_conflicts:
        notes.append(f"{sidecars.num_conflicts} rows have different texts in two files; the first listed was taken")
    return notes
