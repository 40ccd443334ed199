"""Draws what happens to a training row, and reads the noise, the rooms and the other speakers for it.

Every kind has a generator of its own, named by (seed, kind, epoch, row), and by the copy where a row comes again in an
epoch: switching one on changes no other, and rows come out the same in any thread, at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.augment import AugmentConfig
from audio_ssl.data.augment import effects
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.rows import BadRow, Reading, RowSettings, draw_indices, read_stretch
from audio_ssl.errors import ConfigError
from audio_ssl.rng import numpy_generator

MAX_TRIES = 20  # helpers tried in turn before the row itself counts as bad
MAX_RESPONSE_S = 30.0


@dataclass
class _Place:
    """One occurrence of a row in an epoch, and what was read for it."""

    row: int
    epoch: int
    copy: int = 0
    num_helpers: int = 0
    bad_helpers: list[tuple[str, str]] = field(default_factory=list)


class _NoHelperError(Exception):
    """None of the helpers tried can be read."""


class Augmenter:
    """Applies the settings of ``[augment]`` to rows of a manifest.

    Args:
        config: what to do.
        manifest: the training rows.
        usable_rows: (M,) rows, in rising order, that take part, and may be mixed into others.
        settings: of reading; the seed is taken from here.
        min_row_samples: (N,) see :class:`audio_ssl.data.loader.Loader`; None where rows are cropped.

    Raises:
        ConfigError: a setting that cannot work with this model or these manifests; all faults in one message.
        ManifestError: a manifest of noise or impulse responses is missing, broken or was moved.
    """

    def __init__(
        self,
        config: AugmentConfig,
        *,
        manifest: Manifest,
        usable_rows: np.ndarray,
        settings: RowSettings,
        min_row_samples: NDArray[np.int64] | None = None,
    ) -> None:
        _refuse_misfits(config, settings, num_usable=len(usable_rows))
        self._config = config
        self._manifest = manifest
        self._usable_rows = usable_rows
        self._settings = settings
        self._min_row_samples = min_row_samples
        self._noise = _opened(config.noise) if config.noise_prob > 0 else None
        self._rooms = _opened(config.reverb) if config.reverb_prob > 0 else None

    def speed(self, row: int, *, epoch: int, num_samples: int, copy: int = 0) -> float:
        """The factor of a row: drawn among those whose result fits; 1 where none does.

        Args:
            row: its number.
            epoch: of training.
            num_samples: its length at the model's rate, not cropped.
            copy: which of the row's occurrences in the epoch this is.
        """
        if not self._config.speed:
            return 1.0
        fitting = [s for s in self._config.speed if self._fits(row, num_samples, speed=s)]
        if not fitting:
            return 1.0
        return fitting[int(self._generator("speed", _Place(row, epoch, copy)).integers(len(fitting)))]

    def part_and_result(self, num_samples: int, *, speed: float) -> tuple[int, int]:
        """Samples to read of a row of ``num_samples``, and samples that they make at a speed that fits it."""
        if self._min_row_samples is not None:
            return num_samples, effects.samples_after(num_samples, speed=speed)
        kept = num_samples if self._settings.max_samples is None else min(num_samples, self._settings.max_samples)
        return effects.samples_before(kept, speed=speed), kept

    def _fits(self, row: int, num_samples: int, *, speed: float) -> bool:
        """Whole rows: not beyond the longest, and enough frames for the labels; others: enough samples to read."""
        part, result = self.part_and_result(num_samples, speed=speed)
        if self._min_row_samples is None:
            return part <= num_samples
        shortest = max(self._settings.min_samples, int(self._min_row_samples[row]))
        longest = self._settings.max_samples
        return shortest <= result and (longest is None or result <= longest)

    def apply(
        self, waveform: np.ndarray, *, row: int, epoch: int, speed: float, num_samples: int, copy: int = 0
    ) -> Reading:
        """Change a row, in the order of the settings.

        Args:
            waveform: the part that was read, float32 at the model's rate.
            row: its number.
            epoch: of training.
            speed: as drawn.
            num_samples: S, as :meth:`part_and_result` says.
            copy: which of the row's occurrences in the epoch this is.

        Returns:
            (S,) float32, or that the row is bad because too many helpers in a row were; and the helpers read for it.
        """
        place = _Place(row, epoch, copy)
        waveform = effects.change_speed(waveform, speed=speed)[:num_samples]
        result: np.ndarray | BadRow = waveform
        try:
            for change in (self._reverb, self._mix, self._add_noise, self._gain, self._limit_band, self._codec):
                waveform = change(waveform, place)
            result = waveform
        except _NoHelperError as error:
            result = BadRow(row, str(error))
        return Reading(result, place.num_helpers, tuple(place.bad_helpers))

    def _reverb(self, waveform: np.ndarray, place: _Place) -> np.ndarray:
        generator = self._drawn("reverb", self._config.reverb_prob, place)
        if generator is None or self._rooms is None:
            return waveform
        rooms, rate = self._rooms, self._settings.sample_rate_hz

        def read(row: int) -> np.ndarray | BadRow:
            length = rooms.length_of(row, rate)
            if length > MAX_RESPONSE_S * rate:
                return BadRow(
                    row, f"an impulse response must last {MAX_RESPONSE_S:g} s at most, got {length / rate:.3g} s"
                )
            return _refuse_silence(row, read_stretch(rooms, row, offset=0, num_samples=length, sample_rate_hz=rate))

        first = int(generator.integers(len(rooms)))
        response = _first_readable(rooms, _from(first, len(rooms)), read, place=place, what="impulse response")
        return effects.reverberate(waveform, response)

    def _mix(self, waveform: np.ndarray, place: _Place) -> np.ndarray:
        generator = self._drawn("mix", self._config.mix_prob, place)
        half = len(waveform) // 2
        if generator is None or half == 0:
            return waveform
        rows = self._usable_rows
        snr_db = generator.uniform(*self._config.mix_snr_db)
        first = int(generator.integers(len(rows) - 1))
        first += first >= int(np.searchsorted(rows, place.row))  # every other row is as likely
        others = (int(rows[i]) for i in _from(first, len(rows)) if rows[i] != place.row)
        other = _first_readable(
            self._manifest, others, lambda row: self._stretch(self._manifest, row, half, generator),
            place=place, what="other utterance",
        )  # fmt: skip
        length = int(generator.integers(1, len(other) + 1))
        start = int(generator.integers(len(waveform) - length + 1))
        return effects.mix_in(waveform, other, start=start, num_samples=length, snr_db=snr_db)

    def _add_noise(self, waveform: np.ndarray, place: _Place) -> np.ndarray:
        generator = self._drawn("noise", self._config.noise_prob, place)
        if generator is None or self._noise is None:
            return waveform
        source = self._noise
        snr_db = generator.uniform(*self._config.noise_snr_db)
        first = int(generator.integers(len(source)))
        noise = _first_readable(
            source, _from(first, len(source)),
            lambda row: _refuse_silence(row, self._stretch(source, row, len(waveform), generator)),
            place=place, what="noise",
        )  # fmt: skip
        if len(noise) < len(waveform):
            phase = int(generator.integers(len(noise)))
            noise = noise[(phase + np.arange(len(waveform))) % len(noise)]  # (N,) -> (S,)
        return effects.add_noise(waveform, noise, snr_db=snr_db)

    def _gain(self, waveform: np.ndarray, place: _Place) -> np.ndarray:
        if not self._config.has_gain:
            return waveform
        generator = self._generator("gain", place)
        return effects.change_gain(waveform, gain_db=generator.uniform(*self._config.gain_db))

    def _limit_band(self, waveform: np.ndarray, place: _Place) -> np.ndarray:
        generator = self._drawn("band_limit", self._config.band_limit_prob, place)
        if generator is None:
            return waveform
        cutoff_hz = self._config.band_limit_hz[int(generator.integers(len(self._config.band_limit_hz)))]
        return effects.limit_band(waveform, cutoff_hz=cutoff_hz, sample_rate_hz=self._settings.sample_rate_hz)

    def _codec(self, waveform: np.ndarray, place: _Place) -> np.ndarray:
        generator = self._drawn("codec", self._config.codec_prob, place)
        if generator is None:
            return waveform
        codec = self._config.codecs[int(generator.integers(len(self._config.codecs)))]
        return effects.through_codec(waveform, codec=codec, sample_rate_hz=self._settings.sample_rate_hz)

    def _generator(self, kind: str, place: _Place) -> np.random.Generator:
        draw = draw_indices(place.epoch, place.row, place.copy)
        return numpy_generator(self._settings.seed, f"augment/{kind}", *draw)

    def _drawn(self, kind: str, prob: float, place: _Place) -> np.random.Generator | None:
        """The generator of a kind where the row gets it, after that draw."""
        if prob == 0:
            return None
        generator = self._generator(kind, place)
        return generator if generator.random() < prob else None

    def _stretch(
        self, source: Manifest, row: int, num_samples: int, generator: np.random.Generator
    ) -> np.ndarray | BadRow:
        """A random stretch of a row: ``num_samples``, or all where it has fewer."""
        rate = self._settings.sample_rate_hz
        length = source.length_of(row, rate)
        offset = int(generator.integers(max(0, length - num_samples) + 1))
        return read_stretch(source, row, offset=offset, num_samples=min(length, num_samples), sample_rate_hz=rate)


def longest_results(num_samples: NDArray[np.int64], speeds: Sequence[float], *, max_samples: int) -> NDArray[np.int64]:
    """The most samples that whole rows may have after :meth:`Augmenter.speed`: what a plan must count on.

    Args:
        num_samples: (N,) int64, at most ``max_samples``.
        speeds: factors.
        max_samples: no result is longer.
    """
    longest = num_samples
    for speed in speeds:
        result = effects.samples_after(num_samples, speed=speed)
        longest = np.where(result <= max_samples, np.maximum(longest, result), longest)
    return longest


def _refuse_misfits(config: AugmentConfig, settings: RowSettings, *, num_usable: int) -> None:
    faults = []
    too_high = [hz for hz in config.band_limit_hz if 2 * hz >= settings.sample_rate_hz]
    if config.band_limit_prob > 0 and too_high:
        faults.append(
            f"augment.band_limit_hz must be below {settings.sample_rate_hz // 2} Hz, half of the model's rate, got "
            f"{', '.join(map(str, too_high))}"
        )
    if config.codec_prob > 0 and settings.sample_rate_hz < effects.CODEC_RATE_HZ:
        faults.append(
            f"augment.codec_prob must be 0 where the model's rate is below {effects.CODEC_RATE_HZ} Hz, the codecs' "
            f"own, got {config.codec_prob:g} and {settings.sample_rate_hz} Hz"
        )
    if config.has_gain and settings.normalize and config.codec_prob == 0:
        faults.append(
            "augment.gain_db must be left out where the model normalises its input (model.normalize_waveform) and no "
            "codec comes between: it would change nothing"
        )
    if config.mix_prob > 0 and num_usable == 1:
        faults.append(f"augment.mix_prob must be 0 where a single row takes part, got {config.mix_prob:g}")
    if faults:
        raise ConfigError("; ".join(faults))


def _opened(paths: Sequence[Path]) -> Manifest:
    manifest = Manifest.concat([Manifest.read(path) for path in paths])
    if not len(manifest):
        raise ConfigError(f"{', '.join(map(str, paths))} must hold at least one row to augment with, got none")
    manifest.check_root()
    return manifest


def _from(first: int, num_rows: int) -> Iterator[int]:
    """Every index once, from ``first`` on, and from the start again after the last."""
    return ((first + step) % num_rows for step in range(num_rows))


def _first_readable(
    source: Manifest,
    rows: Iterator[int],
    read: Callable[[int], np.ndarray | BadRow],
    *,
    place: _Place,
    what: str,
) -> np.ndarray:
    """The next readable row takes the place of one that is not, which is named.

    Raises:
        _NoHelperError: none of the first ``MAX_TRIES`` is.
    """
    num_tried = 0
    for row, _ in zip(rows, range(MAX_TRIES), strict=False):
        num_tried += 1
        waveform = read(row)
        if not isinstance(waveform, BadRow):
            place.num_helpers += 1
            return waveform
        place.bad_helpers.append((source.describe(row), waveform.reason))
    name, reason = place.bad_helpers[-1]
    raise _NoHelperError(f"no {what} can be read for it: tried {num_tried}, the last was {name}: {reason}")


def _refuse_silence(row: int, waveform: np.ndarray | BadRow) -> np.ndarray | BadRow:
    if isinstance(waveform, BadRow) or effects.power(waveform) > effects.SILENT_POWER:
        return waveform
    return BadRow(row, f"silent: the {len(waveform)} samples drawn of it have no level that could be set")
