"""Distinct ids for rows that are written as they are found, whose ids are too many to be held.

Of each id a hash of 64 bits is held. Rows whose hashes are equal are looked at again, where they were written, so two
ids with one hash are never taken for the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
import pyarrow as pa

from audio_ssl.data.table import broken_rules, twin_fault

Batches = Sequence[pa.RecordBatch]


class IdHashes:
    """Hashes of the ids of rows, in the order of the rows: 8 bytes a row."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, ids: Iterable[str]) -> None:
        """Take in the ids of the next rows."""
        self._hashes.extend(map(_hash, ids))

    def clashing(self, batches: Batches) -> np.ndarray:
        """Rows whose id another row has too, and which must take their :func:`whole_id` instead.

        Args:
            batches: the rows that were taken in, with ``id``, ``path`` and ``start``.

        Returns:
            (K,) int64, ascending. With whole ids in these rows all ids are distinct.

        Raises:
            ManifestError: whole ids clash too, since two rows have the same path and start; every one is named.
        """
        hashes = np.array(self._hashes, dtype=np.int64)
        is_whole = np.zeros(len(hashes), dtype=bool)
        written = _Written(batches)

        def id_of(row: int) -> str:
            return written.whole_id(row) if is_whole[row] else str(written.value(row, "id"))

        while len(rows := _rows_with_shared_ids(hashes, id_of)):
            fresh = rows[~is_whole[rows]]
            if not len(fresh):
                raise broken_rules("the manifest", _twin_faults(rows.tolist(), id_of, written))
            is_whole[fresh] = True  # these may clash with other rows in turn, such as one whose id is "a.wav"
            hashes[fresh] = [_hash(id_of(row)) for row in fresh.tolist()]
        return np.flatnonzero(is_whole)


def with_whole_ids(batches: Batches, rows: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The batches with the :func:`whole_id` in the given rows (ascending), and as they are elsewhere."""
    first = 0
    for batch in batches:
        low, high = np.searchsorted(rows, (first, first + batch.num_rows)).tolist()
        if low == high:
            yield batch
        else:
            ids = batch.column("id").to_pylist()
            for row in (rows[low:high] - first).tolist():
                ids[row] = _Written([batch]).whole_id(row)
            idx = batch.schema.get_field_index("id")
            yield batch.set_column(idx, batch.schema.field(idx), pa.array(ids, pa.string()))
        first += batch.num_rows


def whole_id(path: str, start: int) -> str:
    """The id of a row whose own id another row has too: its path, and its first sample where that is not the file's."""
    return f"{path}:{start}" if start else path


def _hash(name: str) -> int:
    return hash(name)  # 64 bits, other ones in every process: nobody can prepare names that clash


def _rows_with_shared_ids(hashes: np.ndarray, id_of: Callable[[int], str]) -> np.ndarray:
    """(K,) int64, ascending: all rows whose id is not theirs alone."""
    in_order = np.sort(hashes)
    twice = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    del in_order
    if not len(twice):
        return np.zeros(0, dtype=np.int64)
    suspects = np.flatnonzero(twice[np.searchsorted(twice[:-1], hashes)] == hashes)
    suspects = suspects[np.argsort(hashes[suspects], kind="stable")]
    bounds = np.flatnonzero(np.diff(hashes[suspects])) + 1
    found = array("q")
    for low, high in pairwise((0, *bounds.tolist(), len(suspects))):
        ids = {row: id_of(row) for row in suspects[low:high].tolist()}
        counts = Counter(ids.values())
        found.extend(row for row, name in ids.items() if counts[name] > 1)
    return np.sort(np.array(found, dtype=np.int64))


def _twin_faults(rows: Iterable[int], id_of: Callable[[int], str], written: _Written) -> list[str]:
    def describe(row: int) -> str:
        return f"manifest row {row + 1} ({id_of(row)}, {written.value(row, 'path')})"

    first_of: dict[str, int] = {}
    firsts = [(row, first_of.setdefault(id_of(row), row)) for row in rows]
    return [twin_fault(id_of(row), describe(row), describe(first)) for row, first in firsts if first != row]


class _Written:
    """Access to single rows of batches."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._first = [0, *accumulate(batch.num_rows for batch in batches)]

    def value(self, row: int, column: str) -> str | int:
        place = bisect_right(self._first, row) - 1
        value: str | int = self._batches[place].column(column)[row - self._first[place]].as_py()
        return value

    def whole_id(self, row: int) -> str:
        return whole_id(str(self.value(row, "path")), int(self.value(row, "start")))
