"""One manifest row as the model wants it: decoded, resampled, augmented, normalised; and the count of bad rows.

The work of one row is a pure function of (manifest, settings, epoch, row, copy), whatever thread or engine runs it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from audio_ssl.data.audio import load_segment
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioError, AudioSSLError, ManifestError, TrainingError
from audio_ssl.rng import numpy_generator

if TYPE_CHECKING:
    from audio_ssl.data.augment.augmenter import Augmenter

logger = logging.getLogger(__name__)

Crop = Literal["random", "start"]
MIN_ASKED = 20  # rows asked for before a share of bad ones means anything
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class RowSettings:
    """How a row becomes a waveform.

    Attributes:
        sample_rate_hz: the model's rate.
        normalize: zero mean, unit variance over the samples that are used (after the crop).
        max_samples: longer rows are cropped to this, at the model's rate; None keeps all.
        min_samples: shorter rows are bad (they give no frame).
        crop: where a crop starts: drawn anew for (seed, epoch, row, copy), or always at 0.
        seed: the run's seed.
    """

    sample_rate_hz: int
    normalize: bool
    max_samples: int | None = None
    min_samples: int = 400
    crop: Crop = "random"
    seed: int = 0


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Reading:
    """What came of reading a row.

    Attributes:
        waveform: (S,) float32, or why there is none.
        num_helpers: rows of noise, impulse responses and other speakers that were read for it.
        bad_helpers: name and reason of each such row that could not be read; the next one took its place.
    """

    waveform: np.ndarray | BadRow
    num_helpers: int = 0
    bad_helpers: tuple[tuple[str, str], ...] = ()


def read_row(
    manifest: Manifest,
    row: int,
    *,
    settings: RowSettings,
    epoch: int,
    copy: int = 0,
    augmenter: Augmenter | None = None,
    place: np.ndarray | None = None,
) -> Reading:
    """Read, crop, resample, augment and normalise one row.

    Only the cropped part of a long row is decoded.

    Args:
        manifest: holds the row.
        row: its number.
        settings: how it becomes a waveform.
        epoch: decides crop and augmentation.
        copy: which of the row's occurrences in the epoch this is, from 0: each has draws of its own.
        augmenter: what to change.
        place: (S',) float32, where the waveform is written if it is no longer than that; the rest is undefined.

    Returns:
        A waveform of S = min(``manifest.num_samples_at(rate)[row]``, ``max_samples``) samples, or why it cannot be
        read. Where the augmenter keeps rows whole, S is what their speed makes of them.
    """
    utterance = manifest[row]
    length = utterance.length_at(settings.sample_rate_hz)
    if length < settings.min_samples:
        said = f"{length} samples at {settings.sample_rate_hz} Hz, the model needs {settings.min_samples}"
        return Reading(BadRow(row, f"too short: {said}"))
    part = kept = length if settings.max_samples is None else min(length, settings.max_samples)
    speed = 1.0 if augmenter is None else augmenter.speed(row, epoch=epoch, num_samples=length, copy=copy)
    if augmenter is not None and speed != 1.0:
        part, kept = augmenter.part_and_result(length, speed=speed)
    offset = _crop_start(settings, spare=length - part, draw=draw_indices(epoch, row, copy)) if part < length else 0
    waveform = _read_part(
        manifest, row, utterance, offset=offset, num_samples=part, sample_rate_hz=settings.sample_rate_hz, out=place
    )
    reading = Reading(waveform)
    if augmenter is not None and not isinstance(waveform, BadRow):
        reading = augmenter.apply(waveform, row=row, epoch=epoch, copy=copy, speed=speed, num_samples=kept)
    if isinstance(reading.waveform, BadRow):
        return reading
    return replace(reading, waveform=_finished(reading.waveform, place, is_normalized=settings.normalize))


def _finished(waveform: np.ndarray, place: np.ndarray | None, *, is_normalized: bool) -> np.ndarray:
    """The waveform as the model wants it: in its place where it fits, else in its own memory."""
    out = waveform if place is None or len(place) < len(waveform) else place[: len(waveform)]
    if is_normalized:
        return normalize(waveform, out=out)
    if not np.may_share_memory(out, waveform):
        out[:] = waveform
    return out


def read_stretch(
    manifest: Manifest, row: int, *, offset: int, num_samples: int, sample_rate_hz: int
) -> np.ndarray | BadRow:
    """Decode a part of a row, and resample it; nothing else is decoded.

    Args:
        manifest: holds the row.
        row: its number.
        offset: first sample, at ``sample_rate_hz``, from the row's start.
        num_samples: samples at ``sample_rate_hz``; offset and number fit ``manifest.length_of``.
        sample_rate_hz: rate of the result.

    Returns:
        (num_samples,) float32, or why it cannot be read.
    """
    return _read_part(
        manifest, row, manifest[row], offset=offset, num_samples=num_samples, sample_rate_hz=sample_rate_hz, out=None
    )


def _read_part(
    manifest: Manifest,
    row: int,
    utterance: Utterance,
    *,
    offset: int,
    num_samples: int,
    sample_rate_hz: int,
    out: np.ndarray | None,
) -> np.ndarray | BadRow:
    """As :func:`read_stretch`, of a row that has been looked up, in memory that may be used (``audio.read_audio``)."""
    file_rate = utterance.sample_rate
    file_samples = min(utterance.num_samples, -(-num_samples * file_rate // sample_rate_hz))
    start = utterance.start + min(offset * file_rate // sample_rate_hz, utterance.num_samples - file_samples)
    try:
        return load_segment(
            manifest.audio_file(row, utterance),
            start=start,
            num_samples=file_samples,
            expected_rate_hz=file_rate,
            sample_rate_hz=sample_rate_hz,
            out=out,
        )[:num_samples]
    except (AudioError, ManifestError) as error:
        return BadRow(row, str(error))
    except Exception as error:  # a decoder's own failure must name the row: the file is the user's
        raise AudioSSLError(f"{manifest.describe(row)} cannot be read: {type(error).__name__}: {error}") from error


def draw_indices(epoch: int, row: int, copy: int) -> tuple[int, ...]:
    """What names the draws of a row; those of its first occurrence are the same wherever it comes once an epoch."""
    return (epoch, row, copy) if copy else (epoch, row)


def _crop_start(settings: RowSettings, *, spare: int, draw: tuple[int, ...]) -> int:
    if settings.crop == "start":
        return 0
    return int(numpy_generator(settings.seed, "crop", *draw).integers(0, spare + 1))


def told_fault(error: Exception) -> str:
    """An error that nobody foresaw in one line: its kind, what it says, and the file and line where it arose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
    return f"unforeseen {type(error).__name__}: {error}{place}"


class BadRows:
    """Rows that could not be read, counted over the life of a run; warns once a row.

    Args:
        max_share: :meth:`add` raises when more than this share of the rows asked for was bad.
    """

    def __init__(self, *, max_share: float = 1.0) -> None:
        self.max_share = max_share
        self.num_asked = 0
        self.num_bad = 0
        self.reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def good(self) -> None:
        """Count a row that was read."""
        with self._lock:
            self.num_asked += 1

    def add(self, name: str, reason: str) -> None:
        """Count a row that could not be read.

        Args:
            name: ``Manifest.describe(row)``.
            reason: why.

        Raises:
            TrainingError: more than ``max_share`` of the rows asked for so far (20 at least) were bad.
        """
        with self._lock:
            self.num_asked += 1
            self.num_bad += 1
            is_new = name not in self.reasons
            self.reasons.setdefault(name, reason)
        if is_new:
            logger.warning("cannot read %s: %s", name, reason)
        if self.num_asked >= MIN_ASKED and self.num_bad > self.max_share * self.num_asked:
            raise TrainingError(
                f"at most {self.max_share:.1%} of the rows may be unreadable (data.max_bad_share), but "
                f"{self.num_bad} of the {self.num_asked} asked for so far were:\n{self.summary()}\nmend or remove "
                "the files, or run `audio-ssl manifest validate FILE --decode` to list them all"
            )

    def summary(self) -> str:
        """The first few rows and reasons, a line each."""
        lines = [f"  - {name}: {reason}" for name, reason in list(self.reasons.items())[:_NAMES_SHOWN]]
        more = len(self.reasons) - len(lines)
        return "\n".join([*lines, f"  - and {more} more"] if more > 0 else lines)

    def __len__(self) -> int:
        return len(self.reasons)
