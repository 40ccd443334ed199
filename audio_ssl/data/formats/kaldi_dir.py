"""Kaldi data directories as manifests: a folder with ``wav.scp`` read whole, and written whole.

``manifest build`` uses what ``kaldi`` reads as words about the audio that it finds; here the directory says which rows
there are, so whatever is wrong with it is an error. Nothing in it is ever run.

Reference: Kaldi, "Data preparation".
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audio_ssl.data.addresses import Address, Place, address_fault, is_address, shown
from audio_ssl.data.audio import AUDIO_EXTENSIONS, AudioInfo
from audio_ssl.data.files import extension
from audio_ssl.data.formats.common import (
    Imported,
    count_losses,
    elsewhere,
    headers_of_rows,
    read_headers,
    refuse,
    relative_or_absolute,
    stem_id,
    to_samples,
)
from audio_ssl.data.formats.kaldi import known_speaker, read_segments
from audio_ssl.data.formats.sidecar_files import read_numbered_pairs, read_pairs
from audio_ssl.data.scan_rows import SEGMENT_SLACK_S
from audio_ssl.data.table import Utterance, escapes_root, listed, table_from_rows
from audio_ssl.errors import AudioError, ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest

_READ = ("wav.scp", "segments", "text", "utt2spk", "utt2lang", "spk2utt")  # the last says what utt2spk says
_NAMES_SHOWN = 10
# what Kaldi would take for a command, a byte offset into an archive, or a range of rows
_KALDI_SYNTAX = re.compile(r"\||:\d+$|\]$")


def read_kaldi(folder: Path) -> Imported:
    """Read a data directory; rows come in the order of ``segments``, or of ``wav.scp`` without it.

    Relative paths start from the folder, else from a folder above it, else from where the command runs. Addresses are
    fetched, since their headers are needed.

    Returns:
        Rows, root, and what was not read.

    Raises:
        ManifestError: a file that cannot be read, commands, audio that is not there or cannot be read, and segments
            outside of their recordings; by file and line.
    """
    root = Path(os.path.normpath(folder.absolute()))
    recordings = _recordings(root)
    tables = {name: _optional(root / name) for name in ("text", "utt2spk", "utt2lang")}
    if (root / "segments").is_file():
        spans, notes = _segments(root, recordings)
    else:
        spans, notes = {rec: (rec, 0, info.num_samples) for rec, (_, info) in recordings.items()}, []
    rows = []
    for utt, (recording, start, length) in spans.items():
        path, info = recordings[recording]
        text, speaker, language = (table.get(utt) for table in tables.values())
        rows.append(
            Utterance(utt, path, start, length, info.sample_rate, text, known_speaker(utt, speaker), language or None)
        )
    notes += [_unmatched(name, [utt for utt in table if utt not in spans]) for name, table in tables.items()]
    names = sorted(
        file.name for file in root.iterdir() if file.is_file() and extension(file.name) not in AUDIO_EXTENSIONS
    )
    ignored = [name for name in names if name not in _READ]
    more = f" and {len(ignored) - _NAMES_SHOWN} more" if len(ignored) > _NAMES_SHOWN else ""
    notes.append(f"not read: {', '.join(ignored[:_NAMES_SHOWN])}{more}" if ignored else "")
    return Imported(table_from_rows(rows), root, tuple(note for note in notes if note))


def write_kaldi(manifest: Manifest, folder: Path) -> tuple[str, ...]:
    """Write a data directory, whole or not at all, sorted as Kaldi's tools want it.

    Returns:
        What is lost, by field.

    Raises:
        ManifestError: the folder is there and not empty or cannot be written; or rows that Kaldi cannot say: blanks in
            ids, speakers or languages, paths that it takes for commands, audio of several channels.
    """
    folder = Path(os.path.normpath(folder.absolute()))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ManifestError(f"{folder} must be a new or an empty folder: a data directory is written whole")
    _refuse_unsayable(manifest)
    why = "Kaldi takes the first, and a row of ours is their mean: write that to a file"
    infos = headers_of_rows(manifest, what="a Kaldi data directory", mono=why)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        draft.mkdir(parents=True)
        for name, lines in _files(manifest, infos).items():
            (draft / name).write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8", newline="\n")
        draft.replace(folder)
    except OSError as error:
        raise ManifestError(f"{folder} must be writable with room to spare: {error}; nothing was changed") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _losses(manifest)


def _recordings(root: Path) -> dict[str, tuple[str, AudioInfo]]:
    """Recording to its path (relative where it is in ``root``) and header."""
    scp = root / "wav.scp"
    places: dict[str, Place] = {}
    faults = []
    entries = read_numbered_pairs(scp)
    for recording, (line, value) in entries.items():
        place = None
        if value.endswith("|"):
            faults.append(
                f"{scp}:{line}: {recording} is a command, and commands are not run; write the audio to a file"
            )
        elif is_address(value) and (fault := address_fault(value)) is not None:
            faults.append(f"{scp}:{line}: {recording}: {fault}, got {shown(value)!r}")
        elif not value or "\0" in value or escapes_root(value):
            faults.append(f"{scp}:{line}: {recording} must have a path that is absolute or without `..`, got {value!r}")
        elif (place := _located(root, value)) is None:
            faults.append(f"{scp}:{line}: {recording} must be a file, but there is no {value} here or above")
        else:
            places[recording] = place
    headers = read_headers(places.values())
    found = {}
    for recording, place in places.items():
        header = headers[place]
        if isinstance(header, AudioError) or header.num_samples < 1:
            reason = header if isinstance(header, AudioError) else f"{place} must hold samples, got none"
            faults.append(f"{scp}:{entries[recording][0]}: {recording}: {reason}")
        else:
            found[recording] = (relative_or_absolute(place, folder=root), header)
    if faults or not entries:
        headline = f"{scp}: {len(faults)} of {len(entries)} recordings cannot be read"
        raise ManifestError(listed(headline, faults or ["it is empty"]))
    return found


def _located(root: Path, value: str) -> Place | None:
    if is_address(value):
        return Address(value)
    bases = (root,) if value.startswith("/") else (root, *root.parents, Path.cwd())
    return next((base / value for base in bases if (base / value).is_file()), None)


def _segments(
    root: Path, recordings: dict[str, tuple[str, AudioInfo]]
) -> tuple[dict[str, tuple[str, int, int]], list[str]]:
    """Utterance to (recording, first sample, samples), and what was done about ends."""
    path = root / "segments"
    spans, faults, num_cut = {}, [], 0
    for utt, (line, recording, start_s, end_s) in read_segments(path).items():
        if recording not in recordings:
            faults.append(f"{path}:{line}: {utt} is a part of {recording}, which must be in wav.scp")
            continue
        info = recordings[recording][1]
        rate, length = info.sample_rate, info.num_samples
        start = to_samples(start_s, rate)
        stop = length if end_s is None else to_samples(end_s, rate)
        if length < stop <= length + SEGMENT_SLACK_S * rate:
            stop, num_cut = length, num_cut + 1
        if 0 <= start < stop <= length:
            spans[utt] = (recording, start, stop - start)
        else:
            shown = "the end" if end_s is None else f"{end_s} s"
            faults.append(
                f"{path}:{line}: {utt} is {start_s} s to {shown}, but {recording} ends at {length / rate} s; correct "
                "the times, or put the right file there"
            )
    if faults or not spans:
        raise ManifestError(listed(f"{path}: {len(faults)} segments are not parts of files", faults or ["it is empty"]))
    note = f"{num_cut} segments ended up to {SEGMENT_SLACK_S} s behind their recordings, and end with them now"
    return spans, [note] if num_cut else []


def _optional(path: Path) -> dict[str, str]:
    return read_pairs(path) if path.is_file() else {}


def _unmatched(name: str, utts: list[str]) -> str:
    shown = ", ".join(utts[:3])
    return f"{name}: {len(utts)} entries are about utterances that are not there ({shown} ...)" if utts else ""


def _absolute(manifest: Manifest, row: int) -> str:
    place = manifest.audio_path(row)
    assert isinstance(place, Path)  # rows elsewhere were refused
    return os.path.normpath(place.absolute())


def _refuse_unsayable(manifest: Manifest) -> None:
    refuse(elsewhere(manifest, tool="Kaldi"), what="a Kaldi data directory")
    faults = []
    for i, row in enumerate(manifest):
        words = {"id": row.id, "speaker": row.speaker, "language": row.language}
        for name, value in words.items():
            if value is not None and not _is_word(value):
                faults.append(f"{manifest.describe(i)}: {name} must be one word without blanks, got {value!r}")
        path = _absolute(manifest, i)
        if path.splitlines() != [path] or path != path.strip() or _KALDI_SYNTAX.search(path):
            faults.append(
                f"{manifest.describe(i)}: path must have no `|`, no line break and no blank at its end, and not end in "
                f"`:digits` or `]`, which mean something to Kaldi; got {path!r}"
            )
    refuse(faults, what="a Kaldi data directory")


def _is_word(value: str) -> bool:
    return value.split() == [value] and not value.startswith("\ufeff")  # a mark that readers of UTF-8 take off


def _files(manifest: Manifest, infos: list[AudioInfo]) -> dict[str, Iterable[str]]:
    """Lines of each file; sorting them by code points is sorting their bytes, as the C locale does."""
    paths = [_absolute(manifest, i) for i in range(len(manifest))]
    rows = list(manifest)
    files: dict[str, Iterable[str]] = {}
    if all(row.num_samples == info.num_samples for row, info in zip(rows, infos, strict=True)):
        files["wav.scp"] = [f"{row.id} {path}" for row, path in zip(rows, paths, strict=True)]
    else:
        names = _recording_names(paths, [row.path for row in rows])
        files["wav.scp"] = [f"{name} {path}" for path, name in names.items()]
        files["segments"] = [
            f"{row.id} {names[path]} {_seconds(row.start, row)} {_seconds(row.start + row.num_samples, row)}"
            for row, path in zip(rows, paths, strict=True)
        ]
    speaker_of = {row.id: row.speaker or row.id for row in rows}
    by_speaker: defaultdict[str, list[str]] = defaultdict(list)
    for utt in sorted(speaker_of):
        by_speaker[speaker_of[utt]].append(utt)
    files["utt2spk"] = [f"{utt} {speaker}" for utt, speaker in speaker_of.items()]
    files["spk2utt"] = [f"{speaker} {' '.join(utts)}" for speaker, utts in by_speaker.items()]
    files["text"] = [f"{row.id} {' '.join(row.text.split())}".rstrip() for row in rows if row.text is not None]
    files["utt2lang"] = [f"{row.id} {row.language}" for row in rows if row.language is not None]
    return {name: lines for name, lines in files.items() if lines}


def _recording_names(paths: list[str], names: list[str]) -> dict[str, str]:
    """Path to a recording id: the name without extension, blanks made ``_``, numbered where two are the same."""
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for path, name in zip(paths, names, strict=True):
        if path in chosen:
            continue
        stem = "_".join(stem_id(name).split()).lstrip("\ufeff") or "recording"
        candidate, number = stem, 2
        while candidate in taken:
            candidate, number = f"{stem}-{number}", number + 1
        taken.add(candidate)
        chosen[path] = candidate
    return chosen


def _seconds(samples: int, row: Utterance) -> str:
    """The shortest decimal that is this time and no other, never with an exponent."""
    return np.format_float_positional(samples / row.sample_rate, trim="0")


def _losses(manifest: Manifest) -> tuple[str, ...]:
    ids = manifest.column("id")
    texts = [text for text in manifest.column("text") if text is not None]
    speakers = manifest.column("speaker")
    missing = {name: manifest.table.column(name).null_count for name in ("text", "language")}
    return count_losses(
        {
            "order of the rows: sorted by id": sum(a != b for a, b in zip(ids, sorted(ids), strict=True)),
            "white space in text": sum(" ".join(text.split()) != text for text in texts),
            "speaker that is called as the id: Kaldi's way to say unknown": sum(
                speaker == identity for speaker, identity in zip(speakers, ids, strict=True)
            ),
            # a file that is there must be about every utterance, for Kaldi's own tools though not for ours
            **{
                f"unknown {n} beside known: Kaldi's tools drop such rows": k * (k < len(ids))
                for n, k in missing.items()
            },
        }
    )
