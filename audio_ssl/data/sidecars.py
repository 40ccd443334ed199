"""What lies beside the audio and says more about it: transcripts, speakers, languages, segments.

Each kind of file has a reader that gives entries; this module finds the files, matches entries to audio, and counts
what was matched and what was not.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from audio_ssl.data.audio import AUDIO_EXTENSIONS
from audio_ssl.data.checks import Refusal
from audio_ssl.data.files import extension, stem_path
from audio_ssl.data.formats.sidecar_files import Entry, read_librispeech, read_metadata_csv, read_transcripts
from audio_ssl.errors import ManifestError

MAX_TEXT_BYTES = 65536  # a .txt beside an audio file that is larger is no transcript


@dataclass(frozen=True)
class Segment:
    """A part of a recording, in seconds; ``end_s`` None is the recording's end."""

    id: str
    start_s: float
    end_s: float | None
    known: Entry


@dataclass(frozen=True)
class SourceReport:
    """What one sidecar file gave.

    Attributes:
        file: relative to the scanned folder, or as given.
        num_texts: audio files (or segments) that got a text from it.
        num_speakers: different speakers that it named.
        num_unmatched: entries without an audio file.
        examples: the first keys of those.
    """

    file: str
    num_texts: int
    num_speakers: int
    num_unmatched: int
    examples: tuple[str, ...]


@dataclass
class Sidecars:
    """Everything known about the audio from the files beside it, by audio name."""

    known: dict[str, Entry] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    reports: list[SourceReport] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    num_conflicts: int = 0

    def add(self, audio: str, entry: Entry) -> None:
        """Fill in what is not known yet; a different text from a later source is counted, not taken."""
        before = self.known.get(audio, Entry(""))
        self.num_conflicts += None not in (before.text, entry.text) and before.text != entry.text
        self.known[audio] = replace(
            before,
            text=entry.text if before.text is None else before.text,
            speaker=before.speaker or entry.speaker,
            language=before.language or entry.language,
        )


class AudioIndex:
    """Finds the audio file that an entry means.

    Args:
        names: audio files, relative to the scanned folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._by_basename: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_stem[stem_path(name)].append(name)
            self._by_basename[PurePosixPath(stem_path(name)).name].append(name)

    def find(self, folder: str, key: str) -> str | None:
        """The file called ``key`` in or below ``folder``: by path, by path without extension, by unique name."""
        path = posixpath.normpath(posixpath.join(folder, key))
        if path in self._names:
            return path
        bare = stem_path(path) if extension(path) in AUDIO_EXTENSIONS else path
        below = f"{folder}/" if folder not in ("", ".") else ""
        by_name = [n for n in self._by_basename.get(PurePosixPath(bare).name, []) if n.startswith(below)]
        for candidates in (self._by_stem.get(bare, []), by_name):
            if len(candidates) == 1:
                return candidates[0]
        return None


def read_sidecars(
    root: Path, audio: Sequence[str], others: Sequence[str], *, transcripts: Path | None = None
) -> Sidecars:
    """Read every sidecar file under a folder.

    Earlier kinds win: the file given, ``transcripts.tsv``, Kaldi, LibriSpeech, ``metadata.csv``, and last a ``.txt``
    of the same name.

    Args:
        root: the scanned folder.
        audio: audio files relative to it.
        others: all other files relative to it.
        transcripts: a table of the user's own.

    Raises:
        ManifestError: a sidecar file cannot be read as what its name says; names file and line.
    """
    from audio_ssl.data.formats.kaldi import add_kaldi

    found = Sidecars()
    index = AudioIndex(audio)
    if transcripts is not None:
        _add_entries(found, index, file=str(transcripts), folder="", entries=read_transcripts(transcripts))
    for name in _named(others, "transcripts.tsv"):
        if transcripts is None or not transcripts.exists() or not transcripts.samefile(root / name):
            _add(found, index, name, read_transcripts(root / name))
        found.used.add(name)
    for name in _named(others, "wav.scp"):
        add_kaldi(found, index, root=root, scp=name, others=set(others))
    for name in others:
        if name.endswith(".trans.txt"):
            _add(found, index, name, read_librispeech(root / name))
    for name in _named(others, "metadata.csv"):
        _add(found, index, name, read_metadata_csv(root / name))
    _add_texts(found, root, audio, others)
    return found


def _named(names: Iterable[str], basename: str) -> list[str]:
    return [name for name in names if PurePosixPath(name).name == basename]


def _add(found: Sidecars, index: AudioIndex, name: str, entries: list[Entry]) -> None:
    found.used.add(name)
    _add_entries(found, index, file=name, folder=posixpath.dirname(name), entries=entries)


def _add_entries(found: Sidecars, index: AudioIndex, *, file: str, folder: str, entries: list[Entry]) -> None:
    matched = [(index.find(folder, entry.key), entry) for entry in entries]
    for audio, entry in matched:
        if audio is not None:
            found.add(audio, entry)
    found.reports.append(report(file, [e for a, e in matched if a], [e.key for a, e in matched if a is None]))


def report(file: str, matched: Sequence[Entry], unmatched: Sequence[str]) -> SourceReport:
    """Count what a file gave."""
    return SourceReport(
        file=file,
        num_texts=sum(entry.text is not None for entry in matched),
        num_speakers=len({entry.speaker for entry in matched} - {None}),
        num_unmatched=len(unmatched),
        examples=tuple(unmatched[:3]),
    )


def _add_texts(found: Sidecars, root: Path, audio: Sequence[str], others: Sequence[str]) -> None:
    """``name.txt`` beside ``name.wav``."""
    texts = {stem_path(name): name for name in others if extension(name) == ".txt" and name not in found.used}
    matched = []
    for name in audio:
        file = texts.get(stem_path(name))
        if file is None or (root / file).stat().st_size > MAX_TEXT_BYTES:
            continue
        try:
            entry = Entry(name, text=" ".join((root / file).read_text(encoding="utf-8-sig").split()))
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{root / file} must be a transcript in UTF-8: {error}") from error
        found.used.add(file)
        found.add(name, entry)
        matched.append(entry)
    if matched:
        found.reports.append(report("*.txt of the same names", matched, []))


def count_extensions(names: Iterable[str]) -> dict[str, int]:
    """How many files there are of each extension, most frequent first."""
    printable = (os.fsencode(extension(name)).decode("utf-8", "backslashreplace") for name in names)
    return dict(Counter(suffix or "(none)" for suffix in printable).most_common())
