"""JSON lines, plain or gzipped: what NeMo's and Lhotse's manifests are written in, and which of them a file is."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from audio_ssl.data.addresses import address_fault, is_address, shown
from audio_ssl.data.formats.common import Imported
from audio_ssl.data.table import escapes_root, listed
from audio_ssl.errors import ManifestError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
Values = dict[str, Any]
T = TypeVar("T")


def read_jsonl(path: Path) -> Imported:
    """Read a manifest of NeMo's or Lhotse's; the keys of the first line tell which it is.

    Returns:
        Rows, root, and what was not read.

    Raises:
        ManifestError: neither of them, or rows that cannot be read; all in one message.
    """
    from audio_ssl.data.formats.lhotse import read_lhotse
    from audio_ssl.data.formats.nemo import read_nemo

    first = _first_row(path)
    if "audio_filepath" in first:
        return read_nemo(path)
    if {"recording_id", "sources", "tracks", "supervisions"} & set(first) or str(first.get("type")).endswith("Cut"):
        return read_lhotse(path, first)
    raise ManifestError(
        f"{path}:1: must be a line of NeMo's manifest (with audio_filepath) or of Lhotse's cuts, recordings or "
        f"supervisions, got the fields {', '.join(map(repr, first)) or 'none'}"
    )


def parse_rows(path: Path, parse: Callable[[Values], T]) -> list[T]:
    """Every line through ``parse``.

    Args:
        path: the file; empty lines are allowed at its end alone, since rows are lines.
        parse: raises ValueError with what must hold and what was found.

    Raises:
        ManifestError: lines that are no JSON objects or that ``parse`` refuses, all in one message.
    """
    rows, faults, number = [], [], 0
    for number, line in enumerate(_lines(path), start=1):
        try:
            rows.append(parse(_object(line)))
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise ManifestError(listed(f"{path}: {len(faults)} of {number} lines cannot be read", faults))
    if not rows:
        raise ManifestError(f"{path} must hold at least one line, got none")
    return rows


def write_jsonl(draft: Path, rows: Iterable[Values], *, is_gzipped: bool) -> None:
    """Write one object a line; the same rows give the same bytes."""
    with draft.open("wb") as raw:
        packed = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) if is_gzipped else None
        binary: IO[bytes] = packed or raw  # type: ignore[assignment]  # GzipFile is an IO[bytes] in all but name
        for row in rows:
            binary.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        if packed is not None:
            packed.close()


def string(values: Values, name: str) -> str | None:
    """A field as text (a whole number, such as a speaker's, becomes its digits); None where absent or null.

    Raises:
        ValueError: neither, or not valid Unicode.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {str(value)[:80]}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be valid Unicode, got {value[:80]!r}") from error
    return value


def number(values: Values, name: str) -> float | None:
    """A finite number; None where absent or null.

    Raises:
        ValueError: something else.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise ValueError(f"{name} must be a finite number, got {str(value)[:80]!r}")
    return float(value)


def seconds(values: Values, name: str) -> float | None:
    """A time of at least 0 s; None where absent or null.

    Raises:
        ValueError: something else.
    """
    value = number(values, name)
    if value is not None and value < 0:
        raise ValueError(f"{name} must be >= 0 seconds, got {value}")
    return value


def count(values: Values, name: str) -> int:
    """A whole number of at least 1.

    Raises:
        ValueError: something else, or absent.
    """
    value = number(values, name)
    if value is None or value < 1 or value != int(value):
        raise ValueError(f"{name} must be a whole number >= 1, got {values.get(name)!r}")
    return int(value)


def audio_path(value: Any, *, name: str) -> str:
    """A path as written, where it is one that a manifest may hold; or an address.

    Raises:
        ValueError: not text, empty, out of the folder through ``..``, or an address that is not taken.
    """
    path = string({name: value}, name) if isinstance(value, str) else None
    if not path or "\0" in path:
        raise ValueError(f"{name} must be the path of one file, got {str(value)[:80]!r}")
    if is_address(path) and (fault := address_fault(path)) is not None:
        raise ValueError(f"{name}: {fault}, got {shown(path)!r}")
    if escapes_root(path):
        raise ValueError(f"{name} must stay under the manifest's folder or be absolute, got {path!r}")
    return path


def _first_row(path: Path) -> Values:
    for line in _lines(path):
        try:
            return _object(line)
        except ValueError as error:
            raise ManifestError(f"{path}:1: {error}; this must be a manifest of NeMo's or Lhotse's") from error
    raise ManifestError(f"{path} must hold at least one line, got an empty file")


def _lines(path: Path) -> Iterator[str]:
    """Lines up to the last one that is not empty."""
    num_empty = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as binary:
            for line in io.TextIOWrapper(binary, encoding="utf-8-sig", newline="\n"):
                if not line.strip():
                    num_empty += 1
                    continue
                yield from [""] * num_empty
                num_empty = 0
                yield line
    except (EOFError, zlib.error) as error:
        raise ManifestError(f"{path} must be a whole gzip file, but it is broken: {error}") from error


def _object(line: str) -> Values:
    if not line:
        raise ValueError("must be a JSON object, got an empty line")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be a JSON object on one line ({error}), got {line.strip()[:80]!r}") from error
    if not isinstance(values, dict):
        raise ValueError(f"must be a JSON object, got {line.strip()[:80]!r}")
    return values
