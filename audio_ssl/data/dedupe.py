"""Rows that hold the same audio twice, by the bytes of their files; nothing is decoded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from audio_ssl.data.addresses import shown
from audio_ssl.data.checks import UNREADABLE, Refusal
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.packed import AudioFile, open_bytes, size_bytes
from audio_ssl.errors import AudioError

DUPLICATE = "duplicate"
_CHUNK_BYTES = 1 << 20
FileKey = tuple[str, int | None]


@dataclass(frozen=True)
class DedupeResult:
    """What looking for equal rows gave.

    Attributes:
        manifest: the first of all rows that are equal, in their order.
        refusals: every other row, named beside the one that it equals, and rows whose file cannot be read.
        num_duplicates: rows that equal an earlier one.
        num_texts_differ: those of them whose text is known and is not that of the row that stays.
    """

    manifest: Manifest
    refusals: tuple[Refusal, ...]
    num_duplicates: int
    num_texts_differ: int


def drop_duplicates(manifest: Manifest, *, progress: Callable[[int, int], None] | None = None) -> DedupeResult:
    """Keep the first of all rows with the same samples (start, length) of files with the same bytes.

    Only files whose size another file has too are read (BLAKE2b, 256 bits). Files that differ in a tag alone differ.

    Args:
        manifest: rows.
        progress: called with (files done, files in all).
    """
    keys = manifest.file_keys()
    contents = _contents(manifest, keys, progress=progress)
    first: dict[tuple[object, int, int], int] = {}
    kept: list[int] = []
    refusals: list[Refusal] = []
    num_duplicates = num_texts_differ = 0
    for i, row in enumerate(manifest):
        content = contents[keys[i]]
        if isinstance(content, Exception):
            refusals.append(Refusal(shown(row.path), UNREADABLE, f"{row.id}: {content}"))
            continue
        twin = first.setdefault((content, row.start, row.num_samples), i)
        if twin == i:
            kept.append(i)
            continue
        stays = manifest[twin]
        refusals.append(
            Refusal(shown(row.path), DUPLICATE, f"{row.id} has the same audio as {stays.id} ({shown(stays.path)})")
        )
        num_duplicates += 1
        num_texts_differ += row.text is not None and row.text != stays.text
    return DedupeResult(manifest.select(kept), tuple(refusals), num_duplicates, num_texts_differ)


def _contents(
    manifest: Manifest, keys: list[FileKey], *, progress: Callable[[int, int], None] | None
) -> dict[FileKey, object]:
    """What stands for each file's bytes: equal where they are equal; an exception where they cannot be read."""
    files: dict[FileKey, AudioFile] = {}
    for row, key in enumerate(keys):
        if key not in files:
            files[key] = manifest.audio_file(row)
    contents: dict[FileKey, object] = {}
    by_size: defaultdict[int, list[FileKey]] = defaultdict(list)
    for key, file in files.items():
        try:
            by_size[size_bytes(file)].append(key)
        except (OSError, AudioError) as error:
            contents[key] = error
    for same in by_size.values():
        for key in same:
            contents[key] = key if len(same) == 1 else digest_of(files[key])
            if progress is not None:
                progress(len(contents), len(files))
    return contents


def digest_of(file: AudioFile) -> bytes | Exception:
    """BLAKE2b (256 bits) of an encoded file; why not, where it cannot be read."""
    digest = hashlib.blake2b(digest_size=32)
    try:
        with open_bytes(file) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except (OSError, AudioError) as error:
        return error
    return digest.digest()
