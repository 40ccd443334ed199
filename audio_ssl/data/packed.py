"""Encoded files that lie inside a shard: a view that cannot leave its bytes, and one way to open every kind of file.

This module knows bytes alone; ``audio`` decodes, ``pack`` writes shards.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from audio_ssl.data.addresses import RemoteFile
from audio_ssl.data.cache import current_cache
from audio_ssl.errors import AudioError

_BUFFER_BYTES = 65536  # decoders ask for a few hundred bytes at a time: unbuffered, MP3 takes 1.4 times as long


@dataclass(frozen=True, slots=True)
class PackedFile:
    """An encoded file that is a part of another file, stored as it is.

    Attributes:
        path: the shard.
        offset: its first byte in the shard.
        num_bytes: its length.
        id: the manifest row that it was asked for by, for messages.
    """

    path: Path
    offset: int
    num_bytes: int
    id: str

    def __str__(self) -> str:
        return f"{self.path} bytes {self.offset} to {self.offset + self.num_bytes} (row {self.id})"

    def fault(self, shard_bytes: int) -> str | None:
        """Why a shard of so many bytes cannot hold it; None where it can."""
        if self.offset >= 0 and self.num_bytes >= 0 and self.offset + self.num_bytes <= shard_bytes:
            return None
        return (
            f"its bytes must lie inside the shard, which has {shard_bytes}: the shard is truncated, or is not the one "
            "that the manifest was written for"
        )


AudioFile = Path | PackedFile | RemoteFile


def size_bytes(file: AudioFile) -> int:
    """Bytes of the encoded file.

    Raises:
        OSError: no such file or shard, or no permission.
        AudioError: a file elsewhere that does not come.
    """
    if isinstance(file, Path):
        return file.stat().st_size
    if file.num_bytes is not None:
        return file.num_bytes
    with open_bytes(file) as stream:
        return os.fstat(stream.fileno()).st_size


@contextmanager
def open_bytes(file: AudioFile) -> Iterator[IO[bytes]]:
    """The encoded file as a seekable stream of its own bytes, from 0 to its end.

    Raises:
        AudioError: the bytes of a packed file are not all inside its shard, or a file elsewhere does not come.
        OSError: no such file or shard, no permission, or a read that failed.
    """
    if isinstance(file, Path):
        with file.open("rb") as stream:
            yield stream
        return
    if isinstance(file, RemoteFile):
        with current_cache().opened(file) as copy:
            yield copy.stream
        return
    with file.path.open("rb", buffering=0) as shard:
        fault = file.fault(os.fstat(shard.fileno()).st_size)
        if fault is not None:
            raise AudioError(f"{file} must be readable audio: {fault}")
        window = _Window(shard.fileno(), file.offset, file.num_bytes)
        try:
            with io.BufferedReader(window, _BUFFER_BYTES) as stream:
                yield stream
        finally:
            if window.error is not None:
                raise window.error


class _Window(io.RawIOBase):
    """Bytes ``offset`` to ``offset + num_bytes`` of a file, as a file.

    Its methods never raise: libsndfile calls them back, and could only print what they raise. A read that fails is the
    end of the file, and stays in ``error``; a place before the first byte is the first byte.
    """

    def __init__(self, descriptor: int, offset: int, num_bytes: int) -> None:
        self._descriptor, self._offset, self._num_bytes = descriptor, offset, num_bytes
        self._at = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._num_bytes}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # typeshed's Buffer has no length
        wanted = max(0, min(len(buffer), self._num_bytes - self._at))
        try:
            data = os.pread(self._descriptor, wanted, self._offset + self._at)
        except OSError as error:
            self.error = error
            return 0
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
