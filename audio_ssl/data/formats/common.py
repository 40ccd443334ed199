"""What the readers and writers of other tools' manifests share: audio headers, seconds as samples, ids, losses."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa

from audio_ssl.data.addresses import Address, Place, RemoteFile, shown
from audio_ssl.data.audio import AudioInfo, probe
from audio_ssl.data.table import Utterance, listed
from audio_ssl.errors import AudioError, ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest

_NUM_THREADS = 8
Headers = dict[Place, AudioInfo | AudioError]


@dataclass(frozen=True)
class Imported:
    """What a reader of another tool's manifest gives.

    Attributes:
        table: in ``table.SCHEMA``.
        root: absolute folder that relative paths start from, or the address of one.
        notes: sentences about what was not read, or not as it stands there.
        first_line: line of the first row; None where rows are not the lines of one file.
    """

    table: pa.Table
    root: Place
    notes: tuple[str, ...] = ()
    first_line: int | None = None


def read_headers(paths: Iterable[Place]) -> Headers:
    """The header of every file, or why it cannot be read; each is opened once (fetched, if elsewhere), in threads."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return dict(zip(distinct, pool.map(_probe, distinct), strict=True))


def headers_of_rows(manifest: Manifest, *, what: str, mono: str | None = None) -> list[AudioInfo]:
    """The header of each row's file, for a format that says more about files than our rows do.

    Args:
        manifest: rows.
        what: the format's name, for the message.
        mono: why files with several channels cannot be written; None where they can.

    Raises:
        ManifestError: files that cannot be read or do not bear the row out, or several channels; all rows named.
    """
    paths = [manifest.audio_path(i) for i in range(len(manifest))]
    found = read_headers(paths)
    infos, faults = [], []
    for i, (row, path) in enumerate(zip(manifest, paths, strict=True)):
        info = found[path]
        if isinstance(info, AudioError):
            faults.append(f"{manifest.describe(i)}: {info}")
        elif info.sample_rate != row.sample_rate:
            faults.append(f"{manifest.describe(i)}: sample_rate must be the file's {info.sample_rate}")
        elif row.start + row.num_samples > info.num_samples:
            stop = row.start + row.num_samples
            faults.append(f"{manifest.describe(i)}: must end within the file's {info.num_samples} samples, got {stop}")
        elif mono is not None and info.num_channels > 1:
            faults.append(f"{manifest.describe(i)}: has {info.num_channels} channels; {mono}")
        else:
            infos.append(info)
    refuse(faults, what=what)
    return infos


def refuse(faults: list[str], *, what: str) -> None:
    """Raise where there are faults, each of which names a row.

    Raises:
        ManifestError: with all of them; nothing was written.
    """
    if faults:
        raise ManifestError(listed(f"{len(faults)} rows cannot be written as {what}; nothing was written", faults))


def to_samples(time_s: float, rate_hz: int) -> int:
    """Seconds as samples: the nearest one, halves up (as Lhotse does), with float noise below 1e-8 samples ignored."""
    return math.floor(round(time_s * rate_hz, 8) + 0.5)


def span_in_file(*, start_s: float, duration_s: float, num_samples: int, rate_hz: int) -> tuple[int, int]:
    """First sample and number of samples of a part of a file; one sample beyond its end is taken as rounding.

    Raises:
        ValueError: the part is not within the file, or is empty.
    """
    start = to_samples(start_s, rate_hz)
    length = to_samples(duration_s, rate_hz)
    if start + length == num_samples + 1:
        length -= 1
    if start < 0 or length < 1 or start + length > num_samples:
        raise ValueError(
            f"must be a part of its file, which has {num_samples} samples ({num_samples / rate_hz} s), got samples "
            f"{start} to {start + length} ({start_s} s, and {duration_s} s from there); correct the times, or put the "
            "right file there"
        )
    return start, length


def count_extras(extras: Counter[str]) -> tuple[str, ...]:
    """A sentence about fields that a manifest of ours has no place for; none where there are none."""
    if not extras:
        return ()
    shown = ", ".join(f"{name} ({count} rows)" for name, count in sorted(extras.items()))
    return (f"fields without a place in a manifest are not read: {shown}",)


def count_losses(counts: dict[str, int]) -> tuple[str, ...]:
    """``language (3 rows)`` for every field of which something is lost on export."""
    return tuple(f"{name} ({count} rows)" for name, count in counts.items() if count)


def relative_or_absolute(path: Place, *, folder: Path) -> str:
    """``path`` relative to ``folder`` where it lies below it, else absolute; posix. An address stays as it is."""
    if isinstance(path, Address):
        return path.text
    there, here = os.path.normpath(path.absolute()), os.path.normpath(folder.absolute())
    inside = os.path.commonpath([there, here]) == here
    return Path(there).relative_to(here).as_posix() if inside else Path(there).as_posix()


def stem_id(path: str) -> str:
    """The id of a row whose format has none: its path without the extension, and without an address's query."""
    path = shown(path).removesuffix("?...")
    return path[: len(path) - len(PurePosixPath(path).suffix)]


def with_distinct_ids(rows: list[Utterance]) -> list[Utterance]:
    """Rows whose ids clash get their path and first sample as id, and where that clashes too, a number behind it."""
    spellings: tuple[Callable[[Utterance, int], str], ...] = (
        lambda row, _: f"{shown(row.path)}:{row.start}" if row.start else shown(row.path),
        lambda row, i: f"{shown(row.path)}:{row.start}:{row.num_samples}#{i + 1}",
    )
    for spell in spellings:
        counts = Counter(row.id for row in rows)
        rows = [row if counts[row.id] == 1 else replace(row, id=spell(row, i)) for i, row in enumerate(rows)]
    return rows


def elsewhere(manifest: Manifest, *, tool: str) -> list[str]:
    """A fault for every row whose audio is an address, for tools that open files alone."""
    what = f"is elsewhere, and {tool} opens files of this machine; copy it here first"
    places = ((row, manifest.audio_path(row)) for row in range(len(manifest)))
    return [f"{manifest.describe(row)}: {what}" for row, place in places if isinstance(place, Address)]


def _probe(path: Place) -> AudioInfo | AudioError:
    try:
        return probe(RemoteFile(path) if isinstance(path, Address) else path)
    except AudioError as error:
        return error
