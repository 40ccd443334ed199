"""Manifests to training data: which rows take part, how long each is at the model's rate, and a loader over them.

A row that does not take part is counted by reason and named; nothing is left out in silence.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config import AugmentConfig, DataConfig
from audio_ssl.data.augment.augmenter import longest_results
from audio_ssl.data.cache import configure_cache
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.plan import eval_batches
from audio_ssl.errors import ManifestError
from audio_ssl.train.distributed import processors_of_a_rank

logger = logging.getLogger(__name__)
NUM_NAMED = 5
NOT_READABLE = "run `audio-ssl manifest validate FILE --decode` to see what is wrong with its files"
WIDTHS_A_SECOND = 4  # batches are padded to quarters of a second: few shapes, little padding
MAX_PREFETCH = 64  # micro-batches read ahead
MOST_READING_THREADS = 8  # by themselves


@dataclass(frozen=True)
class TrainingData:
    """Rows that take part, with their lengths and a loader.

    Attributes:
        manifest: all rows, those left out too.
        rows: (M,) uint32, numbers of the rows that take part.
        num_samples: (M,) int32, the most samples that each may have at the model's rate: its length, cropped to the
            longest allowed; that at the slowest speed where rows with labels are augmented.
        left_out: reason to row numbers.
        loader: decodes rows.
        sample_rate_hz: the model's rate.
    """

    manifest: Manifest
    rows: NDArray[np.uint32]
    num_samples: NDArray[np.int32]
    left_out: Mapping[str, Sequence[int]]
    loader: Loader
    sample_rate_hz: int

    def own_samples(self) -> NDArray[np.int64]:
        """(M,) samples of the rows that take part, after cropping, at their own speed."""
        lengths: NDArray[np.int64] = self.manifest.num_samples_at(self.sample_rate_hz)[self.rows]
        return np.minimum(lengths, self.num_samples, out=lengths)

    @property
    def hours(self) -> float:
        """Hours of the rows that take part, after cropping, at their own speed."""
        return float(self.own_samples().sum()) / self.sample_rate_hz / 3600

    def manifest_rows(self, batch: Iterable[int]) -> tuple[int, ...]:
        """Manifest row numbers of a batch that was planned over ``num_samples``."""
        return tuple(self.rows[list(batch)].tolist())

    def eval_batches(self, micro_batch_s: float) -> list[tuple[int, ...]]:
        """Every row that takes part once, in batches of at most ``micro_batch_s`` seconds, padding included."""
        planned = eval_batches(self.num_samples, micro_batch_samples=round(micro_batch_s * self.sample_rate_hz))
        return [self.manifest_rows(batch) for batch in planned]

    def describe(self) -> str:
        """One line: rows, hours and what was left out, with the first few names."""
        line = f"{len(self.rows)} of {len(self.manifest)} utterances, {self.hours:.2f} h"
        for reason, rows in self.left_out.items():
            names = ", ".join(self.manifest[i].id for i in rows[:NUM_NAMED])
            more = f" and {len(rows) - NUM_NAMED} more" if len(rows) > NUM_NAMED else ""
            line += f"; left out {len(rows)} ({reason}): {names}{more}"
        return line


def reading_threads(asked: int | Literal["auto"]) -> int:
    """What ``data.num_workers`` means here."""
    return min(MOST_READING_THREADS, processors_of_a_rank()) if asked == "auto" else asked


def length_limits(config: DataConfig, sample_rate_hz: int, *, min_samples: int) -> tuple[int, int]:
    """The fewest and the most samples of a row that takes part as it is; see :func:`open_training_data`."""
    return max(min_samples, round(config.min_s * sample_rate_hz)), round(config.max_s * sample_rate_hz)


def open_training_data(
    paths: Sequence[Path],
    config: DataConfig,
    *,
    sample_rate_hz: int,
    normalize: bool,
    min_samples: int,
    seed: int,
    is_train: bool,
    refused: Mapping[str, Sequence[int]] | None = None,
    augment: AugmentConfig | None = None,
    label_samples: NDArray[np.int64] | None = None,
) -> TrainingData:
    """Open manifests and decide which rows take part.

    Args:
        paths: manifest files.
        config: length limits, workers, engine, the bound on bad rows, and where files from elsewhere are kept.
        sample_rate_hz: the model's rate.
        normalize: whether waveforms are normalised.
        min_samples: the shortest input that gives a frame, at the model's rate.
        seed: the run's seed, for random crops.
        is_train: crop at a random place, and let another row stand in where no row of a batch can be read; for
            validation crops are at the start and such a batch is left out.
        refused: reason to rows that the task itself cannot use.
        augment: what to change in training waveforms; nothing is changed for validation.
        label_samples: (N,) int64, the fewest samples that each row's labels need. Labelled rows are not cropped: long
            ones are left out, and another speed changes their length. None: rows are cropped.

    Raises:
        ManifestError: no row takes part, or noise or impulse responses cannot be used.
        ConfigError: ``augment`` does not fit the model or the manifest.
    """
    configure_cache(config.cache_dir, config.cache_gib)
    manifest = Manifest.concat([Manifest.read(path) for path in paths])
    lengths = manifest.num_samples_at(sample_rate_hz)
    shortest, longest = length_limits(config, sample_rate_hz, min_samples=min_samples)
    left_out = {**(refused or {}), f"shorter than {shortest / sample_rate_hz:.3g} s": _where(lengths < shortest)}
    augment = augment if is_train else None
    if label_samples is not None:
        left_out[f"longer than data.max_s = {config.max_s:g} s"] = _where(lengths > longest)
        lengths = longest_results(lengths, augment.speed if augment else (), max_samples=longest)
    left_out = {reason: out for reason, out in left_out.items() if len(out)}
    rows = _remaining(len(manifest), left_out)
    loader = Loader(
        manifest, sample_rate_hz=sample_rate_hz, normalize=normalize, max_samples=longest, min_samples=min_samples,
        crop="random" if is_train else "start", seed=seed, engine=config.engine, max_bad_share=config.max_bad_share,
        num_workers=reading_threads(config.num_workers),
        prefetch=min(MAX_PREFETCH, max(4, 2 * math.ceil(config.batch_s / config.micro_batch_s))),
        replace=is_train, width_multiple=sample_rate_hz // WIDTHS_A_SECOND, usable_rows=rows,
        augment=augment, min_row_samples=label_samples,
    )  # fmt: skip
    lengths = np.minimum(lengths, longest, out=lengths).astype(np.int32)[rows]
    data = TrainingData(manifest, rows, lengths, left_out, loader, sample_rate_hz)
    if not len(rows):
        names = ", ".join(str(path) for path in paths)
        raise ManifestError(f"{names} must hold at least one usable utterance: {data.describe()}")
    return data


def _where(is_out: NDArray[np.bool_]) -> Sequence[int]:
    found: list[int] = np.flatnonzero(is_out).tolist()
    return found


def _remaining(num_rows: int, left_out: Mapping[str, Sequence[int]]) -> NDArray[np.uint32]:
    takes_part = np.ones(num_rows, dtype=bool)
    for rows in left_out.values():
        takes_part[np.asarray(rows)] = False
    return np.flatnonzero(takes_part).astype(np.uint32)
