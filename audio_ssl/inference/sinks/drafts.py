"""Files that are written beside their place: room is taken first, and one rename puts them there.

All writing is ``pwrite``: a disk that is full is an error with words. A write into a memory map would kill the process.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ManifestError
from audio_ssl.inference.sinks.base import draft_folder

FLUSHES_AT_ONCE = 16  # of many small files: a disk's journal takes those that wait together in one go
_COPY_BYTES = 1 << 23


class Drafts:
    """The unfinished files of one shard.

    Args:
        folder: of the embeddings.
        shard: its name.
    """

    def __init__(self, folder: Path, shard: str) -> None:
        self._folder, self._place = folder, draft_folder(folder, shard)
        self._looked_at: set[Path] = set()

    def path(self, name: str) -> Path:
        """Where a draft lies."""
        return self._place / name

    def publish(self, moves: Sequence[tuple[Path, str]]) -> None:
        """Put drafts in place, all of them flushed to the disk before the first one moves.

        Args:
            moves: of each draft, its file relative to the folder.

        Raises:
            ManifestError: a link leads out of the folder.
        """
        targets = [self._target(file) for _, file in moves]
        with ThreadPoolExecutor(FLUSHES_AT_ONCE, thread_name_prefix="flush") as pool:
            list(pool.map(flush, [draft for draft, _ in moves]))
        for (draft, _), target in zip(moves, targets, strict=True):
            draft.replace(target)
        for parent in {target.parent for target in targets}:
            flush(parent)

    def clear(self) -> None:
        """Remove what is left."""
        shutil.rmtree(self._place, ignore_errors=True)

    def _target(self, file: str) -> Path:
        final = self._folder / file
        if final.parent not in self._looked_at:
            if not final.parent.resolve().is_relative_to(self._folder.resolve()):
                raise ManifestError(f"{final} must lie in {self._folder}: a link leads out of it")
            final.parent.mkdir(parents=True, exist_ok=True)
            self._looked_at.add(final.parent)
        return final


def take_room(descriptor: int, num_bytes: int) -> None:
    """Give a file its size, and its room on the disk where the system can.

    Raises:
        OSError: there is no room.
    """
    try:
        if hasattr(os, "posix_fallocate") and num_bytes:
            os.posix_fallocate(descriptor, 0, num_bytes)
            return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot
            raise
    os.ftruncate(descriptor, num_bytes)


def write_at(descriptor: int, offset: int, data: bytes | NDArray[Any]) -> None:
    """Write all of it; one call of the system writes at most 2 GiB."""
    view = memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def copy_range(source: int, target: int, *, start: int, to: int, num_bytes: int) -> None:
    """Copy bytes from one file to another, a few MiB at a time."""
    end = start + num_bytes
    while start < end:
        part = os.pread(source, min(_COPY_BYTES, end - start), start)
        write_at(target, to, part)
        start, to = start + len(part), to + len(part)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def npy_header(shape: Iterable[int], dtype: np.dtype[Any]) -> bytes:
    """The head of an ``.npy`` file of C order."""
    head = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(head, description)
    return head.getvalue()
