"""The rows of a manifest by number and by id. Of millions, one block is in memory, and a hash of each id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.addresses import place_of
from audio_ssl.data.manifest import Manifest

BLOCK_ROWS = 2048
COLUMNS = ["id", "path", "start", "num_samples", "sample_rate", "offset", "num_bytes"]


class Rows:
    """Access to a manifest that is quick in its order, and possible in any.

    Args:
        manifest: opened.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest, self._table = manifest, manifest.table.select(COLUMNS)
        self._next = 0  # the row behind the last one that was found
        self._block: tuple[int, list[dict[str, Any]]] = (-1, [])
        self._hashes: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None  # sorted, and the row of each

    def __len__(self) -> int:
        return len(self._manifest)

    def id(self, row: int) -> str:
        """The id of a row."""
        return str(self._values(row)["id"])

    def identity(self, row: int) -> dict[str, Any]:
        """The part of an index line that says which audio it is."""
        values = self._values(row)
        in_pack = {} if values["offset"] is None else {"offset": values["offset"], "num_bytes": values["num_bytes"]}
        return {
            "id": values["id"],
            "path": str(place_of(self._manifest.root, values["path"])),
            **in_pack,
            "start": values["start"],
            "num_samples": values["num_samples"],
            "sample_rate": values["sample_rate"],
        }

    def find(self, utterance_id: str) -> int | None:
        """The row of an id; None where it is none of the manifest's. Quick where ids are asked for in order."""
        if self._next < len(self) and self.id(self._next) == utterance_id:
            self._next += 1
            return self._next - 1
        row = self._looked_up(utterance_id)
        self._next = self._next if row is None else row + 1
        return row

    def _looked_up(self, utterance_id: str) -> int | None:
        hashes, rows = self._sorted_hashes()
        wanted = _hash(utterance_id)
        first = int(np.searchsorted(hashes, wanted))
        while first < len(hashes) and hashes[first] == wanted:
            if self._table.column("id")[int(rows[first])].as_py() == utterance_id:
                return int(rows[first])
            first += 1
        return None

    def digest(self) -> str:
        """Equal for inputs of the same rows, however their tables lie in memory."""
        digest = hashlib.blake2b(str(self._manifest.root).encode("utf-8", "surrogateescape"), digest_size=16)
        for first in range(0, len(self), BLOCK_ROWS):
            digest.update(repr(self._table.slice(first, BLOCK_ROWS).to_pydict()).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _values(self, row: int) -> dict[str, Any]:
        number = row // BLOCK_ROWS
        if self._block[0] != number:
            self._block = (number, self._table.slice(number * BLOCK_ROWS, BLOCK_ROWS).to_pylist())
        return self._block[1][row % BLOCK_ROWS]

    def _sorted_hashes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._hashes is None:
            hashes = np.fromiter(map(_hash, self._ids()), dtype=np.int64, count=len(self))
            order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[order], order
        return self._hashes

    def _ids(self) -> Iterator[str]:
        for batch in self._table.select(["id"]).to_batches(max_chunksize=BLOCK_ROWS):
            yield from batch.column(0).to_pylist()


def _hash(name: str) -> int:
    return hash(name)  # 64 bits; equal ones are told apart by the ids themselves
