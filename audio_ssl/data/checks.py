"""Is this file audio that a model can use? Looks at one file and says what it is, or why it is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

import numpy as np
import soundfile as sf

from audio_ssl.data.addresses import RemoteFile
from audio_ssl.data.audio import AudioInfo, info_of, is_fallback, open_sound, probe
from audio_ssl.data.cache import current_cache
from audio_ssl.data.packed import AudioFile, PackedFile, open_bytes, size_bytes
from audio_ssl.data.remote import OutsideShardError, TransferError
from audio_ssl.errors import AudioError

ReadAt = Callable[[int, int], bytes]
Check = Literal["headers", "ends", "full"]
EMPTY = "empty file"
NOT_AUDIO = "not audio"
NO_DECODER = "no decoder"
UNREADABLE = "unreadable"
TRUNCATED = "truncated"
TOO_SHORT = "too short"
NOT_FINITE = "NaN or infinity"
SILENT = "silent"
MIN_DURATION_S = 0.025  # 400 samples at 16 kHz: the receptive field of the usual feature encoder, one frame
_TAIL_SAMPLES = {"FLAC": 1024, "WAV": 1024, "MP3": 4 * 1152}
_BLOCK_SAMPLES = 1 << 20
_HEAD_BYTES = 4096
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # the largest page
_ROWS_NAMED = 5
_STREAMED_SIZE = 0x7FFF0000  # writers that cannot seek leave a placeholder about this large in the WAV header


@dataclass(frozen=True)
class Refusal:
    """A file (or an entry about one) that stays out of the manifest.

    Attributes:
        path: relative to the scanned folder, or absolute.
        reason: one of a few kinds, to count by.
        detail: what was found.
    """

    path: str
    reason: str
    detail: str


def with_rows(refusal: Refusal, ids: Sequence[str]) -> Refusal:
    """The refusal of a file that also says which rows stay out with it.

    Args:
        refusal: of the file.
        ids: of its segments.
    """
    names = ", ".join(ids[:_ROWS_NAMED])
    more = f" and {len(ids) - _ROWS_NAMED} more" if len(ids) > _ROWS_NAMED else ""
    return replace(refusal, detail=f"{refusal.detail}; with it {len(ids)} segments stay out: {names}{more}")


def inspect_file(path: AudioFile, *, name: str, check: Check) -> AudioInfo | Refusal:
    """Look at one file.

    Args:
        path: the file, or the part of a shard that is one; here or elsewhere.
        name: how messages and the refusal call it.
        check: ``headers``: the header alone; ``ends``: the last samples too (FLAC, WAV, MP3), and all samples where
            they are stored as floats, since only those can be NaN; ``full``: decode everything, refuse silence too.

    Returns:
        What it is, with a length that decoding bears out, or why it is refused.
    """
    found = _inspected(path, name=name, check=check)
    if isinstance(found, Refusal) and isinstance(path, RemoteFile) and current_cache().discard(path):
        return _inspected(path, name=name, check=check)  # what was kept may be mended elsewhere
    return found


def _inspected(path: AudioFile, *, name: str, check: Check) -> AudioInfo | Refusal:
    try:
        name.encode("utf-8")  # first: no list could hold the name of an empty file either
        size = size_bytes(path)
        return _without_bytes(path, size, name=name) or _looked_into(path, size, name=name, check=check)
    except IsADirectoryError:
        return Refusal(name, NOT_AUDIO, "it is a folder")
    except AudioError as error:
        return Refusal(name, _reason(path, error), _detail(error))
    except sf.LibsndfileError as error:
        return Refusal(name, TRUNCATED, f"decoding fails: {error.error_string}")
    except UnicodeEncodeError:
        return Refusal(os.fsencode(name).decode("utf-8", "backslashreplace"), UNREADABLE, "its path is not UTF-8")
    except OSError as error:
        return Refusal(name, UNREADABLE, error.strerror or str(error))


def _reason(path: AudioFile, error: AudioError) -> str:
    if isinstance(error, TransferError):
        return TRUNCATED if isinstance(error, OutsideShardError) else UNREADABLE
    return NO_DECODER if is_fallback(path) else NOT_AUDIO


def _without_bytes(path: AudioFile, size: int, *, name: str) -> Refusal | None:
    if size == 0:
        return Refusal(name, EMPTY, "zero bytes")
    fault = path.fault(path.path.stat().st_size) if isinstance(path, PackedFile) else None
    return None if fault is None else Refusal(name, TRUNCATED, f"{path}: {fault}")


def _looked_into(path: AudioFile, size: int, *, name: str, check: Check) -> AudioInfo | Refusal:
    if is_fallback(path):  # probe decodes what librosa opens
        info = probe(path)
        return _too_short(info, name=name) or info
    with _opened(path) as (sound, read_at):
        info = info_of(sound)
        refusal = _too_short(info, name=name)
        if refusal is not None:
            return refusal
        missing = _missing_bytes(read_at, size, info.container)
        if missing:
            return Refusal(name, TRUNCATED, f"{missing} bytes are missing at the end")
        if check == "headers":
            return info
        if check == "full" or info.encoding in ("FLOAT", "DOUBLE"):
            return _decoded(sound, info, name=name, refuse_silence=check == "full")
        return _with_true_end(sound, info, name=name)


@contextmanager
def _opened(path: AudioFile) -> Iterator[tuple[sf.SoundFile, ReadAt]]:
    """The decoder of a file, and a function of (count, offset) that reads its bytes; a file here is opened once.

    Opening is most of the work with a small file, and soundfile opens one file at a time, whatever the number of
    threads. So the system is asked for the file, and for its first bytes, before soundfile is.
    """
    if not isinstance(path, Path):
        with open_sound(path) as sound, open_bytes(path) as stream:
            yield sound, lambda count, offset: _read_at(stream, count, offset)
        return
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        os.pread(descriptor, _HEAD_BYTES, 0)
        with _by_descriptor(descriptor) or open_sound(path) as sound:
            yield sound, lambda count, offset: os.pread(descriptor, count, offset)


def _by_descriptor(descriptor: int) -> sf.SoundFile | None:
    """None where the name is needed: libsndfile takes .au and .snd without a header for what their names say."""
    try:
        return sf.SoundFile(descriptor, closefd=False)
    except sf.LibsndfileError:
        return None


def _read_at(stream: IO[bytes], count: int, offset: int) -> bytes:
    stream.seek(offset)
    return stream.read(count)


def _too_short(info: AudioInfo, *, name: str) -> Refusal | None:
    if info.num_samples >= max(1, MIN_DURATION_S * info.sample_rate):
        return None
    return Refusal(
        name, TOO_SHORT, f"{info.num_samples} samples at {info.sample_rate} Hz; a frame needs {MIN_DURATION_S} s"
    )


def _with_true_end(sound: sf.SoundFile, info: AudioInfo, *, name: str) -> AudioInfo | Refusal:
    """Read the last samples: a truncated FLAC fails here, and an MP3's header may be off by a few frames."""
    wanted = min(_TAIL_SAMPLES.get(info.container, 0), info.num_samples)
    if not wanted:  # Ogg says its length on its last page, which has been looked at
        return info
    promised = f"the header promises {info.num_samples} samples, but the last"
    try:
        sound.seek(info.num_samples - wanted)
        found = len(sound.read(wanted, dtype="float32"))
    except sf.LibsndfileError as error:
        return Refusal(name, TRUNCATED, f"{promised} cannot be decoded ({error.error_string})")
    if found == wanted or (found and info.container == "MP3"):
        return replace(info, num_samples=info.num_samples - wanted + found)
    return Refusal(name, TRUNCATED, f"{promised} are not there")


def _decoded(sound: sf.SoundFile, info: AudioInfo, *, name: str, refuse_silence: bool) -> AudioInfo | Refusal:
    found, peak = 0, 0.0
    for block in sound.blocks(_BLOCK_SAMPLES, dtype="float32", always_2d=True):
        is_finite = np.isfinite(block).all(axis=1)
        if not is_finite.all():
            return Refusal(name, NOT_FINITE, f"first at sample {found + int(np.argmin(is_finite))}")
        found += len(block)
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
    if found != info.num_samples and info.container != "MP3":
        return Refusal(name, TRUNCATED, f"the header promises {info.num_samples} samples, decoding gives {found}")
    if refuse_silence and peak == 0.0:
        return Refusal(name, SILENT, f"all {found} samples are zero")
    return replace(info, num_samples=found)


def _missing_bytes(read_at: ReadAt, size: int, container: str) -> int:
    """Bytes that headers promise beyond the end of the file; libsndfile silently takes what is there."""
    if container.startswith("WAV"):
        return _missing_wav_bytes(read_at, size)
    return _missing_ogg_bytes(read_at, size) if container == "OGG" else 0


def _missing_ogg_bytes(read_at: ReadAt, size: int) -> int:
    """What the last page lacks. Reference: RFC 3533 section 6: 27 bytes, then one byte a segment with its length."""
    tail = read_at(_OGG_PAGE_BYTES, max(0, size - _OGG_PAGE_BYTES))
    start = tail.rfind(b"OggS")
    if start < 0:
        return 0
    num_segments = tail[start + 26] if len(tail) > start + 26 else 0
    lengths = tail[start + 27 : start + 27 + num_segments]
    body = sum(lengths) if len(lengths) == num_segments else 1
    return max(0, start + 27 + num_segments + body - len(tail))


def _missing_wav_bytes(read_at: ReadAt, size: int) -> int:
    head, first = read_at(_HEAD_BYTES, 0), 0  # bytes of the file from the first on
    if head[:4] != b"RIFF":
        return 0
    at = 12
    while True:
        if at + 8 > first + len(head):
            head, first = read_at(8, at), at
            if len(head) < 8:
                return 0
        length = int.from_bytes(head[at - first + 4 : at - first + 8], "little")
        if head[at - first : at - first + 4] == b"data":
            return max(0, at + 8 + length - size) if length < _STREAMED_SIZE else 0
        at += 8 + length + length % 2


def _detail(error: AudioError) -> str:
    return str(error).partition("must be readable audio: ")[2] or str(error)
