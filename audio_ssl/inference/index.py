"""What an output folder says of its embeddings: parts while shards are done, one index in input order at the end.

A line stands in ``parts/NAME.jsonl`` until the index that holds it is in place. It is written only after its data stand
in place, and not read where they are gone: what the index says is there, is there. Lines are never held: of each row,
what is done, and where its line stands.
"""

from __future__ import annotations

import filecmp
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ManifestError
from audio_ssl.inference.folder import ERRORS_FILE, INDEX_FILE, PARTS_FOLDER, OutputFolder
from audio_ssl.inference.rows import Rows
from audio_ssl.inference.source import Refusal

OPEN_FILES = 32  # lines of one row after the other mostly stand in one part


class FolderIndex:
    """What is done of an input.

    Args:
        folder: entered.
        rows: of the input.

    Attributes:
        is_done: (N,) bool, rows whose data are in place.
        is_refused: (N,) bool, rows that were tried in vain.

    Raises:
        ManifestError: a file that is not ours, or an id that stands for another piece of audio.
    """

    def __init__(self, folder: OutputFolder, rows: Rows) -> None:
        self._folder, self._rows = folder, rows
        self.is_done = np.zeros(len(rows), dtype=np.bool_)
        self.is_refused = np.zeros(len(rows), dtype=np.bool_)
        self._known: dict[Path, tuple[int, ...] | None] = {}  # which version of each file was read
        self._is_in_order = True
        self.refresh()

    @property
    def is_complete(self) -> bool:
        """Whether every row is done or was tried in vain."""
        return bool((self.is_done | self.is_refused).all())

    def refresh(self) -> None:
        """Read what has come since the last time."""
        for path in self._parts():  # before the index: a part goes when the index has its lines
            if path not in self._known:  # they do not change
                self._read(path)
        for path in (self._folder.path / INDEX_FILE, self._folder.path / ERRORS_FILE):
            if self._known.get(path) != _version(path):
                self._read(path)

    def write_part(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take down a shard whose data are in place.

        Args:
            name: of the part.
            lines: of the index, and errors (which have a ``reason``), in the order of rows.
        """
        draft = self._folder.draft(f"{name}.jsonl")
        _write(draft, map(_bytes, lines))
        self._folder.place(f"{PARTS_FOLDER}/{name}.jsonl", draft)

    def merge(
        self, refused: Sequence[Refusal], *, finish: Callable[[Iterable[Mapping[str, Any]]], None] = lambda _: None
    ) -> bool:
        """Write index and errors from the parts, in the order of the input, after the lines of earlier inputs.

        Files that would not change stay as they are.

        Args:
            refused: what never became a row.
            finish: called with the lines of the index.

        Returns:
            False where some rows have not been tried: others are at work on them.
        """
        with self._folder.locked("merge", wait=True):
            self.refresh()
            if not self.is_complete:
                return False
            parts, index = self._parts(), self._folder.path / INDEX_FILE
            is_new = bool(parts) or not self._is_in_order
            newest_first = sorted(parts, key=lambda path: (path.name.partition("-")[0], -path.stat().st_mtime_ns))
            places = self._places([*newest_first, *([index] if is_new else []), self._folder.path / ERRORS_FILE])
            if is_new:
                self._replace(INDEX_FILE, places.index_lines())
            own = ({"id": r.id, "path": r.path, "reason": r.reason} for r in refused)
            self._replace(ERRORS_FILE, chain(map(_bytes, own), places.error_lines(but=self.is_done)))
            for part in parts:
                part.unlink()
            finish(self._folder.index_lines())
        return True

    def _read(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # merged by another process
            version = _version(path)
            self._note(path)
            self._known[path] = version

    def _note(self, path: Path) -> None:
        last, is_in_order = -1, True
        for line in self._lines(path):
            if not line.is_in_place:
                is_in_order = False
            elif line.row is None:
                is_in_order = is_in_order and last < 0
            else:
                (self.is_refused if line.is_error else self.is_done)[line.row] = True
                is_in_order = is_in_order and line.row > last
                last = line.row
        if path.name == INDEX_FILE:
            self._is_in_order = is_in_order

    def _parts(self) -> list[Path]:
        """In the order of the input."""
        try:
            names = os.listdir(self._folder.parts)  # noqa: PTH208 - asked for every shard, of which there may be many
        except FileNotFoundError:
            return []
        return [self._folder.parts / name for name in sorted(names) if name.endswith(".jsonl")]

    def _places(self, paths: Iterable[Path]) -> _Places:
        places = _Places(len(self._rows))
        for path in paths:
            if path.exists():
                places.open(path)
                for line in self._lines(path):
                    if line.is_in_place:
                        places.add(line, is_earlier=path.name == INDEX_FILE)
        return places

    def _replace(self, file: str, lines: Iterable[bytes]) -> None:
        final, draft = self._folder.path / file, self._folder.draft(file)
        _write(draft, lines)
        if file == ERRORS_FILE and not draft.stat().st_size:
            final.unlink(missing_ok=True)
        elif not final.exists() or not filecmp.cmp(draft, final, shallow=False):
            self._folder.place(file, draft)
        draft.unlink(missing_ok=True)

    def _lines(self, path: Path) -> Iterator[_Line]:
        offset = 0
        seen = ("", False)  # many lines may share a file
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    content = json.loads(raw)
                    row = self._rows.find(content["id"])
                    is_error = "reason" in content
                    if is_error or not self._folder.kind.has_data:
                        seen = ("", True)
                    elif seen[0] != content["file"]:
                        seen = (content["file"], Path(self._folder.path, content["file"]).is_file())
                except (ValueError, KeyError, TypeError) as error:
                    raise ManifestError(
                        f"{path}:{number} must be a line that `audio-ssl {self._folder.kind.verb}` wrote, it is not "
                        f"({error!r}); choose another output folder"
                    ) from error
                if row is not None and not is_error:
                    self._check_identity(path, content, row)
                yield _Line(content["id"], offset, len(raw), row, is_error, seen[1])
                offset += len(raw)

    def _check_identity(self, path: Path, known: Mapping[str, Any], row: int) -> None:
        now = self._rows.identity(row)
        for key in ("path", "offset", "start", "num_samples"):  # offset: of files in packs alone
            if known.get(key) != now.get(key):
                raise ManifestError(
                    f"{path}: id {known['id']!r} must mean one piece of audio; there {key} is {known.get(key)!r}, now "
                    f"it is {now.get(key)!r}. Choose another output folder"
                )


@dataclass(frozen=True, slots=True)
class _Line:
    id: str
    offset: int
    num_bytes: int
    row: int | None  # None: of an earlier input
    is_error: bool
    is_in_place: bool


class _Places:
    """Where each line stands; of several with one id, the first that is added counts."""

    def __init__(self, num_rows: int) -> None:
        self._paths: list[Path] = []
        self._done, self._refused = _Column(num_rows), _Column(num_rows)
        self._earlier = array("q")  # source, offset, length; of the index
        self._more: dict[str, tuple[int, int, int]] = {}  # those of parts, by id
        self._streams: dict[int, IO[bytes]] = {}

    def open(self, path: Path) -> None:
        """Whose lines come now."""
        self._paths.append(path)

    def add(self, line: _Line, *, is_earlier: bool) -> None:
        place = (len(self._paths) - 1, line.offset, line.num_bytes)
        if line.row is not None:
            (self._refused if line.is_error else self._done).add(line.row, place)
        elif not line.is_error and is_earlier:
            self._more.pop(line.id, None)
            self._earlier.extend(place)
        elif not line.is_error:
            self._more.setdefault(line.id, place)

    def index_lines(self) -> Iterator[bytes]:
        earlier = np.frombuffer(self._earlier, dtype=np.int64).reshape(-1, 3)
        yield from self._text(place.tolist() for place in earlier)
        yield from self._text(self._more.values())
        yield from self._text(self._done.places())

    def error_lines(self, *, but: NDArray[np.bool_]) -> Iterator[bytes]:
        yield from self._text(self._refused.places(but=but))

    def _text(self, places: Iterable[Sequence[int]]) -> Iterator[bytes]:
        streams: dict[int, IO[bytes]] = {}
        try:
            for source, offset, num_bytes in places:
                if source not in streams:
                    if len(streams) == OPEN_FILES:
                        streams.pop(next(iter(streams))).close()
                    streams[source] = self._paths[source].open("rb")
                streams[source].seek(offset)
                yield streams[source].read(num_bytes)
        finally:
            for stream in streams.values():
                stream.close()


class _Column:
    """A place for each row: 20 bytes."""

    def __init__(self, num_rows: int) -> None:
        self.source = np.full(num_rows, -1, dtype=np.int32)
        self._offset = np.zeros(num_rows, dtype=np.int64)
        self._num_bytes = np.zeros(num_rows, dtype=np.int64)

    def add(self, row: int, place: tuple[int, int, int]) -> None:
        if self.source[row] < 0:
            self.source[row], self._offset[row], self._num_bytes[row] = place

    def places(self, *, but: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, int, int]]:
        for row in np.flatnonzero(self.source >= 0 if but is None else (self.source >= 0) & ~but):
            yield int(self.source[row]), int(self._offset[row]), int(self._num_bytes[row])


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _write(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("wb") as stream:
        stream.writelines(lines)


def _bytes(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
