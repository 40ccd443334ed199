"""What lies beside the audio and says more about it: transcripts, speakers, languages, segments.

Each kind of file has a reader that gives entries; this module finds the files, matches entries to audio, and counts
what was matched and what was not.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from audio_ssl.data.audio import AUDIO_EXTENSIONS
from audio_ssl.data.checks import Refusal
from audio_ssl.data.files import FoundFiles, extension, stem_path
from audio_ssl.data.formats.sidecar_files import Entry, read_librispeech, read_metadata_csv, read_transcripts
from audio_ssl.errors import ManifestError

_NAMES = ("transcripts.tsv", "metadata.csv", "wav.scp", "segments", "text", "utt2spk", "utt2lang")
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
    """Finds the audio file that an entry means. Names are asked for, and held, from the first entry on.

    Args:
        names: gives the audio files, relative to the scanned folder.
    """

    def __init__(self, names: Callable[[], Iterator[str]]) -> None:
        self._list_names = names

    def find(self, folder: str, key: str) -> str | None:
        """The file called ``key`` in or below ``folder``: by path, by path without extension, by unique name."""
        names = self._names
        path = posixpath.normpath(posixpath.join(folder, key))
        if path in names.paths:
            return path
        bare = stem_path(path) if extension(path) in AUDIO_EXTENSIONS else path
        below = f"{folder}/" if folder not in ("", ".") else ""
        by_name = [n for n in names.by_basename.get(PurePosixPath(bare).name, []) if n.startswith(below)]
        for candidates in (names.by_stem.get(bare, []), by_name):
            if len(candidates) == 1:
                return candidates[0]
        return None

    @cached_property
    def _names(self) -> _Names:
        return _Names.of(self._list_names())


@dataclass(frozen=True)
class _Names:
    paths: set[str]
    by_stem: dict[str, list[str]]
    by_basename: dict[str, list[str]]

    @classmethod
    def of(cls, names: Iterable[str]) -> _Names:
        found = cls(set(), defaultdict(list), defaultdict(list))
        for name in names:
            stem = stem_path(name)
            found.paths.add(name)
            found.by_stem[stem].append(name)
            found.by_basename[stem[stem.rfind("/") + 1 :]].append(name)
        return found


def may_be_sidecar(name: str) -> bool:
    """Whether :func:`read_sidecars` could use a file of this name."""
    return extension(name) == ".txt" or name[name.rfind("/") + 1 :] in _NAMES


def read_sidecars(files: FoundFiles, *, transcripts: Path | None = None) -> Sidecars:
    """Read every sidecar file under a folder.

    Earlier kinds win: the file given, ``transcripts.tsv``, Kaldi, LibriSpeech, ``metadata.csv``, and last a ``.txt``
    of the same name.

    Args:
        files: what lies there; of the files that are no audio those that :func:`may_be_sidecar` picks must be kept.
        transcripts: a table of the user's own.

    Raises:
        ManifestError: a sidecar file cannot be read as what its name says; names file and line.
    """
    from audio_ssl.data.formats.kaldi import add_kaldi

    found = Sidecars()
    root, others = files.root, files.kept
    index = AudioIndex(files.audio)
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
    _add_texts(found, files)
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


def _add_texts(found: Sidecars, files: FoundFiles) -> None:
    """``name.txt`` beside ``name.wav``."""
    root = files.root
    texts = {stem_path(name): name for name in files.kept if extension(name) == ".txt" and name not in found.used}
    matched = []
    for name in files.audio() if texts else ():
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
