"""The manifest: a versioned table with one row an utterance, opened at the cost of mapping a file.

It knows nothing of decoding (``audio``), of scanning folders (``scan``) or of batches (``plan``).
The format is described in ``docs/manifest_format.md``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audio_ssl.data.addresses import Address, Place, RemoteFile, is_address, place_of, root_of, shown
from audio_ssl.data.packed import AudioFile, PackedFile
from audio_ssl.data.remote import require_protocol
from audio_ssl.data.table import (
    COLUMNS,
    MAX_SAMPLES,
    Utterance,
    broken_rules,
    check_table,
    listed,
    path_fault,
    path_faults,
    table_from_rows,
)
from audio_ssl.errors import ManifestError

__all__ = ["Manifest", "Utterance", "names_of"]
_PIECE_ROWS = 262_144  # of a column that are changed at once
_PATHS_LOOKED_AT = 20  # of millions: each brings a piece of the mapped column into memory


@dataclass(frozen=True, eq=False)
class _Origins:
    """Where each row was read, for messages: file of each row, and its line (text files) or row number."""

    files: tuple[tuple[Path, bool], ...]  # (path, True where rows are lines of text)
    file_idx: np.ndarray  # (N,) int32
    line: np.ndarray  # (N,) int64

    def name(self, row: int) -> str:
        path, is_text = self.files[int(self.file_idx[row])]
        return f"{path}:{self.line[row]}" if is_text else f"{path} row {self.line[row]}"

    def take(self, indices: np.ndarray) -> _Origins:
        return replace(self, file_idx=self.file_idx[indices], line=self.line[indices])


class Manifest:
    """Rows of :class:`Utterance` over a root folder.

    Args:
        table: a pyarrow table in ``table.SCHEMA``.
        root: the folder that relative paths start from; or the address of one, elsewhere.
        path: the file that it was read from; None for one that was built in memory.
        first_line: line of the first row where the file is text; None where it is binary.
    """

    def __init__(
        self, table: pa.Table, *, root: Place, path: Path | None = None, first_line: int | None = None
    ) -> None:
        self.table = table
        self.root = root
        self.path = path
        self._columns = [table.column(name) for name in COLUMNS]  # looked up for every row that is read
        self._first_line = first_line
        self._origins_cache: _Origins | None = None

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Open a manifest: ``.arrow`` (memory-mapped), ``.parquet``, our ``.tsv``, or another tool's.

        fairseq's ``.tsv``, NeMo's and Lhotse's ``.jsonl`` and Kaldi data directories are known by what they hold.

        Raises:
            ManifestError: missing, of an unknown format or version, or with rows that break the rules; or, where the
                format does not say it all, audio whose header cannot be read.
        """
        from audio_ssl.data.manifest_io import read_table

        path = Path(path)
        content = read_table(path)
        manifest = cls(content.table, root=content.root, path=path, first_line=content.first_line)
        if content.needs_check:
            manifest.check()
        return manifest

    @classmethod
    def from_rows(cls, rows: Iterable[Utterance], *, root: str | Place) -> Manifest:
        """A manifest in memory.

        Raises:
            ManifestError: duplicate ids, counts out of range, or paths that leave the root; all in one message.
        """
        manifest = cls(table_from_rows(rows), root=_as_root(root))
        manifest.check()
        return manifest

    @classmethod
    def concat(cls, manifests: Sequence[Manifest]) -> Manifest:
        """One manifest of several, in order; ids that clash get the name of their file in front (:func:`names_of`).

        Paths stay relative where all roots are the same, and become absolute otherwise.

        Raises:
            ManifestError: no manifest, or the same id twice even with the file's name in front.
        """
        if not manifests:
            raise ManifestError("a list of manifests must hold at least one, got none")
        if len(manifests) == 1:
            return manifests[0]
        same_root = len({m.root for m in manifests}) == 1
        tables = [m.table if same_root else m._with_absolute_paths() for m in manifests]
        if pc.count_distinct(pa.concat_tables(tables).column("id")).as_py() < sum(map(len, manifests)):
            names = names_of([m.path or Path(f"manifest{i}") for i, m in enumerate(manifests)])
            tables = [
                table.set_column(0, table.schema.field("id"), _with_prefix(name, table.column("id")))
                for table, name in zip(tables, names, strict=True)
            ]
        joined = cls(pa.concat_tables(tables), root=manifests[0].root)
        joined._origins_cache = _joined_origins([m._origins for m in manifests])
        joined.check()
        return joined

    def write(self, path: str | Path) -> None:
        """Write by extension (``.arrow``, ``.parquet``, ``.tsv``), whole or not at all.

        The root is kept relative to the file where they share a folder.

        Raises:
            ManifestError: unknown extension, or the place cannot be written.
        """
        from audio_ssl.data.manifest_io import write_table

        self.check()
        write_table(Path(path), self.table, root=self.root)

    def check(self) -> None:
        """Check every row against the rules; a mapped file is read whole.

        Raises:
            ManifestError: with every fault and its row.
        """
        check_table(self.table, describe=self.describe, source=str(self.path or "the manifest"))

    def moved_to(self, root: str | Place) -> Manifest:
        """The same rows over another root: a folder, or the address of one.

        Raises:
            ManifestError: rows whose paths are absolute, or addresses, and so do not start from the root.
        """
        faults = [
            self.describe(row)
            for row, path in enumerate(self.column("path"))
            if path.startswith("/") or is_address(path)
        ]
        if faults:
            raise ManifestError(listed(f"every path must start from the root, but {len(faults)} do not", faults))
        moved = Manifest(self.table, root=_as_root(root))
        moved._origins_cache = self._origins
        return moved

    def check_root(self) -> None:
        """Check that the folder is there which relative paths start from; a cheap look before long work.

        Twenty of the paths are looked at: where they are addresses, is what fetches them installed?

        Raises:
            ManifestError: it is not, so that no row with a relative path can be read.
            MissingExtraError: a package that fetches addresses is not here.
        """
        self._check_protocols()
        if isinstance(self.root, Address) or self.root.is_dir():
            return
        if pc.all(pc.match_substring_regex(self.table.column("path"), "^/|://")).as_py() is not False:
            return
        raise ManifestError(
            f"{self.path or 'the manifest'} is about audio under {self.root}, but there is no such folder: the audio "
            "or the manifest was moved. Move it back (the root is kept relative to the manifest's own folder), "
            "point to the new place with `audio-ssl manifest convert FILE OUT --root PLACE`, or build it again "
            "with `audio-ssl manifest build`"
        )

    def check_files(self) -> None:
        """Check that every audio file is there; those elsewhere are not asked for.

        Raises:
            ManifestError: naming the rows whose file is missing.
        """
        paths: dict[str, int] = {}
        for row, path in enumerate(self.column("path")):
            paths.setdefault(path, row)
        faults = [
            f"{self.describe(row)}: no file {file}"
            for row in paths.values()
            if isinstance(file := self.audio_path(row), Path) and not file.is_file()
        ]
        if faults:
            raise ManifestError(listed(f"every file must exist (root {self.root}); missing {len(faults)}", faults))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, row: int) -> Utterance:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be in 0..{len(self) - 1}, got {row}")
        return Utterance(*(column[row].as_py() for column in self._columns))

    def __iter__(self) -> Iterator[Utterance]:
        for batch in self.table.to_batches(max_chunksize=65536):
            for values in batch.to_pylist():
                yield Utterance(**values)

    def column(self, name: str) -> list[Any]:
        """All values of a column; None where unknown."""
        return list(self.table.column(name).to_pylist())

    def durations_s(self) -> np.ndarray:
        """(N,) float64, seconds of each row.

        Raises:
            ManifestError: rows of a mapped file that break the rules, so that they have none.
        """
        rates = self.table.column("sample_rate").to_numpy().astype(np.float64)
        if (rates < 1).any():
            self.check()
        return np.asarray(self.table.column("num_samples").to_numpy() / rates, dtype=np.float64)

    def num_samples_at(self, sample_rate_hz: int) -> np.ndarray:
        """(N,) int64, samples of each row at ``sample_rate_hz`` (rounded up, as the resampler does).

        Raises:
            ManifestError: rows of a mapped file that break the rules, so that they have none.
        """
        lengths = np.empty(len(self), dtype=np.int64)
        done = 0
        for batch in self.table.select(["num_samples", "sample_rate"]).to_batches():  # views: there may be millions
            samples, rates = (column.to_numpy() for column in batch.columns)
            if len(samples) and (rates.min() < 1 or samples.min() < 1 or samples.max() > MAX_SAMPLES):
                self.check()
            lengths[done : done + len(samples)] = -(-samples * sample_rate_hz // rates)
            done += len(samples)
        return lengths

    def length_of(self, row: int, sample_rate_hz: int) -> int:
        """Samples of a row at ``sample_rate_hz``: its entry of :meth:`num_samples_at`."""
        return self[row].length_at(sample_rate_hz)

    def select(self, indices: Sequence[int] | np.ndarray) -> Manifest:
        """The given rows in the given order, over the same root."""
        chosen = np.asarray(indices, dtype=np.int64)
        part = Manifest(self.table.take(pa.array(chosen)), root=self.root)
        part._origins_cache = self._origins.take(chosen)
        return part

    def audio_path(self, row: int) -> Place:
        """The row's audio file, or the shard that it lies in; an address where that is elsewhere.

        Raises:
            ManifestError: the path leaves the root through ``..``, or is an address that is not taken.
        """
        return self._place(row, self.table.column("path")[row].as_py())

    def audio_file(self, row: int, utterance: Utterance | None = None) -> AudioFile:
        """What to read the row's audio from: a file, or the part of a shard that is one; here or elsewhere.

        Args:
            row: its number.
            utterance: the row, where it has been looked up.

        Raises:
            ManifestError: as :meth:`audio_path`, or only half of the place in a shard is there.
        """
        known = self[row] if utterance is None else utterance
        path, offset, num_bytes = self._place(row, known.path), known.offset, known.num_bytes
        if offset is None and num_bytes is None:
            return RemoteFile(path, id=known.id) if isinstance(path, Address) else path
        if offset is None or num_bytes is None:
            raise ManifestError(f"{self.describe(row)}: offset and num_bytes must both be there, or both be empty")
        if isinstance(path, Address):
            return RemoteFile(path, offset, num_bytes, known.id)
        return PackedFile(path, offset, num_bytes, known.id)

    def _place(self, row: int, path: str) -> Place:
        fault = path_fault(path)
        if fault is not None:
            raise ManifestError(f"{self.describe(row)}: {fault}, got {shown(path)!r}")
        return place_of(self.root, path)

    def file_keys(self) -> list[tuple[str, int | None]]:
        """(path, offset) of each row: equal where rows share an encoded file."""
        return list(zip(self.column("path"), self.column("offset"), strict=True))

    def files(self) -> tuple[tuple[Path, ...], np.ndarray]:
        """The files that were read, and (N,) int32, which of them each row came from."""
        return tuple(path for path, _ in self._origins.files), self._origins.file_idx

    def origin(self, row: int) -> str:
        """Where a row was read: ``manifests/a.tsv:17``; ``manifests/a.arrow row 16`` where the file is no text."""
        return self._origins.name(row)

    def describe(self, row: int) -> str:
        """A row's name in messages: ``manifests/a.tsv:17 (id, path)``."""
        name, path = (self.table.column(c)[row].as_py() for c in ("id", "path"))
        return f"{self._origins.name(row)} ({name}, {shown(path)})"

    def _check_protocols(self) -> None:
        rows = np.unique(np.linspace(0, max(0, len(self) - 1), num=min(len(self), _PATHS_LOOKED_AT), dtype=np.int64))
        column = self.table.column("path")
        paths = [column[row].as_py() for row in rows.tolist()]  # taking them at once would join the whole column first
        places = [Address(path) for path in paths if is_address(path) and path_fault(path) is None]
        places += [self.root] if isinstance(self.root, Address) else []
        for place in {place.protocol: place for place in places}.values():
            require_protocol(place)

    @property
    def _origins(self) -> _Origins:
        if self._origins_cache is None:
            first = 1 if self._first_line is None else self._first_line
            self._origins_cache = _Origins(
                files=((self.path or Path("manifest"), self._first_line is not None),),
                file_idx=np.zeros(len(self), dtype=np.int32),
                line=np.arange(first, first + len(self), dtype=np.int64),
            )
        return self._origins_cache

    def _with_absolute_paths(self) -> pa.Table:
        faults = path_faults(self.table.column("path"), describe=self.describe)  # which nobody sees in absolute ones
        if faults:
            raise broken_rules(str(self.path or "the manifest"), faults)
        paths = _changed(self.table.column("path"), lambda piece: _absolute(piece, self.root))
        return self.table.set_column(1, self.table.schema.field("path"), paths)


def names_of(files: Sequence[Path]) -> list[str]:
    """Names of files, without extension; where two would be equal, as many folders in front as tell all apart.

    Returns:
        ``a``; or ``en/train``, ``sv/train``. Equal where the files differ in their extension alone.
    """
    paths = [Path(os.path.normpath(file.absolute())) for file in files]
    parts = [(*path.parts[1:-1], path.stem) for path in paths]
    names: list[str] = []
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _changed(column: pa.ChunkedArray, change: Callable[[pa.StringArray], pa.StringArray]) -> pa.ChunkedArray:
    """A column of strings, changed piece by piece: there may be millions, and a piece holds 2 GiB at most."""
    pieces = pa.table({"values": column}).to_batches(max_chunksize=_PIECE_ROWS)
    return pa.chunked_array([change(piece.column(0)) for piece in pieces], pa.string())


def _with_prefix(name: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return _changed(ids, lambda piece: pc.binary_join_element_wise(name, piece, "/"))


def _absolute(paths: pa.StringArray, root: Place) -> pa.StringArray:
    if isinstance(root, Address):
        places = (place_of(root, path) for path in paths.to_pylist())
        return pa.array([p.text if isinstance(p, Address) else os.path.normpath(p) for p in places], pa.string())
    is_elsewhere = pc.match_substring(paths, "://")
    below = pc.binary_join_element_wise(str(root).rstrip("/"), paths, "/")
    full = pc.if_else(pc.or_(pc.starts_with(paths, "/"), is_elsewhere), paths, below)
    is_odd = pc.match_substring_regex(full, r"/\.{0,2}(/|$)")  # nothing, . or .. where a name should be
    is_odd = pc.and_not(is_odd, is_elsewhere)
    normal = [os.path.normpath(path) for path in full.filter(is_odd).to_pylist()]
    return pc.replace_with_mask(full, is_odd, pa.array(normal, pa.string()))


def _as_root(root: str | Place) -> Place:
    if isinstance(root, str) and is_address(root):
        return root_of(root)
    return root if isinstance(root, Address) else Path(root).absolute()


def _joined_origins(parts: Sequence[_Origins]) -> _Origins:
    offsets = np.cumsum([0, *(len(p.files) for p in parts[:-1])])
    return _Origins(
        files=tuple(file for part in parts for file in part.files),
        file_idx=np.concatenate([p.file_idx + offset for p, offset in zip(parts, offsets, strict=True)]),
        line=np.concatenate([p.line for p in parts]),
    )
