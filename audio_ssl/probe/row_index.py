"""Which rows of a manifest a label file means: by id, or by the name of the audio file."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.audio import AUDIO_EXTENSIONS
from audio_ssl.data.files import extension, stem_path
from audio_ssl.data.manifest import Manifest


class AmbiguousError(Exception):
    """A name that files in several folders have; the text names them."""


class RowIndex:
    """Finds rows by names as people write them.

    Args:
        manifest: N rows.
        is_used: (N,) bool; a name that only other rows have is known, but means none.
    """

    def __init__(self, manifest: Manifest, is_used: NDArray[np.bool_]) -> None:
        self.is_used = is_used
        self.ids: dict[str, int] = {name: row for row, name in enumerate(manifest.column("id"))}
        self._files = manifest.file_keys()
        self._by_name: defaultdict[str, list[int]] = defaultdict(list)
        for row, (path, _) in enumerate(self._files):
            self._by_name[posixpath.basename(stem_path(path))].append(row)

    def is_known(self, key: str) -> bool:
        """Whether any row is meant, one that is left out included."""
        return key in self.ids or bool(self._of_file(key))

    def find(self, key: str) -> list[int]:
        """The rows that a name means: the one with this id, or all of the file.

        A file may be named with its folders, or some of the last ones, and with or without its extension; another
        extension of audio is taken for the same, since corpora are re-encoded.

        Raises:
            AmbiguousError: several files have this name.
        """
        if key in self.ids:
            row = self.ids[key]
            return [row] if self.is_used[row] else []
        rows = [row for row in self._of_file(key) if self.is_used[row]]
        if len({self._files[row] for row in rows}) > 1:
            whole = [row for row in rows if stem_path(self._files[row][0]) == _bare(key)]
            exact = [row for row in rows if self._files[row][0] == posixpath.normpath(key)]
            rows = next((found for found in (exact, whole) if self._is_one_file(found)), rows)
        if rows and not self._is_one_file(rows):
            raise AmbiguousError(", ".join(sorted({self._files[row][0] for row in rows})[:3]))
        return rows

    def _of_file(self, key: str) -> Sequence[int]:
        bare = _bare(key)
        end = f"/{bare}"
        return [
            row
            for row in self._by_name.get(posixpath.basename(bare), ())
            if f"/{stem_path(self._files[row][0])}".endswith(end)
        ]

    def _is_one_file(self, rows: Sequence[int]) -> bool:
        return len({self._files[row] for row in rows}) == 1


def _bare(key: str) -> str:
    path = posixpath.normpath(key)
    return stem_path(path) if extension(path) in AUDIO_EXTENSIONS else path
