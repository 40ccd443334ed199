"""Manifests as files: Arrow (memory-mapped), Parquet, our TSV for people, and what ``formats`` reads of other tools.

Every write goes beside its place and is moved there whole, so a reader never sees half a manifest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from audio_ssl.data.addresses import Address, Place, is_address, looks_like_address, root_of
from audio_ssl.data.table import (
    METADATA_ROOT,
    METADATA_VERSION,
    PACK_COLUMNS,
    PACKED_VERSION,
    PLAIN_SCHEMA,
    PLAIN_VERSION,
    SCHEMA,
    conform,
    is_packed,
    listed,
    with_pack_columns,
)
from audio_ssl.errors import ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.formats.common import Imported

logger = logging.getLogger(__name__)

BatchWriter = Callable[[pa.RecordBatch], None]
SUFFIXES = (".arrow", ".parquet", ".tsv")  # what is written
TSV_MAGIC = "#audio_ssl-manifest"
_INTEGERS = ("start", "num_samples", "sample_rate", *PACK_COLUMNS)
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r", "e": ""}
_ROWS_AS_OBJECTS = 65536  # of a table whose rows are written as text
_EMPTY = "\\e"  # a known, empty value; an empty cell means unknown


@dataclass(frozen=True)
class Content:
    """What a manifest file holds.

    Attributes:
        table: in ``table.SCHEMA``.
        root: absolute folder that relative paths start from, or the address of one.
        first_line: line of the first row in a text file; None for a binary one.
        needs_check: False where the writer has checked the rows (our own Arrow files).
    """

    table: pa.Table
    root: Place
    first_line: int | None = None
    needs_check: bool = True


def read_table(path: Path) -> Content:
    """Read a manifest of any known format; what is not read of another tool's is logged.

    Raises:
        ManifestError: missing, unreadable, or of an unknown format or version.
    """
    try:
        reader = _reader_of(path)
        if reader is not None:
            return reader(path)
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        if looks_like_address(path):
            reason = "a manifest must lie on this machine (the paths in it may be addresses): fetch it first"
        raise ManifestError(f"{path} must be a readable manifest: {reason}") from error
    raise ManifestError(
        f"{path} must be a manifest (.arrow, .parquet or .tsv; .jsonl, .jsonl.gz or .json of NeMo's or Lhotse's; or a "
        "Kaldi data directory, which has a wav.scp); make one from a folder of audio with "
        "`audio-ssl manifest build FOLDER -o FILE.arrow`"
    )


def is_manifest_file(path: Path) -> bool:
    """Whether a file's name is that of a manifest."""
    from audio_ssl.data.formats.jsonl import SUFFIXES as JSON_SUFFIXES

    return path.name.lower().endswith((*SUFFIXES, *JSON_SUFFIXES))


def _reader_of(path: Path) -> Callable[[Path], Content] | None:
    if (path / "wav.scp").is_file():
        return _read_kaldi
    if not is_manifest_file(path):
        return None
    return {".arrow": _read_arrow, ".parquet": _read_parquet, ".tsv": _read_tsv}.get(path.suffix.lower(), _read_json)


def write_table(path: Path, table: pa.Table, *, root: Place) -> None:
    """Write a table by the file's extension.

    Version 1, without the columns for shards, where no row lies in one: older readers then open it as ever.

    Raises:
        ManifestError: unknown extension, or the place cannot be written.
    """
    check_suffix(path)
    version = PACKED_VERSION if is_packed(table) else PLAIN_VERSION
    table = table if version == PACKED_VERSION else table.drop_columns(list(PACK_COLUMNS))
    with (
        replaced_file(path) as draft,
        batch_writer(draft, suffix=path.suffix, root=stored_root(root, path), version=version) as write,
    ):
        for batch in table.combine_chunks().to_batches():
            write(batch)


def check_suffix(path: Path) -> None:
    """Check that a manifest can be written under this name.

    Raises:
        ManifestError: unknown extension.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ManifestError(
            f"a manifest's file must end in .arrow, .parquet or .tsv, got {path} (`audio-ssl manifest convert --to` "
            "writes those of other tools)"
        )


@contextmanager
def batch_writer(draft: Path, *, suffix: str, root: str, version: int) -> Iterator[BatchWriter]:
    """Write a manifest piece by piece; none of it is held.

    Args:
        draft: the file to write; see :func:`replaced_file`.
        suffix: of the manifest's own name, which says the format: ``.arrow`` (a record batch a piece), ``.parquet``
            (a row group a piece) or ``.tsv``.
        root: as :func:`stored_root` gives it.
        version: ``PACKED_VERSION`` for pieces in ``SCHEMA``, ``PLAIN_VERSION`` for pieces in ``PLAIN_SCHEMA``.
    """
    schema = SCHEMA if version == PACKED_VERSION else PLAIN_SCHEMA
    marked = schema.with_metadata({METADATA_VERSION: str(version).encode(), METADATA_ROOT: os.fsencode(root)})
    if suffix.lower() == ".tsv":
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{TSV_MAGIC}\tversion={version}\troot={escape_cell(root)}\n" + "\t".join(schema.names) + "\n")
            yield lambda batch: _write_lines(file, batch)
    elif suffix.lower() == ".parquet":
        with pq.ParquetWriter(draft, marked) as parquet:
            yield lambda batch: parquet.write_batch(batch.replace_schema_metadata(marked.metadata))
    else:
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, marked) as arrow:
            yield lambda batch: arrow.write_batch(batch.replace_schema_metadata(marked.metadata))


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give a draft path beside ``path``; on success it takes that place, on failure nothing has changed.

    Raises:
        ManifestError: the place cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except OSError as error:
        raise ManifestError(f"{path} must be writable with room to spare: {error}; nothing was changed") from error
    finally:
        with suppress(OSError):  # such as a place below a file: the message above says so
            draft.unlink(missing_ok=True)


def stored_root(root: Place, manifest: Path) -> str:
    """The root as the file keeps it: relative where both lie in one folder (other than ``/``), else absolute.

    A tree that holds audio and manifest can then be moved or checked out elsewhere. An address stays as it is.
    """
    if isinstance(root, Address):
        return root.text
    here, there = os.path.normpath(manifest.parent.absolute()), os.path.normpath(root.absolute())
    return there if os.path.commonpath([here, there]) == os.sep else os.path.relpath(there, here)


def resolved_root(stored: str, manifest: Path) -> Place:
    """The absolute root of a manifest from what its file keeps.

    Raises:
        ManifestError: an address that is not taken.
    """
    if is_address(stored):
        return root_of(stored)
    return Path(os.path.normpath(manifest.parent.absolute() / stored))


def _read_arrow(path: Path) -> Content:
    with pa.memory_map(str(path), "r") as source:
        table = pa.ipc.open_file(source).read_all()  # columns stay views of the mapped file
    root = _checked_metadata(table, path)
    if table.schema.equals(SCHEMA, check_metadata=False):
        return Content(table, root, needs_check=False)
    if table.schema.equals(PLAIN_SCHEMA, check_metadata=False):
        return Content(with_pack_columns(table), root, needs_check=False)
    return Content(conform(table, source=str(path)), root)


def _read_parquet(path: Path) -> Content:
    table = pq.read_table(path, memory_map=True)
    root = _checked_metadata(table, path)
    return Content(conform(table, source=str(path)), root)


def _checked_metadata(table: pa.Table, path: Path) -> Place:
    metadata = table.schema.metadata or {}
    version = metadata.get(METADATA_VERSION)
    if version is None:
        raise ManifestError(f"{path} must be a manifest of audio_ssl (schema metadata audio_ssl.manifest_version)")
    _check_version(version.decode(errors="replace"), path)
    return resolved_root(os.fsdecode(metadata.get(METADATA_ROOT, b".")), path)


def _check_version(version: str, path: Path) -> None:
    if version not in (str(PLAIN_VERSION), str(PACKED_VERSION)):
        raise ManifestError(
            f"{path}: the manifest's version must be {PLAIN_VERSION} or {PACKED_VERSION}, got {version!r}; "
            "it was written by another version of audio_ssl: build it again, or update audio_ssl"
        )


def _read_tsv(path: Path) -> Content:
    with path.open(encoding="utf-8-sig") as file:
        is_ours = file.readline().startswith(TSV_MAGIC)
    if not is_ours:
        from audio_ssl.data.formats.fairseq import read_fairseq

        table, root = read_fairseq(path)
        return Content(table, root, first_line=2)
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    options = dict(part.split("=", 1) for part in lines[0].split("\t")[1:] if "=" in part)
    _check_version(options.get("version", "missing"), path)
    root = resolved_root(unescape_cell(options.get("root", ".")) or ".", path)
    names = lines[1].rstrip("\r").split("\t") if len(lines) > 1 else []
    table = _table_from_lines(lines[2:], names, path)
    return Content(conform(table, source=str(path)), root, first_line=3)


def _read_json(path: Path) -> Content:
    from audio_ssl.data.formats.jsonl import read_jsonl

    return _content(path, read_jsonl(path))


def _read_kaldi(path: Path) -> Content:
    from audio_ssl.data.formats.kaldi_dir import read_kaldi

    return _content(path, read_kaldi(path))


def _content(path: Path, imported: Imported) -> Content:
    for note in imported.notes:
        logger.warning("%s: %s", path, note)
    return Content(imported.table, imported.root, first_line=imported.first_line)


def _table_from_lines(lines: list[str], names: list[str], path: Path) -> pa.Table:
    """Cells by column; every fault with its line. Empty lines are allowed at the end alone: rows are lines."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    columns: dict[str, list[str | int | None]] = {name: [] for name in names}
    faults = []
    if len(columns) < len(names):
        raise ManifestError(f"{path}:2: every column must be named once, got {', '.join(names)}")
    for number, line in enumerate(lines, start=3):
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(names):
            faults.append(f"{path}:{number}: must have {len(names)} tab-separated cells, got {len(cells)}")
            continue
        for name, cell in zip(names, cells, strict=True):
            try:
                columns[name].append(_value(name, cell))
            except ValueError as error:
                faults.append(f"{path}:{number}: {name} {error}")
    if faults:
        raise ManifestError(listed(f"{path} has lines that cannot be read", faults))
    types = {field.name: field.type for field in SCHEMA}
    return pa.table({n: pa.array(v, types.get(n, pa.string())) for n, v in columns.items()})


def _value(name: str, cell: str) -> str | int | None:
    if cell == "":
        return None
    if name not in _INTEGERS:
        return unescape_cell(cell)
    try:
        return int(cell)
    except ValueError as error:
        raise ValueError(f"must be a whole number, got {cell!r}") from error


def unescape_cell(cell: str) -> str:
    """The value of a TSV cell that is not unknown; see :func:`escape_cell`.

    Raises:
        ValueError: a backslash stands before something that it cannot escape.
    """
    if "\\" not in cell:
        return cell
    parts = iter(cell)
    try:
        return "".join(_UNESCAPES[next(parts, "")] if char == "\\" else char for char in parts)
    except KeyError as error:
        raise ValueError(
            r"must hold backslashes only as \\ (backslash), \t (tab), \n or \r (line ends) and \e (empty), "
            f"got {cell!r}"
        ) from error


def escape_cell(value: str | int | None) -> str:
    """A value as a TSV cell: tabs, line breaks and backslashes escaped; unknown is empty, known and empty a mark."""
    if value is None:
        return ""
    if value == "":
        return _EMPTY
    return "".join(_ESCAPES.get(char, char) for char in str(value))


def _write_lines(file: TextIO, batch: pa.RecordBatch) -> None:
    for first in range(0, batch.num_rows, _ROWS_AS_OBJECTS):
        columns = (column.to_pylist() for column in batch.slice(first, _ROWS_AS_OBJECTS).columns)
        file.writelines("\t".join(map(escape_cell, row)) + "\n" for row in zip(*columns, strict=True))
