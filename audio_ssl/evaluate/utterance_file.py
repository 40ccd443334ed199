"""Scored utterances as a JSONL beside the report: written one by one, found again by id without holding their texts."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from audio_ssl.errors import ConfigError, ManifestError

Parser: TypeAlias = Callable[[bytes, int], tuple[str, Any] | None]


def beside(report: Path) -> Path:
    """The file of utterances of a report: ``report.utterances.jsonl`` beside ``report.json``."""
    return report.with_name(f"{report.stem}.utterances.jsonl")


class LineWriter:
    """Writes JSON lines beside their place and moves them there when all is well; a context manager.

    Args:
        path: the place; folders are made.

    Raises:
        ConfigError: it cannot be written; what was there is intact.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._draft.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"{path} must be writable with room to spare: {error}; choose another place") from error

    def write(self, line: dict[str, Any]) -> None:
        """Add a line."""
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._draft.replace(self.path)
        finally:
            self._draft.unlink(missing_ok=True)


class LinesById:
    """Lines of a file by their id, in any order: 17 bytes a line are held, whatever it says. A context manager.

    Args:
        path: the file.
        parse: makes id and content of a line (bytes) and its number, for messages; None where it is passed over.

    Raises:
        ManifestError: no such file, or an id that comes twice.
    """

    def __init__(self, path: Path, parse: Parser) -> None:
        self.path, self._parse = path, parse
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise ManifestError(f"{path} must be a file that can be read: {error}") from error
        try:
            hashes, offsets = self._index()
            order = np.argsort(hashes, kind="stable")
            self._hashes, self._offsets = hashes[order], offsets[order]
            self._is_used = np.zeros(len(order), dtype=np.bool_)
            self._check_twins()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> LinesById:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, name: str, *, uses: bool = True) -> Any:
        """Content of the line with this id, which counts as used from then on; None where there is none."""
        key = _hash(name)
        place = int(np.searchsorted(self._hashes, np.uint64(key)))
        while place < len(self._hashes) and int(self._hashes[place]) == key:
            found_name, content = self._read(place)
            if found_name == name:
                self._is_used[place] |= uses
                return content
            place += 1
        return None

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """(id, content) of all lines, as they stand in the file."""
        for place in np.argsort(self._offsets, kind="stable").tolist():
            yield self._read(place)

    def unused(self) -> Iterator[str]:
        """Ids that nobody has asked for, as they stand in the file."""
        places = np.flatnonzero(~self._is_used)
        for place in places[np.argsort(self._offsets[places], kind="stable")]:
            yield self._read(int(place))[0]

    @property
    def num_unused(self) -> int:
        """Lines that nobody has asked for."""
        return int((~self._is_used).sum())

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        hashes, offsets = array("Q"), array("q")
        offset = 0
        for number, line in enumerate(self._file, 1):
            found = self._parse(line, number) if line.strip() else None
            if found is not None:
                hashes.append(_hash(found[0]))
                offsets.append(offset)
            offset += len(line)
        return np.array(hashes, dtype=np.uint64), np.array(offsets, dtype=np.int64)

    def _read(self, place: int) -> tuple[str, Any]:
        self._file.seek(int(self._offsets[place]))
        found = self._parse(self._file.readline(), 0)
        assert found is not None, self._offsets[place]  # it was one when the file was indexed
        return found

    def _check_twins(self) -> None:
        seen: dict[str, int] = {}
        for place in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]).tolist():
            for either in (place, place + 1):
                name = self._read(either)[0]
                if seen.setdefault(name, either) != either:
                    raise ManifestError(f"{self.path} must name each utterance once; {name!r} is there more than once")


def report_lines(path: Path) -> LinesById:
    """The utterances of a report, from :func:`beside` it or whatever it names.

    Raises:
        ManifestError: it is no such file.
    """

    def parse(line: bytes, number: int) -> tuple[str, Any] | None:
        try:
            document = json.loads(line)
            if "refused" in document:
                return None
            return str(document["id"]), document
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{path}:{number} must be an utterance of a report, a JSON object: {error}") from error

    return LinesById(path, parse)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
