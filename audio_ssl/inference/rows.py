"""The rows of a manifest by number and by id. Of millions, one block is in memory, and a hash of each id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.manifest import Manifest, Utterance

BLOCK_ROWS = 4096


class Rows:
    """Access to a manifest that is quick in its order, and possible in any.

    Args:
        manifest: opened.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._block: tuple[int, list[dict[str, Any]]] = (-1, [])
        self._hashes: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None  # sorted, and the row of each

    def __len__(self) -> int:
        return len(self._manifest)

    def id(self, row: int) -> str:
        """The id of a row."""
        return str(self._values(row)["id"])

    def identity(self, row: int) -> dict[str, Any]:
        """The part of an index line that says which audio it is."""
        row_ = Utterance(**self._values(row))
        place = {} if row_.offset is None else {"offset": row_.offset, "num_bytes": row_.num_bytes}
        return {
            "id": row_.id,
            "path": str(self._manifest.audio_path(row)),
            **place,
            "start": row_.start,
            "num_samples": row_.num_samples,
            "sample_rate": row_.sample_rate,
        }

    def find(self, utterance_id: str, *, near: int = 0) -> int | None:
        """The row of an id; None where it is none of the manifest's.

        Args:
            utterance_id: what to look for.
            near: a row to look at first.
        """
        if near < len(self) and self.id(near) == utterance_id:
            return near
        hashes, rows = self._sorted_hashes()
        wanted = _hash(utterance_id)
        first = int(np.searchsorted(hashes, wanted))
        while first < len(hashes) and hashes[first] == wanted:
            if self._manifest.table.column("id")[int(rows[first])].as_py() == utterance_id:
                return int(rows[first])
            first += 1
        return None

    def digest(self) -> str:
        """Equal for inputs of the same rows, however their tables lie in memory."""
        digest = hashlib.blake2b(str(self._manifest.root).encode("utf-8", "surrogateescape"), digest_size=16)
        table = self._manifest.table.select(["id", "path", "offset", "start", "num_samples"])
        for first in range(0, len(self), BLOCK_ROWS):
            digest.update(repr(table.slice(first, BLOCK_ROWS).to_pydict()).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _values(self, row: int) -> dict[str, Any]:
        number = row // BLOCK_ROWS
        if self._block[0] != number:
            self._block = (number, self._manifest.table.slice(number * BLOCK_ROWS, BLOCK_ROWS).to_pylist())
        return self._block[1][row % BLOCK_ROWS]

    def _sorted_hashes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._hashes is None:
            hashes = np.fromiter(map(_hash, self._ids()), dtype=np.int64, count=len(self))
            order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[order], order
        return self._hashes

    def _ids(self) -> Iterator[str]:
        for batch in self._manifest.table.select(["id"]).to_batches(max_chunksize=BLOCK_ROWS):
            yield from batch.column(0).to_pylist()


def _hash(name: str) -> int:
    return hash(name)  # 64 bits; equal ones are told apart by the ids themselves
