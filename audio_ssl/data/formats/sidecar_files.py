"""Readers of the files that corpora bring beside their audio. Each gives entries; none looks at the audio.

| file | layout |
|---|---|
| ``transcripts.tsv`` | header with ``path`` or ``id``, and any of ``text``, ``speaker``, ``language`` |
| ``*.trans.txt`` | LibriSpeech: ``id text`` |
| ``metadata.csv`` | Hugging Face: header with ``file_name``; or LJSpeech: ``id|raw|normalised``, no header |
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from audio_ssl.data.table import listed
from audio_ssl.errors import ManifestError

_TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence")
_SPEAKER_COLUMNS = ("speaker", "speaker_id")


@dataclass(frozen=True)
class Entry:
    """What a sidecar file says about one audio file; None where it says nothing.

    Attributes:
        key: path or id of the audio, as written.
        text: transcript.
        speaker: speaker name.
        language: language tag.
    """

    key: str
    text: str | None = None
    speaker: str | None = None
    language: str | None = None


def read_transcripts(path: Path) -> list[Entry]:
    """A tab-separated table with a header.

    Raises:
        ManifestError: no ``path`` or ``id`` column, or lines with another number of cells.
    """
    lines = read_lines(path)
    names = lines[0].split("\t") if lines else []
    known = ("path", "id", "text", "speaker", "language")
    unknown = [name for name in names if name not in known]
    if unknown or not {"path", "id"} & set(names):
        raise ManifestError(
            f"{path}:1: the header must name `path` or `id`, and any of text, speaker, language (tab-separated); "
            f"got {', '.join(names) or 'nothing'}"
        )
    key = "path" if "path" in names else "id"
    entries, faults = [], []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(names):
            faults.append(f"{path}:{number}: must have {len(names)} tab-separated cells, got {len(cells)}")
            continue
        row = dict(zip(names, (cell or None for cell in cells), strict=True))
        entries.append(Entry(row[key] or "", row.get("text"), row.get("speaker"), row.get("language")))
    if faults:
        raise ManifestError(listed(f"{path} has lines that cannot be read", faults))
    return entries


def read_librispeech(path: Path) -> list[Entry]:
    """``84-121123-0000 GO DO YOU HEAR``, a line an utterance."""
    return [Entry(key, text) for key, text in read_pairs(path).items()]


def read_metadata_csv(path: Path) -> list[Entry]:
    """Hugging Face's ``metadata.csv`` (a header with ``file_name``) or LJSpeech's (bars, no header)."""
    lines = read_lines(path)
    header = next(csv.reader(lines[:1]), [])
    if "file_name" in header:
        rows = list(csv.DictReader(lines))
        return [Entry(row["file_name"], _pick(row, _TEXT_COLUMNS), _pick(row, _SPEAKER_COLUMNS)) for row in rows]
    entries, faults = [], []
    for number, line in enumerate(lines, start=1):
        cells = line.split("|")
        if len(cells) not in (2, 3):
            faults.append(f"{path}:{number}: must be `id|text` or `id|text|normalised text`, got {line[:80]!r}")
        else:
            entries.append(Entry(cells[0], cells[-1] or cells[1]))
    if faults:
        raise ManifestError(listed(f"{path} must have a `file_name` column, or LJSpeech's layout", faults))
    return entries


def read_pairs(path: Path) -> dict[str, str]:
    """Lines of ``key value with spaces``; the value may be empty.

    Raises:
        ManifestError: a key is there twice.
    """
    return {key: value for key, (_, value) in read_numbered_pairs(path).items()}


def read_numbered_pairs(path: Path) -> dict[str, tuple[int, str]]:
    """As :func:`read_pairs`, with the line before each value.

    Raises:
        ManifestError: a key is there twice.
    """
    pairs: dict[str, tuple[int, str]] = {}
    faults = []
    for number, line in enumerate(read_all_lines(path), start=1):
        if not line.strip():
            continue
        key, *rest = line.split(maxsplit=1)
        if key in pairs:
            faults.append(f"{path}:{number}: {key} is there twice")
        pairs[key] = (number, rest[0].strip() if rest else "")
    if faults:
        raise ManifestError(listed(f"{path} must name each entry once", faults))
    return pairs


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file without their ends; blank lines are left out.

    Raises:
        ManifestError: it cannot be read.
    """
    return [line.rstrip("\r") for line in read_all_lines(path) if line.strip()]


def read_all_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, blank ones too.

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} must be a readable text file in UTF-8: {error}") from error


def _pick(row: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((row[name] for name in names if row.get(name)), None)
