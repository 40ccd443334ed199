"""Mixtures: which rows an epoch holds, and how often, so that each source has its share of the audio. Pure.

A source, a manifest or a language, is a stream of passes over its rows, each pass in an order of its own. An epoch
takes as many samples of the stream as the source's share of the epoch is, and the next one goes on where it ended. So
everything follows from (rows, shares, seed, epoch): there is no state to save. After any number of epochs all rows of a
source were heard equally often, within one.
This module knows neither audio nor batches: the plan is made of what an epoch holds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.mixture import MixtureConfig
from audio_ssl.data.manifest import Manifest, names_of
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError
from audio_ssl.rng import numpy_generator

VERSION = 1  # raised with every change of what the same arguments give
UNKNOWN = "unknown"  # the source of rows that have no language
MANY_TIMES = 10.0  # an epoch: from there on a run says that a source is repeated a lot


@dataclass(frozen=True, eq=False)
class Source:
    """A share of the epoch.

    Attributes:
        name: file or language.
        places: (R,) uint32, its rows, as places among those that take part, in rising order.
        pass_samples: samples of all its rows together.
        quota_samples: samples of it that an epoch holds.
    """

    name: str
    places: NDArray[np.uint32]
    pass_samples: int
    quota_samples: int

    @property
    def times(self) -> float:
        """How often an epoch goes through the source."""
        return self.quota_samples / self.pass_samples


@dataclass(frozen=True, eq=False)
class Mixture:
    """What each epoch holds.

    Attributes:
        sources: each has its share; together they hold every place once.
        num_samples: (M,) integer, samples of each row that takes part, cropped, at the model's rate.
        seed: the run's seed.
    """

    sources: tuple[Source, ...]
    num_samples: NDArray[Any]
    seed: int

    def epoch(self, epoch: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """What an epoch holds: E occurrences of rows, those of a row beside one another.

        A row belongs to the epoch in which it starts, so the samples of a source in an epoch differ from its quota by
        less than an utterance.

        Args:
            epoch: from 0.

        Returns:
            (E,) places among the rows that take part, in rising order, and (E,) numbers of the occurrence of each row
            within the epoch, from 0.
        """
        counts = np.zeros(len(self.num_samples), dtype=np.int32)
        for i, source in enumerate(self.sources):
            (passes, begun), (passes_before, begun_before) = (
                self._begun(i, e * source.quota_samples) for e in (epoch + 1, epoch)
            )
            counts[source.places] = passes - passes_before
            counts[begun] += 1
            counts[begun_before] -= 1
        places = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
        first = np.repeat(np.cumsum(counts, dtype=np.int64) - counts, counts)  # (M,) -> (E,)
        return places, np.arange(len(places)) - first

    def _begun(self, source_idx: int, position: int) -> tuple[int, NDArray[np.uint32]]:
        """Whole passes before a sample of a source's stream, and the places that start before it in the next pass."""
        source = self.sources[source_idx]
        whole, rest = divmod(position, source.pass_samples)
        if not rest:
            return whole, source.places[:0]
        order = numpy_generator(self.seed, "mixture", source_idx, whole).permutation(source.places)
        ends = np.cumsum(self.num_samples[order], dtype=np.int64)
        return whole, order[: 1 + int(np.searchsorted(ends, rest))]  # one starts where the one before it ends

    @property
    def fingerprint(self) -> bytes:
        """Names what every epoch holds, but for the seed."""
        shares = [(source.name, source.quota_samples) for source in self.sources]
        name = hashlib.blake2b(repr((VERSION, shares)).encode(), digest_size=8)
        for values in (self.num_samples, *(source.places for source in self.sources)):
            name.update(np.ascontiguousarray(values).data)
        return name.digest()

    def describe(self, sample_rate_hz: int) -> str:
        """A line a source: hours held, share of an epoch, passes an epoch; and what is repeated a lot."""
        total = sum(source.quota_samples for source in self.sources)
        hours = 1 / sample_rate_hz / 3600
        lines = [f"mixture, {total * hours:.2f} h an epoch:"]
        lines += [
            f"  {source.name}: {source.pass_samples * hours:.2f} h, {source.quota_samples / total:.1%} of an epoch, "
            f"{source.times:.3g} times"
            for source in self.sources
        ]
        often = [source for source in self.sources if source.times > MANY_TIMES]
        if often:
            names = ", ".join(f"{source.name} ({source.times:.3g} times)" for source in often)
            lines.append(
                f"warning: an epoch repeats every utterance of these sources more than {MANY_TIMES:g} times: {names}. "
                "The model may learn them by heart: lower their share, or raise others' hours"
            )
        return "\n".join(lines)


def open_mixture(
    manifest: Manifest, config: MixtureConfig, *, rows: NDArray[Any], num_samples: NDArray[Any], seed: int
) -> Mixture:
    """Find the sources of a manifest, and give each its share.

    An epoch holds as much audio as all sources together.

    Args:
        manifest: all rows.
        config: what a source is, and what its share follows from.
        rows: (M,) integer, the rows that take part, in rising order; at least one.
        num_samples: (M,) integer, their samples at the model's rate, cropped.
        seed: the run's seed.

    Raises:
        ConfigError: a source has no name of its own, no weight, no usable row or too small a share, or a weight is of
            no source; all in one message.
    """
    names, source_idx = _by_manifest(manifest) if config.by == "manifest" else _by_language(manifest)
    source_idx = source_idx[rows]
    sums = np.bincount(source_idx, weights=num_samples, minlength=len(names))  # exact up to 2^53 samples
    totals = [int(total) for total in sums.tolist()]
    faults = _misnamed(config, names) + _empty(config, names, totals)
    if faults:
        raise ConfigError(listed("data.mixture must share out an epoch among the sources that are there", faults))
    if config.weights is not None:
        shares = shares_by_weight([config.weights[name] for name in names])
    else:
        assert config.temperature is not None  # MixtureConfig checks that one of the two is given
        shares = shares_by_temperature(totals, config.temperature)
    quotas = [round(share * sum(totals)) for share in shares]
    faults = [
        f"the share of {name} must be at least a sample of an epoch's {sum(totals)}, got {share:.3g} of it; raise it"
        for name, share, quota in zip(names, shares, quotas, strict=True)
        if not quota
    ]
    if faults:
        raise ConfigError(listed("data.mixture must give every source a share of an epoch", faults))
    by_source = np.argsort(source_idx, kind="stable").astype(np.uint32)
    parts = np.split(by_source, np.cumsum(np.bincount(source_idx, minlength=len(names)))[:-1])
    sources = (
        Source(name, places, total, quota)
        for name, places, total, quota in zip(names, parts, totals, quotas, strict=True)
    )
    return Mixture(tuple(sources), num_samples, seed)


def shares_by_weight(weights: Sequence[float]) -> list[float]:
    """Shares that add up to 1. Plain floats: numpy's powers and sums differ in their last bit between machines."""
    most = max(weights)
    scaled = [weight / most for weight in weights]  # the sum of large ones is finite
    total = math.fsum(scaled)
    return [value / total for value in scaled]


def shares_by_temperature(totals: Sequence[float], temperature: float) -> list[float]:
    """Shares p_i that follow n_i^alpha with alpha = 1 / temperature, n_i being how much audio source i holds.

    Args:
        totals: samples or hours of each source, > 0.
        temperature: 1 leaves the shares as they are; the larger, the more even.

    Returns:
        Shares that add up to 1.

    Reference: p ~ (n / N)^alpha over languages in XLSR (Conneau et al. 2020, 2006.13979, section 3), over languages
    and again over the corpora of each in XLS-R (Babu et al. 2021, 2111.09296). There batches are drawn at random by
    these shares; here an epoch holds them.
    """
    return shares_by_weight([float(total) ** (1 / temperature) for total in totals])


def _by_manifest(manifest: Manifest) -> tuple[list[str], NDArray[np.int32]]:
    """The name of each source, and (N,) which of them each row is of.

    Raises:
        ConfigError: nothing tells two files apart.
    """
    files, file_idx = manifest.files()
    names = names_of(files)
    same = [str(file) for file, name in zip(files, names, strict=True) if names.count(name) > 1]
    if same:
        raise ConfigError(
            "data.mixture.by = 'manifest' needs manifests of data.train whose names differ in more than their "
            f"extension, got {', '.join(same)}: rename them"
        )
    return names, file_idx


def _by_language(manifest: Manifest) -> tuple[list[str], NDArray[np.int32]]:
    """As :func:`_by_manifest`, by the column ``language``, in the order of the tags."""
    column = manifest.table.column("language")
    encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()  # no Python string a row
    tags = [tag or UNKNOWN for tag in encoded.dictionary.to_pylist()]
    names = sorted(set(tags))
    of_tag = np.array([names.index(tag) for tag in tags], dtype=np.int32)
    return names, of_tag[encoded.indices.to_numpy()]


def _misnamed(config: MixtureConfig, names: Sequence[str]) -> list[str]:
    if config.weights is None:
        return []
    missing = ", ".join(name for name in names if name not in config.weights)
    odd = ", ".join(name for name in config.weights if name not in names)
    if not missing and not odd:
        return []
    said = "; ".join([f"{missing} not named"] * bool(missing) + [f"{odd} not among them"] * bool(odd))
    return [f"data.mixture.weights must name each source by {config.by} ({', '.join(names)}), got {said}"]


def _empty(config: MixtureConfig, names: Sequence[str], totals: Sequence[int]) -> list[str]:
    mend = "leave it out of data.train" if config.by == "manifest" else "take its rows out of the manifests"
    return [
        f"{name} must hold at least one usable utterance, got none; {mend}, or use what is left out (data.min_s, "
        "data.max_s, transcripts)"
        for name, total in zip(names, totals, strict=True)
        if not total
    ]
