"""A manifest's files as they are, side by side in tar shards: few large files, random access, WebDataset's layout.

The bytes of each encoded file are copied, never decoded and encoded again; the rows then say in which shard and at
which byte their file lies. Reading them is ``packed`` and ``audio``.

Reference: WebDataset: the members of a sample follow one another and share their name up to the first dot.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from audio_ssl.data.addresses import RemoteFile, shown
from audio_ssl.data.audio import SOUNDFILE_EXTENSIONS, AudioInfo, is_fallback
from audio_ssl.data.checks import UNREADABLE, Refusal, inspect_file, with_rows
from audio_ssl.data.files import extension, stem_path
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.manifest_io import replaced_file
from audio_ssl.data.packed import AudioFile, open_bytes, size_bytes
from audio_ssl.data.parallel import FILES_IN_FLIGHT, map_in_order
from audio_ssl.data.summary import row_fault
from audio_ssl.data.table import listed
from audio_ssl.errors import AudioError, ManifestError

MANIFEST_NAME = "manifest.arrow"
MARK_NAME = ".audio_ssl-pack"
NOT_PACKABLE = "needs a file of its own"
DISAGREES = "row disagrees with its file"
CHANGED = "changed while it was read"
_MARK_TEXT = (
    f"Shards of `audio-ssl manifest pack`; unfinished, and free to be replaced, until {MANIFEST_NAME} is here.\n"
)
_SHARD = re.compile(r"\.?shard-\d{6,}\.tar(\.\d+\.tmp)?")
_COPY_BYTES = 1 << 20
_EXTENSIONS = {
    "FLAC": ".flac",
    "MP3": ".mp3",
    "AIFF": ".aiff",
    "AU": ".au",
    "CAF": ".caf",
    "W64": ".w64",
    "NIST": ".sph",
}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PackResult:
    """What packing gave.

    Attributes:
        manifest: the rows whose files were packed, over the folder of shards, in their order; not written yet.
        shards: the shards, in order.
        num_files: files in them.
        num_bytes: bytes of those files.
        refusals: files and rows that stay out, and why.
    """

    manifest: Manifest
    shards: tuple[Path, ...]
    num_files: int
    num_bytes: int
    refusals: tuple[Refusal, ...]


@dataclass
class _Sample:
    """One encoded file and all its rows; once it is written, also its place."""

    file: AudioFile
    info: AudioInfo
    num_bytes: int
    rows: list[int]
    utterances: list[Utterance]
    key: str = ""
    tar_bytes: int = 0
    shard: str = ""
    offset: int = -1

    @property
    def extension(self) -> str:
        """With its dot; by the content where the name says nothing, as in a shard."""
        named = ""
        if isinstance(self.file, Path):
            named = extension(self.file.name)
        elif isinstance(self.file, RemoteFile) and self.file.offset is None:
            named = self.file.address.suffix
        if named in SOUNDFILE_EXTENSIONS:
            return named
        if self.info.container == "OGG":
            return ".opus" if self.info.encoding == "OPUS" else ".ogg"
        return _EXTENSIONS.get(self.info.container, ".wav")

    def notes(self) -> Iterator[tuple[str, bytes]]:
        """(extension, content) of the small members: what a reader without the manifest needs."""
        first = self.utterances[0]
        is_whole = len(self.rows) == 1 and first.start == 0 and first.num_samples == self.info.num_samples
        if is_whole and first.text is not None:
            yield ".txt", first.text.encode()
        names = ("id", "start", "num_samples", "text", "speaker", "language")
        segments = [{name: getattr(row, name) for name in names} for row in self.utterances]
        content = {"sample_rate": self.info.sample_rate, "segments": segments}
        yield ".json", json.dumps(content, ensure_ascii=False).encode()

    def call(self, key: str) -> None:
        """Take a key, with which the bytes in a shard are known: headers, and bodies of whole blocks."""
        self.key = key
        members = [(self.extension, self.num_bytes), *((suffix, len(content)) for suffix, content in self.notes())]
        self.tar_bytes = sum(len(_header(key + suffix, n)) + n + _padding(n) for suffix, n in members)


def write_shards(
    manifest: Manifest,
    folder: Path,
    *,
    shard_bytes: int,
    num_workers: int = 8,
    progress: Progress | None = None,
) -> PackResult:
    """Copy every file of a manifest into tar shards; a file that several rows share is copied once.

    Each shard appears whole or not at all. The folder counts as unfinished until the manifest is written to
    ``folder / MANIFEST_NAME`` (the caller's last act): until then, packing again starts anew.

    Args:
        manifest: rows; their files may lie in shards already.
        folder: new, empty, or what a pack that was killed has left.
        shard_bytes: a shard ends before it would exceed this; a larger file gets a shard of its own.
        num_workers: threads that look at files.
        progress: called with (steps done, steps in all); each file takes two.

    Raises:
        ManifestError: the folder holds something else or a finished pack, the disk has no room, no file can be packed,
            or a shard cannot be written.
    """
    manifest.check()
    _check_folder(folder, manifest)
    samples, refusals = _inspect(manifest, num_workers=num_workers, progress=progress)
    _check_any(samples, refusals)
    _name(samples)
    parts = list(_shares(samples, shard_bytes))
    _check_room(folder, sum(sample.tar_bytes for sample in samples) + len(parts) * tarfile.RECORDSIZE)
    _start(folder)
    shards: list[Path] = []
    done = 0
    for part in parts:
        shard = folder / f"shard-{len(shards):06d}.tar"
        with replaced_file(shard) as draft, draft.open("wb") as out:
            for sample in part:
                refusal = _add_sample(out, sample, shard=shard.name)
                refusals += [] if refusal is None else [_with_all_rows(refusal, sample.utterances)]
                done += 1
                if progress is not None:
                    progress(len(samples) + done, 2 * len(samples))
            out.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar archive
            out.write(bytes(-out.tell() % tarfile.RECORDSIZE))
        shards.append(shard)
    packed = [sample for sample in samples if sample.offset >= 0]
    _check_any(packed, refusals)
    return PackResult(
        manifest=_packed_manifest(packed, folder),
        shards=tuple(shards),
        num_files=len(packed),
        num_bytes=sum(sample.num_bytes for sample in packed),
        refusals=tuple(refusals),
    )


def _check_any(samples: Sequence[_Sample], refusals: Iterable[Refusal]) -> None:
    if not samples:
        faults = [f"{r.path}: {r.reason}: {r.detail}" for r in refusals]
        raise ManifestError(listed("there must be at least one file that can be packed, but all were refused", faults))


def _check_folder(folder: Path, manifest: Manifest) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ManifestError(f"{folder} must be a folder for shards, got a file")
    names = sorted(path.name for path in folder.iterdir())
    if MANIFEST_NAME in names and MARK_NAME in names:
        raise ManifestError(f"{folder} holds a finished pack already; remove it, or choose another folder")
    if names and MARK_NAME not in names:
        raise ManifestError(
            f"{folder} must be new or empty, got {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}: nothing "
            "there is overwritten; choose another folder"
        )
    place = folder.resolve()
    places = ((row, manifest.audio_path(row)) for row in range(len(manifest)))
    inside = [row for row, path in places if isinstance(path, Path) and path.resolve().is_relative_to(place)]
    if inside:
        raise ManifestError(f"{folder} must not hold the audio itself, got {manifest.describe(inside[0])}")


def _check_room(folder: Path, needed: int) -> None:
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise ManifestError(f"{folder} must be a place to write to: {error}") from error
    free += sum(path.stat().st_size for path in _remains(folder))
    if needed > free:
        raise ManifestError(
            f"{folder} must have room for {needed / 1e6:.1f} MB of shards, got {free / 1e6:.1f} MB: free some, or "
            "choose another disk; nothing was written"
        )


def _start(folder: Path) -> None:
    """Mark the folder as a pack in the making, and take away what a killed one has left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK_NAME).write_text(_MARK_TEXT)
        for path in _remains(folder):
            path.unlink()
    except OSError as error:
        raise ManifestError(f"{folder} must be a folder that can be written: {error}") from error


def _remains(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _SHARD.fullmatch(path.name)] if folder.is_dir() else []


def _inspect(manifest: Manifest, *, num_workers: int, progress: Progress | None) -> tuple[list[_Sample], list[Refusal]]:
    """The files that can be packed, in the order of their first rows, and what cannot."""
    rows_of: dict[tuple[str, int | None], list[int]] = {}
    for row, key in enumerate(manifest.file_keys()):
        rows_of.setdefault(key, []).append(row)
    samples: list[_Sample] = []
    refusals: list[Refusal] = []
    groups = list(rows_of.values())
    looks = map_in_order(lambda rows: _look(manifest, rows), groups, num_workers=num_workers, window=FILES_IN_FLIGHT)
    with closing(looks):
        for done, found in enumerate(looks, start=1):
            sample, refused = found
            samples += [] if sample is None else [sample]
            refusals += refused
            if progress is not None:
                progress(done, 2 * len(groups))
    return samples, refusals


def _with_all_rows(refusal: Refusal, utterances: Sequence[Utterance]) -> Refusal:
    return refusal if len(utterances) == 1 else with_rows(refusal, [utterance.id for utterance in utterances])


def _look(manifest: Manifest, rows: list[int]) -> tuple[_Sample | None, list[Refusal]]:
    file, utterances = manifest.audio_file(rows[0]), [manifest[row] for row in rows]
    name = utterances[0].path if isinstance(file, Path) else str(file)
    if is_fallback(file):
        detail = f"only ffmpeg opens {extension(name)}, and not inside a shard: convert it to FLAC"
        return None, [_with_all_rows(Refusal(name, NOT_PACKABLE, detail), utterances)]
    info = inspect_file(file, name=name, check="ends")
    if isinstance(info, Refusal):
        return None, [_with_all_rows(info, utterances)]
    faults = [row_fault(utterance, info) for utterance in utterances]
    refusals = [
        Refusal(name, DISAGREES, f"{manifest.describe(row)}: {fault}")
        for row, fault in zip(rows, faults, strict=True)
        if fault is not None
    ]
    good = [i for i, fault in enumerate(faults) if fault is None]
    if not good:
        return None, refusals
    return _Sample(file, info, size_bytes(file), [rows[i] for i in good], [utterances[i] for i in good]), refusals


def _name(samples: Iterable[_Sample]) -> None:
    """Give each sample its key: the row's id (the file's name where rows share it), no dots, no slashes, no twins."""
    taken: set[str] = set()
    for sample in samples:
        row = sample.utterances[0]
        plain = row.id if len(sample.rows) == 1 or row.offset is not None else stem_path(shown(row.path))
        bare = "".join("_" if c in "./\\" or c.isspace() or not c.isprintable() else c for c in plain) or "_"
        key, number = bare, 2
        while key in taken:
            key, number = f"{bare}-{number}", number + 1
        taken.add(key)
        sample.call(key)


def _shares(samples: Iterable[_Sample], shard_bytes: int) -> Iterator[list[_Sample]]:
    share: list[_Sample] = []
    end_bytes = 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE  # the end mark, and at most so much padding after it
    filled = end_bytes
    for sample in samples:
        if share and filled + sample.tar_bytes > shard_bytes:
            yield share
            share, filled = [], end_bytes
        share.append(sample)
        filled += sample.tar_bytes
    yield share


def _add_sample(out: BinaryIO, sample: _Sample, *, shard: str) -> Refusal | None:
    """Append a sample's members; where its file cannot be read to its end, the shard is as it was before."""
    start = out.tell()
    out.write(_header(sample.key + sample.extension, sample.num_bytes))
    offset = out.tell()
    reason = _copy(sample, out)
    if reason is not None:
        out.seek(start)
        out.truncate()
        return reason
    out.write(bytes(_padding(sample.num_bytes)))
    for suffix, content in sample.notes():
        out.write(_header(sample.key + suffix, len(content)) + content + bytes(_padding(len(content))))
    sample.shard, sample.offset = shard, offset
    return None


def _copy(sample: _Sample, out: BinaryIO) -> Refusal | None:
    name = str(sample.file)
    copied = 0
    with closing(_chunks(sample.file)) as chunks:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                return Refusal(name, UNREADABLE, str(chunk))
            copied += len(chunk)
            if copied > sample.num_bytes:
                break
            out.write(chunk)
    if copied != sample.num_bytes:
        return Refusal(name, CHANGED, f"it had {sample.num_bytes} bytes, then at least {copied}")
    return None


def _chunks(file: AudioFile) -> Generator[bytes | Exception]:
    """A file's bytes; a failure to read is the last item, so that it is told from a failure to write."""
    try:
        with open_bytes(file) as stream:
            while chunk := stream.read(_COPY_BYTES):
                yield chunk
    except (OSError, AudioError) as error:
        yield error


def _header(name: str, size: int) -> bytes:
    """What stands before a member's bytes. Owner, time and rights are always the same: equal input, equal shards."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _packed_manifest(samples: Iterable[_Sample], folder: Path) -> Manifest:
    rows = [
        (row, replace(utterance, path=sample.shard, offset=sample.offset, num_bytes=sample.num_bytes))
        for sample in samples
        for row, utterance in zip(sample.rows, sample.utterances, strict=True)
    ]
    return Manifest.from_rows([utterance for _, utterance in sorted(rows, key=lambda item: item[0])], root=folder)
