"""NeMo's manifests: JSON lines with ``audio_filepath``, ``offset`` and ``duration`` in seconds, ``text`` ...

The format has no sample rate, so the audio's headers are read. It has no ids: ours are written as a field ``id``, which
NeMo lets pass.

Reference: NeMo, nemo/collections/common/parts/preprocessing/manifest.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_ssl.data.addresses import place_of, shown
from audio_ssl.data.audio import AudioInfo
from audio_ssl.data.formats.common import (
    Imported,
    count_extras,
    read_headers,
    relative_or_absolute,
    span_in_file,
    stem_id,
    to_samples,
    with_distinct_ids,
)
from audio_ssl.data.formats.jsonl import Values, audio_path, parse_rows, seconds, string, write_jsonl
from audio_ssl.data.table import Utterance, listed, table_from_rows
from audio_ssl.errors import AudioError, ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest

_KNOWN = frozenset({"id", "audio_filepath", "offset", "duration", "text", "speaker", "lang"})


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    offset_s: float | None
    duration_s: float | None
    known: dict[str, str | None]


def read_nemo(path: Path) -> Imported:
    """Read a NeMo manifest; relative audio paths start from its folder.

    A row with an ``offset`` is that part of its file. One without is the whole file, and its ``duration`` must be the
    file's to one sample.

    Returns:
        Rows, root, and what was not read.

    Raises:
        ManifestError: rows that cannot be read, whose audio cannot be read, or whose times disagree with it.
    """
    extras: Counter[str] = Counter()

    def parse(values: Values) -> _Entry:
        entry = _entry(values)
        extras.update(set(values) - _KNOWN)
        return entry

    entries = parse_rows(path, parse)
    root = Path(os.path.normpath(path.parent.absolute()))
    headers = read_headers(place_of(root, entry.path) for entry in entries)
    rows, faults = [], []
    for line, entry in enumerate(entries, start=1):
        header = headers[place_of(root, entry.path)]
        if isinstance(header, AudioError):
            faults.append(f"{path}:{line}: {header}")
            continue
        try:
            rows.append(_row(entry, header))
        except ValueError as error:
            faults.append(f"{path}:{line}: {shown(entry.path)}: {error}")
    if faults:
        raise ManifestError(listed(f"{path}: {len(faults)} of {len(entries)} rows disagree with their audio", faults))
    return Imported(table_from_rows(with_distinct_ids(rows)), root, count_extras(extras), first_line=1)


def write_nemo(manifest: Manifest, path: Path) -> tuple[str, ...]:
    """Write a NeMo manifest, whole or not at all; paths are relative to its folder where the audio lies below it.

    Returns:
        What is lost, by field: nothing, in this format.

    Raises:
        ManifestError: the place cannot be written.
    """
    from audio_ssl.data.manifest_io import replaced_file

    with replaced_file(path) as draft:
        write_jsonl(draft, _lines(manifest, folder=path.parent), is_gzipped=path.suffix == ".gz")
    return ()


def _entry(values: Values) -> _Entry:
    if "shard_id" in values:
        raise ValueError("is of a tarred data set (shard_id); unpack the tar files, and take the manifest without it")
    known = {name: string(values, name) for name in ("id", "text", "speaker", "lang")}
    path = audio_path(values.get("audio_filepath"), name="audio_filepath")
    return _Entry(path, seconds(values, "offset"), seconds(values, "duration"), known)


def _row(entry: _Entry, header: AudioInfo) -> Utterance:
    rate, length = header.sample_rate, header.num_samples
    start = 0
    if entry.offset_s is not None:
        rest_s = length / rate - entry.offset_s
        duration_s = rest_s if entry.duration_s is None else entry.duration_s
        start, length = span_in_file(start_s=entry.offset_s, duration_s=duration_s, num_samples=length, rate_hz=rate)
    elif entry.duration_s is not None and abs(to_samples(entry.duration_s, rate) - length) > 1:
        raise ValueError(
            f"duration must be the file's {length / rate} s to one sample, got {entry.duration_s} s; correct it, leave "
            'it out (the file\'s is taken then), or add "offset": 0 where only this part of the file is meant'
        )
    known = entry.known
    identity = known["id"] or stem_id(entry.path)
    return Utterance(identity, entry.path, start, length, rate, known["text"], known["speaker"], known["lang"])


def _lines(manifest: Manifest, *, folder: Path) -> Iterator[dict[str, Any]]:
    for i, row in enumerate(manifest):
        values = {
            "id": row.id,
            "audio_filepath": relative_or_absolute(manifest.audio_path(i), folder=folder),
            "offset": row.start / row.sample_rate,
            "duration": row.num_samples / row.sample_rate,
            "text": row.text,
            "speaker": row.speaker,
            "lang": row.language,
        }
        yield {name: value for name, value in values.items() if value is not None}
