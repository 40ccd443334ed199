"""Audio files to mono float32 waveforms at the model's rate.

Decoding is soundfile's (WAV, FLAC, Ogg-Vorbis, Ogg-Opus, MP3 ...); what it cannot open (.m4a, .webm ...) goes through
librosa. This module knows no batches and no model.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeGuard

import numpy as np
import soundfile as sf

from audio_ssl.data.addresses import RemoteFile
from audio_ssl.data.cache import current_cache
from audio_ssl.data.packed import AudioFile, PackedFile, open_bytes
from audio_ssl.data.waveform import resample
from audio_ssl.errors import AudioError, ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest

SOUNDFILE_EXTENSIONS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"}
    | {".au", ".snd", ".sph", ".w64", ".caf", ".rf64"}
)
FALLBACK_EXTENSIONS = frozenset([".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma", ".amr", ".3gp", ".ac3"])
AUDIO_EXTENSIONS = SOUNDFILE_EXTENSIONS | FALLBACK_EXTENSIONS


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        num_samples: samples a channel.
        sample_rate: in Hz.
        num_channels: channels.
        container: such as ``WAV``, ``FLAC``, ``OGG``; ``other`` through librosa.
        encoding: such as ``PCM_16``, ``FLOAT``, ``OPUS``; ``other`` through librosa.
    """

    num_samples: int
    sample_rate: int
    num_channels: int
    container: str
    encoding: str


def probe(path: str | AudioFile) -> AudioInfo:
    """Read a file's header. Files that only librosa opens are decoded, since their headers give no exact length.

    Raises:
        AudioError: missing, empty, or not audio that any decoder here can open.
    """
    path = Path(path) if isinstance(path, str) else path
    if is_fallback(path):
        waveform, rate = _decode_whole(path)
        return AudioInfo(waveform.shape[-1], rate, 1, "other", "other")
    with open_sound(path) as sound:
        return info_of(sound)


def info_of(sound: sf.SoundFile) -> AudioInfo:
    """What an open file's header says."""
    return AudioInfo(sound.frames, sound.samplerate, sound.channels, sound.format, sound.subtype)


def read_audio(
    path: str | AudioFile, *, start: int = 0, num_samples: int | None = None, out: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """Decode a file or a part of it.

    Args:
        path: audio file, or a part of a shard; here or elsewhere.
        start: first sample, at the file's own rate.
        num_samples: samples to read, at the file's own rate; None for all up to the end.
        out: (S',) float32, memory that may be used for the result where it is long enough.

    Returns:
        (S,) float32 mono (mean of the channels), and the file's own rate in Hz.

    Raises:
        AudioError: the file cannot be decoded, ends too early, holds NaN or infinity, or does not come.
    """
    path = Path(path) if isinstance(path, str) else path
    if start < 0:
        raise AudioError(f"{path} must be read from sample 0 or a later one, got {start}")
    try:
        return _read(path, start=start, num_samples=num_samples, out=out)
    except AudioError:
        # what is kept may be a transfer that was cut off unseen, or may have been mended since
        if not isinstance(path, RemoteFile) or not current_cache().discard(path):
            raise
    return _read(path, start=start, num_samples=num_samples, out=out)


def _read(path: AudioFile, *, start: int, num_samples: int | None, out: np.ndarray | None) -> tuple[np.ndarray, int]:
    if is_fallback(path):
        whole, rate = _decode_whole(path)
        end = None if num_samples is None else start + num_samples
        decoded = _Decoded(min(start, len(whole)), whole[start:end], rate, num_samples)
    else:
        decoded = _decode_with_soundfile(path, start=start, num_samples=num_samples, out=out)
    waveform = decoded.waveform
    if decoded.num_samples is not None and len(waveform) != decoded.num_samples:
        raise AudioError(
            f"{path} must hold samples {start} to {start + decoded.num_samples}, but decoding ends at "
            f"{decoded.first + len(waveform)}: it is truncated, or has changed since the manifest was built"
        )
    if not decoded.is_from_integers and not np.isfinite(waveform).all():
        bad = int(np.flatnonzero(~np.isfinite(waveform))[0])
        raise AudioError(f"{path} must hold finite samples, but sample {start + bad} is {waveform[bad]}")
    return waveform, decoded.rate


class _Decoded(NamedTuple):
    """What a decoder gave.

    Attributes:
        first: sample that decoding began at: the one asked for, or the file's end.
        waveform: (S,) float32 mono.
        rate: the file's own, in Hz.
        num_samples: samples that must have come; None where nothing was promised (MP3 headers without a length).
        is_from_integers: the file holds integers, so none can be NaN.
    """

    first: int
    waveform: np.ndarray
    rate: int
    num_samples: int | None
    is_from_integers: bool = False


def load_waveform(manifest: Manifest, row: int, *, sample_rate_hz: int) -> np.ndarray:
    """A manifest row as a waveform at the model's rate.

    Returns:
        (S,) float32 mono, S = ``manifest.num_samples_at(sample_rate_hz)[row]``.

    Raises:
        AudioError: as :func:`read_audio`, or the file's rate is not the manifest's.
        ManifestError: the row's path leaves the root.
    """
    utterance = manifest[row]
    return load_segment(
        manifest.audio_file(row),
        start=utterance.start,
        num_samples=utterance.num_samples,
        expected_rate_hz=utterance.sample_rate,
        sample_rate_hz=sample_rate_hz,
    )


def write_row(manifest: Manifest, row: int, path: Path) -> None:
    """Write a manifest row as a WAV file (mono, 16 bit, at the file's own rate), whole or not at all.

    Raises:
        AudioError: as :func:`load_waveform`.
        ManifestError: the name does not end in .wav, or the place cannot be written.
    """
    from audio_ssl.data.manifest_io import replaced_file

    if path.suffix.lower() != ".wav":
        raise ManifestError(f"the file for a row's audio must end in .wav, got {path}")
    rate = manifest[row].sample_rate
    waveform = load_waveform(manifest, row, sample_rate_hz=rate)
    with replaced_file(path) as draft:
        try:
            sf.write(draft, waveform, rate, format="WAV", subtype="PCM_16")
        except sf.LibsndfileError as error:
            raise OSError(error.error_string) from error


def load_segment(
    path: AudioFile,
    *,
    start: int,
    num_samples: int,
    expected_rate_hz: int,
    sample_rate_hz: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decode a segment given at its file's own rate, and resample it.

    ``out`` is as in :func:`read_audio`.

    Returns:
        (S,) float32 mono at ``sample_rate_hz``, S = ceil(num_samples * sample_rate_hz / expected_rate_hz).

    Raises:
        AudioError: as :func:`read_audio`, or the file's rate is not ``expected_rate_hz``.
    """
    waveform, rate = read_audio(path, start=start, num_samples=num_samples, out=out)
    if rate != expected_rate_hz:
        raise AudioError(
            f"{path} must have the manifest's rate of {expected_rate_hz} Hz, got {rate} Hz: it has changed since the "
            "manifest was built; build it again"
        )
    return resample(waveform, from_hz=rate, to_hz=sample_rate_hz)


def is_fallback(path: AudioFile) -> TypeGuard[Path | RemoteFile]:
    """True for files that only librosa opens; it needs a file of its own, so none lies in a shard."""
    if isinstance(path, RemoteFile):
        return path.offset is None and path.address.suffix in FALLBACK_EXTENSIONS
    return isinstance(path, Path) and path.suffix.lower() in FALLBACK_EXTENSIONS


class _Sound(sf.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A file to be read from its place on: the base class asks for the place and sets it anew around every read.

    Attributes:
        is_read_on: leave that out. What is asked for is then read as far as it goes; it must have a length.
    """

    is_read_on = False

    def seekable(self) -> bool:
        return not self.is_read_on and bool(super().seekable())


@contextmanager
def open_sound(path: AudioFile) -> Iterator[_Sound]:
    """A file, or a part of a shard, opened by soundfile.

    Raises:
        AudioError: missing, empty, not audio that soundfile knows, outside its shard, or elsewhere and does not come.
    """
    if isinstance(path, RemoteFile):
        with current_cache().opened(path) as copy, _opened(copy.stream.fileno(), path) as sound:
            yield sound
        return
    if isinstance(path, PackedFile):
        # libsndfile asks for bytes through Python here, which costs little: 1000 files of 3 s each, warm, took 0.42 s
        # from a shard and 0.40 s as files (FLAC), 2.86 and 2.79 (Opus), 0.67 and 0.62 (MP3), 0.14 and 0.11 (WAV)
        try:
            with open_bytes(path) as stream, _opened(stream, path) as sound:
                yield sound
        except OSError as error:
            raise AudioError(f"{path} must be readable audio: {_reason(path.path, error)}") from error
        return
    with _opened(path, path) as sound:
        yield sound


def _opened(source: Path | int | IO[bytes], path: AudioFile) -> _Sound:
    try:
        return _Sound(source, closefd=False)
    except (sf.LibsndfileError, OSError, TypeError) as error:
        place = path.path if isinstance(path, PackedFile) else source
        assert isinstance(place, Path | int)
        raise AudioError(f"{path} must be readable audio: {_reason(place, error)}") from error


def _decode_with_soundfile(path: AudioFile, *, start: int, num_samples: int | None, out: np.ndarray | None) -> _Decoded:
    with open_sound(path) as file:
        first = min(start, file.frames)
        if num_samples is None and file.format != "MP3":
            num_samples = max(0, file.frames - start)
        is_integer = file.subtype.startswith("PCM_")
        try:
            if start:
                file.seek(first)
            file.is_read_on = num_samples is not None
            wanted = -1 if num_samples is None else min(num_samples, file.frames - first)
            if out is not None and 0 <= wanted <= len(out) and file.channels == 1:
                return _Decoded(first, file.read(out=out[:wanted]), file.samplerate, num_samples, is_integer)
            frames = file.read(wanted, dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            raise AudioError(f"{path} must decode to the end: {error.error_string}") from error
        mono = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)  # (S, channels) -> (S,)
        waveform = np.ascontiguousarray(mono, dtype=np.float32)
        return _Decoded(first, waveform, file.samplerate, num_samples, is_integer)


def _decode_whole(path: Path | RemoteFile) -> tuple[np.ndarray, int]:
    """Through librosa, which opens files by name: one that is kept may go away between fetching and opening."""
    if isinstance(path, Path):
        return _decode_with_librosa(path, path)
    while True:
        with current_cache().opened(path) as copy:
            try:
                return _decode_with_librosa(copy.path, path)
            except AudioError:
                if copy.path.exists():  # else it was taken away, and is fetched again
                    raise


def _decode_with_librosa(path: Path, name: AudioFile) -> tuple[np.ndarray, int]:
    import librosa

    _silence_librosa()
    try:
        waveform, rate = librosa.load(path, sr=None, mono=True, dtype=np.float32)
    except Exception as error:  # audioread's back ends raise their own kinds; each means that the file did not open
        detail = str(error) or type(error).__name__
        raise AudioError(
            f"{name} must be readable audio: {_reason(path, error) if not path.is_file() else detail}. "
            f"{path.suffix} needs a decoder that is not here: install ffmpeg, or convert the file to FLAC"
        ) from error
    return np.asarray(waveform, dtype=np.float32), int(rate)


@functools.cache
def _silence_librosa() -> None:
    """Taking audioread's path is our decision: its warnings tell users nothing that they can mend."""
    warnings.filterwarnings("ignore", message="PySoundFile failed", category=UserWarning)
    warnings.filterwarnings("ignore", message=r"(?s).*__audioread_load", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="audioread")


def _reason(place: Path | int, error: Exception) -> str:
    """Why a file, or one that is open already, cannot be read."""
    if isinstance(place, Path):
        if not place.exists():
            return "there is no such file"
        if place.is_dir():
            return "it is a folder"
    if os.stat(place).st_size == 0:  # noqa: PTH116 - a Path knows no open files
        return "the file is empty (zero bytes)"
    if isinstance(error, sf.LibsndfileError):
        return str(error.error_string)
    return str(error)
