"""Readers of label files: each gives entries, a name and what it is labelled with; none looks at the recordings."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from audio_ssl.data.formats.sidecar_files import read_all_lines, read_numbered_pairs
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.items import Segment

Value = TypeVar("Value")
_MARKS = re.compile(r"\d*(_[BIES])?$")  # stress, and the place in the word
_ROUNDING_S = 0.005  # times of alignments are rounded to 10 ms


@dataclass(frozen=True)
class Entry(Generic[Value]):
    """What a file says of a recording.

    Attributes:
        key: id or file of the recording, as written.
        where: file and line, for messages.
        value: the label; None where the file names the recording, but has no label for it.
    """

    key: str
    where: str
    value: Value | None


def read_table(path: Path) -> list[Entry[str]]:
    """Lines of a name, white space, and the label.

    Raises:
        ManifestError: a name is there twice, or the file cannot be read.
    """
    pairs = read_numbered_pairs(path)
    return [Entry(key, f"{path}:{number}", value or None) for key, (number, value) in pairs.items()]


def read_phones(path: Path) -> dict[str, tuple[str, ...]]:
    """Phones of each utterance from a ``text-phone`` file: a line a word, ``ID.NUMBER`` and its phones.

    Marks of place in the word (``_B``) and of stress (digits) are taken off: 39 phones of English are left.

    Raises:
        ManifestError: the file cannot be read; or lines of another kind, or that come twice, all in one message.
    """
    return {entry.key: entry.value or () for entry in read_phone_entries(path)}


def read_phone_entries(path: Path) -> list[Entry[tuple[str, ...]]]:
    """As :func:`read_phones`, with the line that an utterance begins at."""
    phones: dict[str, tuple[str, ...]] = {}
    first: dict[str, int] = {}
    faults = []
    for word, (number, marked) in read_numbered_pairs(path).items():
        name, dot, _ = word.rpartition(".")
        if not dot or not name or not marked:
            faults.append(f"{path}:{number}: must read ID.NUMBER PHONE PHONE ..., got {f'{word} {marked}'!r:.80}")
            continue
        first.setdefault(name, number)
        phones[name] = phones.get(name, ()) + bare_phones(marked)
    if faults:
        raise ManifestError(listed(f"{path} must hold the phones of words", faults))
    return [Entry(name, f"{path}:{first[name]}", symbols) for name, symbols in phones.items()]


def bare_phones(marked: str) -> tuple[str, ...]:
    """``K_B AO0_I L_E`` -> K, AO, L."""
    return tuple(_MARKS.sub("", phone) for phone in marked.split())


def read_json(path: Path, *, key: str) -> list[Entry[str]]:
    """An object from name to an object of labels.

    Args:
        path: of the file.
        key: of the label; dots lead into objects in objects.

    Raises:
        ManifestError: the file is no such object, or a label is neither text, number nor boolean.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ManifestError(f"{path} must be a readable JSON file in UTF-8: {error}") from error
    if not isinstance(found, dict):
        raise ManifestError(f"{path} must hold an object from file name to labels, got a {type(found).__name__}")
    entries, faults = [], []
    for name, labels in found.items():
        where = f"{path}: {name}"
        value = _inside(labels, key)
        if value is not None and not isinstance(value, str | int | float):
            faults.append(f"{where}: {key} must be text or a number, got {str(value)[:60]}")
        entries.append(Entry(name, where, None if value is None else " ".join(str(value).split()) or None))
    if faults:
        raise ManifestError(listed(f"{path} must hold one label a recording", faults))
    return entries


def _inside(labels: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(labels, dict):
            return None
        labels = labels.get(name)
    return labels


def read_csv(pattern: str, folder: Path, *, key: str, columns: Sequence[str]) -> list[Entry[str]]:
    """Tables with a header, parted by commas; by tabs where the name ends in ``.tsv``.

    Args:
        pattern: a file in the folder, or several by ``*``.
        folder: it starts from here.
        key: the column that names the recording.
        columns: whose cells are the label, joined by ``/``; where one is empty there is none.

    Raises:
        ConfigError: the pattern is absolute, or none.
        ManifestError: no such file, a column that is missing, or lines with another number of cells.
    """
    try:
        paths = [folder / pattern] if "*" not in pattern else sorted(folder.glob(pattern))
    except (NotImplementedError, ValueError) as error:  # absolute, or ** inside a name
        raise ConfigError(f"labels.csv must name files below {folder}, got {pattern!r}: {error}") from error
    if not paths:
        raise ManifestError(f"{folder} must hold files called {pattern} (labels.csv), but holds none")
    return [entry for path in paths for entry in _read_one_csv(path, key, columns)]


def _read_one_csv(path: Path, key: str, columns: Sequence[str]) -> list[Entry[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            header = next(reader, [])
            missing = [name for name in (key, *columns) if name not in header]
            if missing:
                raise ManifestError(
                    f"{path}:1: the header must name {', '.join(missing)}, got {', '.join(header) or 'nothing'}"
                )
            places = [header.index(name) for name in columns]
            entries, faults = [], []
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if cells and len(cells) != len(header):
                    faults.append(f"{where}: must have {len(header)} cells, got {len(cells)}")
                elif cells:
                    label = [" ".join(cells[place].split()) for place in places]
                    entries.append(Entry(cells[header.index(key)], where, "/".join(label) if all(label) else None))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} must be a readable table in UTF-8: {error}") from error
    if faults:
        raise ManifestError(listed(f"{path} has lines that cannot be read", faults))
    return entries


def read_ctm(path: Path) -> list[Entry[tuple[Segment, ...]]]:
    """Labels with times: ``ID CHANNEL START DURATION LABEL``, in seconds; what stands behind is passed over.

    Segments are put in order of time; ends that reach up to 5 ms into the next one, as rounding makes them, are cut.

    Raises:
        ManifestError: the file cannot be read; or lines of another kind and segments that overlap, all in one message.
    """
    found: defaultdict[str, list[tuple[Segment, int]]] = defaultdict(list)
    faults = []
    for number, line in enumerate(read_all_lines(path), start=1):
        cells = line.split()
        if not cells or cells[0].startswith(";;"):
            continue
        segment = _segment(cells)
        if segment is None:
            faults.append(f"{path}:{number}: must read ID CHANNEL START DURATION LABEL, got {line!r:.80}")
        else:
            found[cells[0]].append((segment, number))
    entries: list[Entry[tuple[Segment, ...]]] = []
    for key, segments in found.items():
        segments.sort(key=lambda pair: (pair[0].start_s, pair[1]))
        kept: list[Segment] = []
        for segment, number in segments:
            if kept and segment.start_s < max(kept[-1].end_s - _ROUNDING_S, math.nextafter(kept[-1].start_s, math.inf)):
                faults.append(f"{path}:{number}: {segment.label} of {key} must begin where {kept[-1].label} has ended")
            elif kept and segment.start_s < kept[-1].end_s:
                kept[-1] = Segment(kept[-1].start_s, segment.start_s, kept[-1].label)
            kept.append(segment)
        entries.append(Entry(key, f"{path}:{segments[0][1]}", tuple(kept)))
    if faults:
        raise ManifestError(listed(f"{path} must hold labels with times", faults))
    return entries


def _segment(cells: Sequence[str]) -> Segment | None:
    try:
        start_s, duration_s = float(cells[2]), float(cells[3])
        label = cells[4]
    except (ValueError, IndexError):
        return None
    end_s = start_s + duration_s
    is_time = start_s >= 0 and duration_s > 0 and math.isfinite(end_s)
    return Segment(start_s, end_s, label) if is_time else None
