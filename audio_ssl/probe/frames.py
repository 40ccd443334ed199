"""Frames of all items by a candidate, on disk: computed once, memory-mapped from then on.

One ``.safetensors`` file, named by a digest of the candidate and of the audio: ``frames`` (rows of D numbers, item by
item and layer by layer), ``num_frames``, ``pooled`` (from frames before they were rounded) and ``error_percent``. It is
there whole or not at all; who computes it holds a lock on its draft, and others wait and then find it.

Frames are kept in float16: eleven bits of each number, eight times as exact as bfloat16 in the same room, and encoders
whose frames leave its range are rare enough that they may have float32.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioError, ConfigError, ManifestError
from audio_ssl.inference.models import Precision, Runtime
from audio_ssl.inference.rows import Rows
from audio_ssl.inference.sinks.drafts import flush, take_room, write_at
from audio_ssl.inference.sinks.numbers import STORED, Encoded, Error, encode
from audio_ssl.inference.source import ManifestSource, Refusal
from audio_ssl.inference.stream import Stream, StreamSettings, joined
from audio_ssl.probe.candidates import CPU, Candidate, Opened
from audio_ssl.probe.items import Frames, Items

FORMAT_VERSION = 1
_NAMES = {"fp16": "F16", "fp32": "F32"}
_SHOWN = 5
_GIB = 2**30
Progress = Callable[[float], None]


def open_frames(
    candidate: Candidate,
    items: Items,
    *,
    cache: Path,
    settings: StreamSettings | None = None,
    device: torch.device = CPU,
    on_progress: Progress = lambda _: None,
) -> StoredFrames:
    """The frames of all items, computed where they are not there yet.

    Args:
        candidate: whose.
        items: of the task.
        cache: folder; made where it is not there.
        settings: of batches and of threads that read; they change no frame.
        device: that the candidate runs on.
        on_progress: called with the seconds of audio that are done since the last call.

    Raises:
        AudioError: an item cannot be read, or is too short for a frame: a probe of fewer would be another probe.
        ConfigError: the cache cannot be written, or has no room.
        ManifestError: the file there is damaged.
    """
    path = stored_at(candidate, items, cache)
    if not path.is_file():
        _compute_once(path, _Work(candidate, items, settings or StreamSettings(), device, on_progress))
    else:
        on_progress(float(items.manifest.durations_s().sum()))
    return StoredFrames(path, name=candidate.name)


def stored_at(candidate: Candidate, items: Items, cache: Path) -> Path:
    """Where the frames lie, or will: another model, row, or file (size and time of change) has another place."""
    digest = hashlib.blake2b(f"{FORMAT_VERSION} {candidate.digest}".encode(), digest_size=8)
    digest.update(Rows(items.manifest).digest().encode())
    seen = dict.fromkeys(str(items.manifest.audio_path(row)) for row in range(len(items)))
    for path in seen:
        try:
            found = Path(path).stat()
            digest.update(f"{found.st_size} {found.st_mtime_ns};".encode())
        except OSError:
            digest.update(b"elsewhere;")  # an address; or a file that is missing, as whoever reads it will say
    return cache / f"{digest.hexdigest()}.safetensors"


def frames_bytes(candidate: Candidate, items: Items) -> int:
    """What the frames of all items take on the disk, nearly: to be told before."""
    of_frames = int(frames_of_rows(candidate, items.manifest).sum()) * STORED["fp16"].itemsize
    of_pooled = 2 * STORED["fp32"].itemsize * len(items)
    return candidate.num_layers * candidate.dim * (of_frames + of_pooled)


def frames_of_rows(candidate: Candidate, manifest: Manifest) -> NDArray[np.int64]:
    """(N,) frames of each row, from its length."""
    counts: NDArray[np.int64] = candidate.geometry.num_frames(manifest.num_samples_at(candidate.sample_rate_hz))
    return counts


def compute(
    ready: Opened,
    manifest: Manifest,
    rows: Sequence[int],
    *,
    name: str,
    precision: Precision = "fp32",
    settings: StreamSettings | None = None,
    device: torch.device = CPU,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(row, (L, T, D) float32) of each row, in whatever order is quick.

    Raises:
        AudioError: a row cannot be read or is too short.
    """
    stream = Stream(
        ManifestSource(manifest), ready.forward, needs=ready.needs, settings=settings or StreamSettings(),
        runtime=Runtime(device, precision),
    )  # fmt: skip
    for found in joined(stream.run(rows)):
        if isinstance(found, Refusal):
            raise AudioError(f"{name} of {found.id} ({found.path}): {found.reason}")
        yield found


def pool(frames: Tensor) -> Tensor:
    """Mean and standard deviation over frames: (L, T, D) -> (L, 2D)."""
    return torch.cat((frames.mean(-2), frames.std(-2, correction=0)), dim=-1)


class StoredFrames:
    """See :class:`audio_ssl.probe.items.Frames`.

    Args:
        path: of the file.
        name: of the candidate.
        only: a layer that stands alone; None for all.

    Attributes:
        num_frames: (N,) int64, T of each item.
        error_percent: (N,) float32, how far each item's stored frames are from those that were computed: 100 times the
            norm of the difference over the norm.

    Raises:
        ManifestError: the file is damaged.
    """

    def __init__(self, path: Path, *, name: str, only: int | None = None) -> None:
        from safetensors import SafetensorError

        try:
            self._file = _mapped(path)
            about = json.loads(self._file.metadata()["probe"])
            self.num_frames: NDArray[np.int64] = self._file.get_tensor("num_frames").numpy()
            self.error_percent: NDArray[np.float32] = self._file.get_tensor("error_percent").numpy()
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{path} must be frames of a probe, it is damaged ({error}); remove it") from error
        self._path, self._name, self._only = path, name, only
        self._num_layers, self._dim, self._hop_s = about["num_layers"], about["dim"], about["hop_s"]
        self._rows = self._file.get_slice("frames")
        self._firsts = np.concatenate(([0], np.cumsum(self.num_frames)[:-1])) * self._num_layers

    def __len__(self) -> int:
        return len(self.num_frames)

    @property
    def name(self) -> str:
        """Of the candidate."""
        return self._name

    @property
    def num_layers(self) -> int:
        """L."""
        return self._num_layers if self._only is None else 1

    @property
    def dim(self) -> int:
        """D."""
        return int(self._dim)

    @property
    def hop_s(self) -> float:
        """Seconds from a frame to the next."""
        return float(self._hop_s)

    def of(self, item: int) -> Tensor:
        """(L, T, D) float32."""
        first, length = int(self._firsts[item]), int(self.num_frames[item])
        first += (self._only or 0) * length
        rows: Tensor = self._rows[first : first + self.num_layers * length]
        return rows.view(self.num_layers, length, self._dim).float()  # (L * T, D) -> (L, T, D)

    def pooled(self) -> Tensor:
        """(N, L, 2D) float32."""
        pooled: Tensor = self._file.get_tensor("pooled")
        return pooled if self._only is None else pooled[:, self._only : self._only + 1]

    def layer(self, number: int) -> Frames:
        """Layer ``number`` alone."""
        if not 0 <= number < self.num_layers:
            raise ConfigError(f"a layer of {self._name} must be 0 to {self.num_layers - 1}, got {number}")
        return StoredFrames(self._path, name=self._name, only=number if self._only is None else self._only)


def _mapped(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="pt")


class _OutOfRangeError(Exception):
    """A number that float16 cannot hold."""


@dataclass(frozen=True)
class _Work:
    """What is to be computed; see :func:`open_frames`."""

    candidate: Candidate
    items: Items
    settings: StreamSettings
    device: torch.device
    tell: Progress

    def frames(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(row, (L, T, D) float32) of each item, in whatever order is quick."""
        candidate, items = self.candidate, self.items
        return compute(
            candidate.open(self.device), items.manifest, range(len(items)), name=candidate.name,
            precision=candidate.precision, settings=self.settings, device=self.device,
        )  # fmt: skip


def _compute_once(path: Path, work: _Work) -> None:
    _refuse_short(work.candidate, work.items)
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if path.is_file():  # another process was quicker
                draft.unlink(missing_ok=True)
                return
            try:
                _write(stream.fileno(), work)
                os.fsync(stream.fileno())
            except BaseException:
                os.ftruncate(stream.fileno(), 0)  # others may wait for this very file: it stays, and takes no room
                raise
            draft.replace(path)
            flush(path.parent)
    except OSError as error:
        need = frames_bytes(work.candidate, work.items) / _GIB
        raise ConfigError(
            f"{path.parent} must be writable with room for {need:.2f} GiB, the frames of {work.candidate.name}: "
            f"{error}; choose another place with --cache"
        ) from error


def _refuse_short(candidate: Candidate, items: Items) -> None:
    """Before anything is computed.

    Raises:
        AudioError: naming rows that give no frame.
    """
    short = np.flatnonzero(frames_of_rows(candidate, items.manifest) < 1)
    if not len(short):
        return
    least_ms = 1000 * candidate.geometry.receptive_field_samples / candidate.sample_rate_hz
    names = ", ".join(items.manifest.describe(int(row)) for row in short[:_SHOWN])
    more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
    raise AudioError(
        f"every item must last {least_ms:g} ms or more to give a frame of {candidate.name}, {len(short)} do not: "
        f"{names}{more}; take them out of the task, for all candidates are measured on the same items"
    )


def _write(descriptor: int, work: _Work) -> None:
    """Fill the draft: in float16, or from the start again in float32 where a number leaves its range."""
    for dtype in ("fp16", "fp32"):
        layout = _lay_out(work.candidate, frames_of_rows(work.candidate, work.items.manifest), dtype)
        os.ftruncate(descriptor, 0)
        take_room(descriptor, layout.num_bytes)
        write_at(descriptor, 0, layout.head)
        try:
            _fill(descriptor, layout, work)
            return
        except _OutOfRangeError:
            work.tell(-layout.told_s)


@dataclass
class _Layout:
    """Of a file.

    Attributes:
        head: its first bytes.
        starts: of each tensor, in bytes.
        num_bytes: of the whole file.
        num_frames: (N,) T of each item.
        shape: L and D.
        dtype: of frames.
        told_s: seconds of audio that were told to be done.
    """

    head: bytes
    starts: dict[str, int]
    num_bytes: int
    num_frames: NDArray[np.int64]
    shape: tuple[int, int]
    dtype: str
    told_s: float = 0.0


def _lay_out(candidate: Candidate, num_frames: NDArray[np.int64], dtype: str) -> _Layout:
    num, layers, dim = len(num_frames), candidate.num_layers, candidate.dim
    tensors = {
        "num_frames": ("I64", 8, (num,)),
        "pooled": ("F32", 4, (num, layers, 2 * dim)),
        "error_percent": ("F32", 4, (num,)),
        "frames": (_NAMES[dtype], STORED[dtype].itemsize, (layers * int(num_frames.sum()), dim)),
    }
    about = {
        "version": FORMAT_VERSION, "candidate": candidate.name, "digest": candidate.digest, "num_layers": layers,
        "dim": dim, "hop_s": candidate.hop_s, "precision": candidate.precision,
    }  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"probe": json.dumps(about)}}
    starts, end = {}, 0
    for name, (kind, size, shape) in tensors.items():
        starts[name], stop = end, end + size * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, stop]}
        end = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that numbers are aligned
    head = len(text).to_bytes(8, "little") + text
    places = {name: len(head) + start for name, start in starts.items()}
    return _Layout(head, places, len(head) + end, num_frames, (layers, dim), dtype)


def _fill(descriptor: int, layout: _Layout, work: _Work) -> None:
    (layers, dim), manifest = layout.shape, work.items.manifest
    seconds = manifest.durations_s()
    firsts = np.concatenate(([0], np.cumsum(layout.num_frames)[:-1])) * layers
    errors = np.zeros(len(layout.num_frames), dtype="<f4")
    row_bytes = dim * STORED[layout.dtype].itemsize
    for row, frames in work.frames():
        assert frames.shape == (layers, layout.num_frames[row], dim), (row, frames.shape)
        stored = _stored(frames, layout.dtype, manifest.describe(row))
        write_at(descriptor, layout.starts["frames"] + int(firsts[row]) * row_bytes, stored.values)
        pooled = pool(torch.from_numpy(np.ascontiguousarray(frames))).numpy().astype("<f4", copy=False)
        write_at(descriptor, layout.starts["pooled"] + row * pooled.nbytes, pooled)
        error = Error()
        error.add(frames, stored, layout.dtype)
        errors[row] = error.percent
        layout.told_s += float(seconds[row])
        work.tell(float(seconds[row]))
    write_at(descriptor, layout.starts["num_frames"], layout.num_frames.astype("<i8"))
    write_at(descriptor, layout.starts["error_percent"], errors)


def _stored(frames: NDArray[np.float32], dtype: str, name: str) -> Encoded:
    stored = encode(frames, dtype)
    if not isinstance(stored, str):
        return stored
    if np.isfinite(frames).all():
        raise _OutOfRangeError
    raise AudioError(f"{name}: {stored}")
