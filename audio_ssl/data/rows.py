"""One manifest row as the model wants it: the part to read, decoded, resampled, normalised; and the count of bad rows.

The work of one row is a pure function of (manifest, settings, epoch, row), whatever thread or engine runs it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np

from audio_ssl.data.audio import load_segment, normalize
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioError, AudioSSLError, ManifestError, TrainingError
from audio_ssl.rng import numpy_generator

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
        crop: where a crop starts: drawn anew for (seed, epoch, row), or always at 0.
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


def read_row(manifest: Manifest, row: int, *, settings: RowSettings, epoch: int) -> np.ndarray | BadRow:
    """Read, crop, resample and normalise one row.

    Only the cropped part of a long row is decoded.

    Returns:
        (S,) float32 with S = min(``manifest.num_samples_at(rate)[row]``, ``max_samples``), or why it cannot be read.
    """
    utterance = manifest[row]
    model_rate, file_rate = settings.sample_rate_hz, utterance.sample_rate
    length = -(-utterance.num_samples * model_rate // file_rate)
    if length < settings.min_samples:
        return BadRow(row, f"too short: {length} samples at {model_rate} Hz, the model needs {settings.min_samples}")
    start, num_samples, kept = utterance.start, utterance.num_samples, length
    if settings.max_samples is not None and length > settings.max_samples:
        kept = settings.max_samples
        offset = _crop_start(settings, spare=length - kept, epoch=epoch, row=row)
        num_samples = -(-kept * file_rate // model_rate)
        start += min(offset * file_rate // model_rate, utterance.num_samples - num_samples)
    try:
        waveform = load_segment(
            manifest.audio_file(row),
            start=start,
            num_samples=num_samples,
            expected_rate_hz=file_rate,
            sample_rate_hz=model_rate,
        )[:kept]
    except (AudioError, ManifestError) as error:
        return BadRow(row, str(error))
    except Exception as error:  # a decoder's own failure must name the row: the file is the user's
        raise AudioSSLError(f"{manifest.describe(row)} cannot be read: {type(error).__name__}: {error}") from error
    return normalize(waveform) if settings.normalize else waveform


def _crop_start(settings: RowSettings, *, spare: int, epoch: int, row: int) -> int:
    if settings.crop == "start":
        return 0
    return int(numpy_generator(settings.seed, "crop", epoch, row).integers(0, spare + 1))


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
