"""A folder of audio to a manifest: every file becomes a row, or is refused with its path and a reason.

Rows are written as they are found. Of a folder of millions of files there are held: a hash of each id (8 bytes), the
names in one folder, what the files beside the audio say, and a few thousand files in flight.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from audio_ssl.data.audio import AudioInfo
from audio_ssl.data.checks import Check, Refusal, inspect_file, with_rows
from audio_ssl.data.distinct_ids import IdHashes, with_whole_ids
from audio_ssl.data.files import FoundFiles, count_extensions, extension, find_files, is_audio, is_hidden, walk
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.manifest_io import BatchWriter, batch_writer, check_suffix, replaced_file, stored_root
from audio_ssl.data.parallel import FILES_IN_FLIGHT, map_in_order
from audio_ssl.data.refusals import listed_refusals, refusals_path
from audio_ssl.data.scan_report import ScanReport, Tally
from audio_ssl.data.scan_rows import rows_of_file, speaker_rule
from audio_ssl.data.sidecars import Sidecars, may_be_sidecar, read_sidecars
from audio_ssl.data.table import (
    PACK_COLUMNS,
    PLAIN_SCHEMA,
    PLAIN_VERSION,
    broken_rules,
    row_faults,
    table_from_rows,
    with_pack_columns,
)
from audio_ssl.errors import ManifestError

ROWS_A_BATCH = 32768
_FILES_A_CHUNK = 16
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScanSettings:
    """How to scan.

    Attributes:
        transcripts: a table of the user's own, as ``transcripts.tsv`` (``docs/manifest_format.md``).
        speaker_from: ``none`` (sidecars alone), ``parent`` (the name of the file's folder), or a regular expression
            with a group named ``speaker`` that is searched in the relative path.
        language: of rows whose sidecars name none.
        check: how closely each file is looked at; see ``checks.inspect_file``.
        num_workers: threads.
        max_s: files longer than this are noted, since training crops them.
    """

    transcripts: Path | None = None
    speaker_from: str = "none"
    language: str | None = None
    check: Check = "ends"
    num_workers: int = 8
    max_s: float = 20.0


@dataclass(frozen=True)
class ScanResult(ScanReport):
    """What a scan found, all of it in memory.

    Attributes:
        manifest: the rows, in the order of their paths.
        refusals: every file that stays out, and why, in the order of their paths.
    """

    manifest: Manifest
    refusals: tuple[Refusal, ...]


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

    The rows stay in memory, as a table; :func:`scan_to_file` is for folders of millions of files.

    Args:
        root: folder.
        transcripts: this and the next five: see :class:`ScanSettings`.
        speaker_from: likewise.
        language: likewise.
        check: likewise.
        num_workers: likewise.
        max_s: likewise.
        progress: called with (files done, files in all).

    Raises:
        ManifestError: no folder, no audio in it, or a sidecar file that cannot be read.
    """
    settings = ScanSettings(transcripts, speaker_from, language, check, num_workers, max_s)
    job = _Job.of(Path(root).absolute(), settings)
    batches: list[pa.RecordBatch] = []
    refusals: list[Refusal] = []
    report, ids = job.run(batches.append, refusals.append, progress=progress)
    table = pa.Table.from_batches(with_whole_ids(batches, ids.clashing(batches)), PLAIN_SCHEMA)
    manifest = Manifest(with_pack_columns(table), root=job.files.root)
    return ScanResult(**vars(report), manifest=manifest, refusals=tuple(refusals))


def scan_to_file(
    root: str | Path, out: Path, *, settings: ScanSettings, progress: Progress | None = None
) -> ScanReport:
    """Scan a folder into a manifest file, row by row; refusals go to ``OUT.refused.tsv``.

    Both are written whole or not at all. Where not one file is usable, the list of refusals alone is written.

    Args:
        root: folder.
        out: the manifest; its extension says the format.
        settings: how to scan.
        progress: called with (files done, files in all).

    Raises:
        ManifestError: no folder, no usable audio in it, a sidecar file that cannot be read, or a place that cannot be
            written.
    """
    check_suffix(out)
    job = _Job.of(Path(root).absolute(), settings)
    with replaced_file(out) as draft:
        with listed_refusals(out) as refuse:
            report = job.write(out, draft, refuse, progress=progress)
        if not report.num_rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in report.refusal_counts().items())
            raise ManifestError(
                f"{root} must hold at least one usable audio file; refused: {reasons}; see {refusals_path(out)}"
            )
    return report


@dataclass(frozen=True)
class _Job:
    """A folder that has been looked through, before its audio is looked at."""

    files: FoundFiles
    sidecars: Sidecars
    outside: tuple[str, ...]  # files elsewhere, that a sidecar names by their absolute paths
    settings: ScanSettings

    @classmethod
    def of(cls, root: Path, settings: ScanSettings) -> _Job:
        speaker_rule(settings.speaker_from)  # refused before a long look
        files = find_files(root, keep=may_be_sidecar)
        sidecars = read_sidecars(files, transcripts=settings.transcripts)
        outside = {name for names in (sidecars.known, sidecars.segments) for name in names if name.startswith("/")}
        if not files.num_audio and not outside and not sidecars.refusals:
            there = ", ".join(f"{n} {e}" for e, n in count_extensions(files.unused).items()) or "nothing"
            raise ManifestError(f"{root} must hold audio files, but holds {there}")
        return cls(files, sidecars, tuple(sorted(outside)), settings)

    def write(
        self, out: Path, draft: Path, refuse: Callable[[Refusal], None], *, progress: Progress | None
    ) -> ScanReport:
        """Write the draft of a manifest called ``out``.

        Rows go to an Arrow file first: only at the end is it known which ids are not unique. Where all are, that file
        is the draft of an ``.arrow`` manifest.
        """
        root = stored_root(self.files.root, out)
        first = draft.with_name(f"{draft.name}.rows")
        try:
            with batch_writer(first, suffix=".arrow", root=root, version=PLAIN_VERSION) as write:
                report, ids = self.run(write, refuse, progress=progress)
            with pa.memory_map(str(first)) as source, pa.ipc.open_file(source) as reader:
                batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            clashing = ids.clashing(batches)
            if out.suffix.lower() == ".arrow" and not len(clashing):
                first.replace(draft)
            else:
                with batch_writer(draft, suffix=out.suffix, root=root, version=PLAIN_VERSION) as write:
                    for batch in with_whole_ids(batches, clashing):
                        write(batch)
        finally:
            first.unlink(missing_ok=True)
        return report

    def run(
        self, write: BatchWriter, refuse: Callable[[Refusal], None], *, progress: Progress | None
    ) -> tuple[ScanReport, IdHashes]:
        """Look at every file; rows go to ``write`` in batches, in the order of their files, with ids as they are."""
        tally, skipped = Tally(max_s=self.settings.max_s), Counter[str]()
        rows = _Rows(write, tally)
        with closing(self._look(skipped, progress)) as found:
            for item in found:
                if isinstance(item, Refusal):
                    tally.refuse(item)
                    refuse(item)
                else:
                    rows.add(item)
        rows.flush()
        has_rule = self.settings.speaker_from != "none"
        notes = tally.notes(self.sidecars, has_speaker_rule=has_rule, num_hidden=self.files.num_hidden)
        report = ScanReport(
            num_rows=tally.num_rows,
            hours=tally.seconds / 3600,
            refused=tally.refused(),
            skipped=count_extensions(skipped),
            sources=tuple(self.sidecars.reports),
            notes=tuple(notes),
        )
        return report, rows.ids

    def _look(self, skipped: Counter[str], progress: Progress | None) -> Generator[Utterance | Refusal]:
        """Rows and refusals, both in the order of their paths; files outside the folder come last."""
        settings, root, total = self.settings, self.files.root, self.files.num_audio + len(self.outside)
        rule = speaker_rule(settings.speaker_from)
        early = deque(sorted(self.sidecars.refusals, key=lambda refusal: refusal.path))

        def inspect(name: str) -> tuple[str, AudioInfo | Refusal]:
            return name, inspect_file(root / name, name=name, check=settings.check)

        num_workers = max(1, settings.num_workers)
        # whole files are long work, to be shared out one by one; so is a handful of files
        chunk = 1 if settings.check == "full" else min(_FILES_A_CHUNK, 1 + total // (_FILES_A_CHUNK * num_workers))
        inspected = map_in_order(
            inspect, self._names(skipped), num_workers=num_workers, window=FILES_IN_FLIGHT, chunk=chunk
        )
        with closing(inspected):
            for done, (name, info) in enumerate(inspected, start=1):
                while early and early[0].path <= name:
                    yield early.popleft()
                if isinstance(info, Refusal):
                    segments = self.sidecars.segments.get(name)
                    yield with_rows(info, [segment.id for segment in segments]) if segments else info
                else:
                    yield from rows_of_file(
                        name, info, sidecars=self.sidecars, speaker=rule(name), language=settings.language
                    )
                if progress is not None:
                    progress(done, max(done, total))  # files may have been added since they were counted
        yield from early

    def _names(self, skipped: Counter[str]) -> Iterator[str]:
        for name in walk(self.files.root):
            if is_audio(name):
                yield name
            elif not is_hidden(name) and name not in self.sidecars.used:
                skipped[extension(name)] += 1
        yield from self.outside


class _Rows:
    """Rows on their way to a manifest: checked, counted, and passed on in batches."""

    def __init__(self, write: BatchWriter, tally: Tally) -> None:
        self.ids = IdHashes()
        self._write = write
        self._tally = tally
        self._waiting: list[Utterance] = []

    def add(self, row: Utterance) -> None:
        self._waiting.append(row)
        if len(self._waiting) >= ROWS_A_BATCH:
            self.flush()

    def flush(self) -> None:
        rows, self._waiting = self._waiting, []
        table = table_from_rows(rows)
        first = self._tally.num_rows + 1
        faults = row_faults(table, describe=lambda i: f"manifest row {first + i} ({rows[i].id}, {rows[i].path})")
        if faults:
            raise broken_rules("the manifest", faults)
        self.ids.add(row.id for row in rows)
        for batch in table.drop_columns(list(PACK_COLUMNS)).to_batches():
            self._tally.add(batch)
            self._write(batch)
