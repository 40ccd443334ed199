"""The manifest's table: its columns, its row as an object, and the rules that every row keeps.

This module knows neither files nor formats: see ``manifest_io`` for those and ``manifest`` for the public class.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audio_ssl.data.addresses import address_fault, is_address, shown
from audio_ssl.errors import ManifestError

PLAIN_VERSION = 1
PACKED_VERSION = 2  # some rows lie in shards: the columns of PACK_COLUMNS are there
METADATA_VERSION = b"audio_ssl.manifest_version"
METADATA_ROOT = b"audio_ssl.root"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("speaker", pa.string()),
        pa.field("language", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("num_bytes", pa.int64()),
    ]
)
COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)
PACK_COLUMNS = ("offset", "num_bytes")
PLAIN_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in PACK_COLUMNS])
MAX_FAULTS_SHOWN = 20
MAX_SAMPLES = 2**40  # nine months at 48 kHz: more is a slip, and products with rates would not fit 64 bits
_PLAIN_ADDRESS = r"^(https?|s3|gs)://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[A-Za-z0-9_-][A-Za-z0-9_.=+ -]*)+$"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest: a file, or a segment of one.

    Attributes:
        id: unique in its manifest.
        path: posix path relative to the manifest's root, or absolute; or an address (``s3://bucket/a.flac``).
        start: first sample of the segment, at the file's own rate.
        num_samples: samples of the segment, at the file's own rate.
        sample_rate: the file's own rate in Hz.
        text: transcript; None where unknown (an empty string is a known silence).
        speaker: speaker name; None where unknown.
        language: language tag such as ``en``; None where unknown.
        offset: where ``path`` is a shard: the first byte of the encoded file in it; None where ``path`` is the file.
        num_bytes: bytes of the encoded file in the shard; None together with ``offset``.
    """

    id: str
    path: str
    start: int
    num_samples: int
    sample_rate: int
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    offset: int | None = None
    num_bytes: int | None = None

    def length_at(self, sample_rate_hz: int) -> int:
        """Samples at another rate: ceil(num_samples * rate / own rate), as the resampler gives."""
        return -(-self.num_samples * sample_rate_hz // self.sample_rate)


def table_from_rows(rows: Iterable[Utterance]) -> pa.Table:
    """A table in :data:`SCHEMA` from rows; the values are not checked (see :func:`check_table`)."""
    values = tuple(zip(*map(attrgetter(*COLUMNS), rows), strict=True)) or ((),) * len(COLUMNS)
    return pa.table(dict(zip(COLUMNS, values, strict=True)), schema=SCHEMA)


def with_pack_columns(table: pa.Table) -> pa.Table:
    """A table of :data:`PLAIN_SCHEMA` in :data:`SCHEMA`: no row lies in a shard. Costs the same for any number of rows.

    The two columns are views of zero pages, which take memory only where they are read.
    """
    num_rows = table.num_rows
    buffers = [pa.py_buffer(np.zeros(-(-num_rows // 8), np.uint8)), pa.py_buffer(np.zeros(num_rows, np.int64))]
    unknown = pa.Array.from_buffers(pa.int64(), num_rows, buffers, null_count=num_rows)
    for name in PACK_COLUMNS:
        table = table.append_column(SCHEMA.field(name), unknown)
    return table


def is_packed(table: pa.Table) -> bool:
    """True where some row of a table in :data:`SCHEMA` lies in a shard."""
    return any(table.column(name).null_count < table.num_rows for name in PACK_COLUMNS)


def conform(table: pa.Table, *, source: str) -> pa.Table:
    """The table with exactly the columns and types of :data:`SCHEMA`.

    Args:
        table: any table; missing optional columns (all but ``path``, ``num_samples``, ``sample_rate``) are filled in.
        source: the file's name, for messages.

    Raises:
        ManifestError: a column is missing, unknown, of another type, or null where it must not be.
    """
    faults = [f"column `{n}` is not one of {', '.join(COLUMNS)}" for n in table.column_names if n not in COLUMNS]
    faults += [
        f"column `{n}` is missing" for n in ("path", "num_samples", "sample_rate") if n not in table.column_names
    ]
    if faults:
        raise ManifestError(listed(f"{source} must hold the columns of a manifest", faults))
    columns = []
    for field in SCHEMA:
        try:
            column = _column_or_default(table, field)
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            faults.append(f"column `{field.name}` must be {field.type}: {error}")
            continue
        if not field.nullable and column.null_count:
            row = pc.index(column.is_null(), True).as_py() + 1
            faults.append(f"column `{field.name}` must have a value in every row; row {row} has none")
    if faults:
        raise ManifestError(listed(f"{source} must hold the columns of a manifest", faults))
    return pa.table(columns, schema=SCHEMA)


def check_table(table: pa.Table, *, describe: Callable[[int], str], source: str) -> None:
    """Check the rules that every row keeps; all faults in one message.

    Args:
        table: in :data:`SCHEMA`.
        describe: row index to a name for messages.
        source: the file's name, for messages.

    Raises:
        ManifestError: duplicate ids, counts out of range, paths that leave the root, or places in shards by halves.
    """
    faults = row_faults(table, describe=describe)
    faults += [twin_fault(name, describe(row), describe(first)) for first, row, name in _twins(table)]
    if faults:
        raise broken_rules(source, faults)


def row_faults(table: pa.Table, *, describe: Callable[[int], str]) -> list[str]:
    """What breaks the rules that a row keeps by itself: all of :func:`check_table` but the uniqueness of ids."""
    faults: list[str] = []
    for name, least in (("start", 0), ("num_samples", 1), ("sample_rate", 1)):
        values = table.column(name).to_numpy()
        for row in np.flatnonzero(values < least).tolist():
            faults.append(f"{describe(row)}: {name} must be >= {least}, got {values[row]}")
        if name != "sample_rate":
            for row in np.flatnonzero(values > MAX_SAMPLES).tolist():
                faults.append(f"{describe(row)}: {name} must be <= 2^40 samples, got {values[row]}")
    faults += path_faults(table.column("path"), describe=describe)
    return faults + [f"{describe(row)}: {fault}" for row, fault in _pack_faults(table)]


def path_faults(paths: pa.ChunkedArray, *, describe: Callable[[int], str]) -> list[str]:
    """Faults of paths that a manifest must not hold (:func:`path_fault`)."""
    suspects = ((row, paths[row].as_py()) for row in _suspects(paths))
    return [
        f"{describe(row)}: {fault}, got {shown(path)!r}"
        for row, path in suspects
        if (fault := path_fault(path)) is not None
    ]


def twin_fault(name: str, row: str, first: str) -> str:
    """What is wrong with a row whose id an earlier one has; both rows as messages name them."""
    return f"{row}: id {name!r} is already that of {first}"


def broken_rules(source: str, faults: list[str]) -> ManifestError:
    """The error about rows that break the rules."""
    return ManifestError(listed(f"{source} has rows that break the manifest's rules", faults))


def escapes_root(path: str) -> bool:
    """True for a relative path that ``..`` leads out of the folder it starts from."""
    return not path.startswith("/") and posixpath.normpath(path).split("/", 1)[0] == ".."


def path_fault(path: str) -> str | None:
    """Why a manifest must not hold a path; None where it may."""
    if is_address(path):
        return address_fault(path)
    return "path must stay under the root or be absolute" if escapes_root(path) else None


def _suspects(paths: pa.ChunkedArray) -> list[int]:
    """Rows to look at one by one: those with dots, or with an address that is not of the plainest kind."""
    suspects = pc.match_substring_regex(paths, r"\.\.|://")
    if pc.any(suspects).as_py():
        suspects = pc.and_not(suspects, pc.match_substring_regex(paths, _PLAIN_ADDRESS))
    return list(np.flatnonzero(suspects.to_numpy(zero_copy_only=False)).tolist())


def _column_or_default(table: pa.Table, field: pa.Field) -> Any:
    if field.name in table.column_names:
        return table.column(field.name)
    if field.name == "id":
        return _ids_of(table.column("path"))
    if field.name == "start":
        return pa.chunked_array([pa.array(np.zeros(table.num_rows, dtype=np.int64))])
    return pa.chunked_array([pa.nulls(table.num_rows, field.type)])


def _ids_of(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths as ids; the query of an address stays out of names, for it may be a key."""
    if pa.types.is_string(paths.type) and pc.any(pc.match_substring(paths, "://")).as_py():
        return pa.chunked_array([[None if path is None else shown(path) for path in paths.to_pylist()]], pa.string())
    return paths


def _pack_faults(table: pa.Table) -> list[tuple[int, str]]:
    """(row, fault) of every row whose place in a shard cannot be one."""
    if not is_packed(table):
        return []
    offset, num_bytes = (table.column(name).fill_null(-1).to_numpy() for name in PACK_COLUMNS)
    no_offset, no_size = (table.column(name).is_null().to_numpy() for name in PACK_COLUMNS)
    faults = [
        (row, "offset and num_bytes must both be there (a file in a shard) or both be empty (path is the file)")
        for row in np.flatnonzero(no_offset != no_size).tolist()
    ]
    for values, least, name, is_given in ((offset, 0, "offset", ~no_offset), (num_bytes, 1, "num_bytes", ~no_size)):
        wrong = np.flatnonzero(is_given & (values < least)).tolist()
        faults += [(row, f"{name} must be >= {least}, got {values[row]}") for row in wrong]
    for row in np.flatnonzero(offset > np.iinfo(np.int64).max - np.maximum(num_bytes, 0)).tolist():
        faults.append((row, f"offset + num_bytes must be < 2^63, got {int(offset[row]) + int(num_bytes[row])}"))
    return faults


def _twins(table: pa.Table) -> list[tuple[int, int, str]]:
    """(first row, later row, id) of every id that is not unique."""
    ids = table.column("id")
    if len(pc.unique(ids)) == len(ids):
        return []
    seen: dict[str, int] = {}
    twins = []
    for row, name in enumerate(ids.to_pylist()):
        first = seen.setdefault(name, row)
        if first != row:
            twins.append((first, row, name))
    return twins


def listed(headline: str, faults: list[str]) -> str:
    """A message with one fault a line, cut after :data:`MAX_FAULTS_SHOWN`."""
    shown = "\n".join(f"  - {fault}" for fault in faults[:MAX_FAULTS_SHOWN])
    more = f"\n  - and {len(faults) - MAX_FAULTS_SHOWN} more" if len(faults) > MAX_FAULTS_SHOWN else ""
    return f"{headline}:\n{shown}{more}"
