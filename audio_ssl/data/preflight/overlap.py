"""What training and validation share: speakers, whole transcripts, and audio."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from audio_ssl.data.addresses import RemoteFile
from audio_ssl.data.dedupe import digest_of
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.packed import AudioFile, open_bytes, size_bytes
from audio_ssl.data.preflight.notices import Split, shown_text
from audio_ssl.errors import AudioError

Place = tuple[str, int | None]  # path, and offset in a shard
Segments = tuple[np.ndarray, np.ndarray, np.ndarray]
_END_BYTES = 1 << 16  # of either end of a file, compared before all of it is


@dataclass(frozen=True)
class SameAudio:
    """Rows of validation whose audio is in training.

    Attributes:
        rows: row of validation to the row of training that it equals or overlaps.
        num_elsewhere: files of either split that lie elsewhere, which nobody fetched to compare.
        num_unreadable: files that could not be read to compare them.
        num_left: files of training that might be equal and were not looked at for being too many.
    """

    rows: dict[int, int]
    num_elsewhere: int
    num_unreadable: int
    num_left: int


def same_speakers(train: Split, valid: Split) -> dict[int, str]:
    """Rows of ``valid`` whose speaker has rows in ``train``, by name."""
    known = {speaker for speaker in train.manifest.column("speaker") if speaker}
    return {row: f"speaker {name}" for row, name in enumerate(valid.manifest.column("speaker")) if name in known}


def same_texts(train: Split, valid: Split) -> dict[int, str]:
    """Rows of ``valid`` whose whole transcript, after the text rules, is one of ``train``."""
    known = set(train.texts)
    return {row: shown_text(text) for row, text in enumerate(valid.texts) if text and text in known}


def same_audio(train: Manifest, valid: Manifest, *, most_files: int) -> SameAudio:
    """Rows of ``valid`` that share samples with a row of ``train``: in the same file, or in one with the same bytes.

    Nothing is decoded. Files are compared where their rows have the same place, length and rate, then by size, by
    their ends, and last by BLAKE2b; so a copy in another format or with another tag is not found.

    Args:
        train: rows.
        valid: rows.
        most_files: of ``train`` that are compared by content.
    """
    found = _in_the_same_file(train, valid)
    return _with_the_same_bytes(train, valid, found, most_files=most_files)


def _in_the_same_file(train: Manifest, valid: Manifest) -> dict[int, int]:
    of_valid, of_train = _segments(valid), _segments(train, only=set(_places(valid)))
    found: dict[int, int] = {}
    for place, (rows, starts, ends) in of_valid.items():
        if place not in of_train:
            continue
        train_rows, train_starts, train_ends = of_train[place]
        order = np.argsort(train_starts, kind="stable")
        reach = np.maximum.accumulate(train_ends[order])
        last = np.searchsorted(train_starts[order], ends, side="left") - 1  # starts before the row ends
        for i in np.flatnonzero(last >= 0).tolist():
            before = reach[: last[i] + 1]
            first = int(np.searchsorted(before, starts[i], side="right"))  # ... and ends after it starts
            if first < len(before):
                found[int(rows[i])] = int(train_rows[order[first]])
    return dict(sorted(found.items()))


def _places(manifest: Manifest) -> Iterable[Place]:
    root = str(manifest.root).rstrip("/")
    for path, offset in manifest.file_keys():
        if "://" in path:
            yield path, offset
        elif "://" in root:
            yield f"{root}/{path}", offset
        else:
            yield os.path.normpath(path if path.startswith("/") else f"{root}/{path}"), offset


def _segments(manifest: Manifest, *, only: set[Place] | None = None) -> dict[Place, Segments]:
    """By file: (n,) row numbers, first samples, and samples after the last."""
    rows: defaultdict[Place, list[int]] = defaultdict(list)
    for row, place in enumerate(_places(manifest)):
        if only is None or place in only:
            rows[place].append(row)
    starts = manifest.table.column("start").to_numpy()
    ends = starts + manifest.table.column("num_samples").to_numpy()
    return {place: (np.array(i), starts[i], ends[i]) for place, i in rows.items()}


def _with_the_same_bytes(train: Manifest, valid: Manifest, found: dict[int, int], *, most_files: int) -> SameAudio:
    """Add rows of other files that hold the same bytes, among rows of the same place, length and rate."""
    of_valid = {row: shape for row, shape in enumerate(_shapes(valid)) if row not in found}
    shapes = set(of_valid.values())
    of_train = {row: shape for row, shape in enumerate(_shapes(train)) if shape in shapes}
    num_left = max(0, len(of_train) - most_files)
    of_train = dict(list(of_train.items())[:most_files])
    both, known = (_Files(train), _Files(valid)), (of_train, of_valid)
    for measure in (size_bytes, _digest_of_ends, digest_of):
        known = _common(known)
        known = both[0].told_apart(known[0], measure), both[1].told_apart(known[1], measure)
    of_train, of_valid = _common(known)
    twins = {content: row for row, content in reversed(of_train.items())}
    rows = found | {row: twins[content] for row, content in of_valid.items()}
    return SameAudio(
        dict(sorted(rows.items())),
        num_elsewhere=sum(len(files.elsewhere) for files in both),
        num_unreadable=sum(len(files.unreadable) for files in both),
        num_left=num_left,
    )


Known = dict[int, tuple[object, ...]]  # row to what is known of its audio so far


class _Files:
    """The files of a manifest, each measured once; those that cannot be are counted."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._keys = manifest.file_keys()
        self.elsewhere: set[Place] = set()
        self.unreadable: set[Place] = set()

    def told_apart(self, known: Known, measure: Callable[[AudioFile], object]) -> Known:
        """What is known, with a measure of each row's file beside it; rows without one are left out."""
        measured: dict[Place, object] = {}
        for row in known:
            key = self._keys[row]
            if key not in measured:
                measured[key] = self._measured(row, key, measure)
        return {
            row: (*content, measured[self._keys[row]])
            for row, content in known.items()
            if measured[self._keys[row]] is not None
        }

    def _measured(self, row: int, key: Place, measure: Callable[[AudioFile], object]) -> object | None:
        file = self._manifest.audio_file(row)
        if isinstance(file, RemoteFile):
            self.elsewhere.add(key)
            return None
        try:
            value = measure(file)
        except (OSError, AudioError) as error:
            value = error
        if isinstance(value, Exception):
            self.unreadable.add(key)
            return None
        return value


def _common(known: tuple[Known, Known]) -> tuple[Known, Known]:
    """The rows of either side whose audio may be that of a row of the other."""
    shared = set(known[0].values()) & set(known[1].values())
    return tuple({row: c for row, c in side.items() if c in shared} for side in known)  # type: ignore[return-value]


def _shapes(manifest: Manifest) -> Iterable[tuple[object, ...]]:
    columns = [manifest.table.column(name).to_pylist() for name in ("start", "num_samples", "sample_rate")]
    return zip(*columns, strict=True)


def _digest_of_ends(file: AudioFile) -> bytes:
    """BLAKE2b of the first and last bytes: files of another recording of the same size differ there already."""
    with open_bytes(file) as stream:
        digest = hashlib.blake2b(stream.read(_END_BYTES), digest_size=16)
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - _END_BYTES))
        digest.update(stream.read(_END_BYTES))
        return digest.digest()
