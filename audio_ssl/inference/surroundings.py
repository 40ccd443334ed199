"""Surroundings that an utterance's embedding must not hang on: mates, order, padding, threads; see ``invariance``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_ssl.inference.source import Samples, Source
from audio_ssl.inference.stream import Forward, StreamSettings

Wrap: TypeAlias = Callable[[Forward], Forward]
_THREADS = (0, 1, 2, 4)


@dataclass(frozen=True)
class Surroundings:
    """How utterances are embedded.

    Attributes:
        what: for people.
        runs: the utterances of each run.
        settings: of each run.
        wraps: each run is made once with each; what is done to every batch before the model sees it, and undone after.
    """

    what: str
    runs: Sequence[Sequence[int]]
    settings: StreamSettings
    wraps: Sequence[Wrap]


@dataclass(frozen=True)
class Clipped:
    """A source whose utterances end after some seconds.

    Attributes:
        source: the utterances.
        most_s: the longest that is left.
    """

    source: Source
    most_s: float

    def __len__(self) -> int:
        return len(self.source)

    def num_samples(self, row: int) -> int:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return min(self.source.num_samples(row), int(self.most_s * self.source.rate_hz(row)))

    def rate_hz(self, row: int) -> int:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return self.source.rate_hz(row)

    def name(self, row: int) -> tuple[str, str]:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return self.source.name(row)

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return self.source.load(row, start, num_samples, to_hz=to_hz)


def as_it_is(forward: Forward) -> Forward:
    """Nothing is done."""
    return forward


def all_surroundings(ranked: Sequence[int], settings: StreamSettings) -> Iterator[Surroundings]:
    """What there is to look at.

    Args:
        ranked: the utterances, shortest first.
        settings: of batches that hold several of them.
    """
    plain, half = (as_it_is,), (len(ranked) + 1) // 2
    if len(ranked) > 1:
        pairs = [[short, long] for short, long in zip(ranked[:half], ranked[::-1], strict=False)]
        yield Surroundings("in the batches of extract", [ranked], settings, plain)
        yield Surroundings("in other orders", [ranked], settings, (_turned, _rotated))
        yield Surroundings("short beside long", pairs, settings, plain)
    yield Surroundings("beside silence and noise", [ranked], settings, (_between_silence_and_noise,))
    yield Surroundings("with more padding", [ranked], settings, (_padded_by_one, _padded_by_half))
    for threads in _THREADS:
        yield Surroundings(f"reading threads: {threads}", [ranked], replace(settings, num_threads=threads), plain)


def _turned(forward: Forward) -> Forward:
    return _reordered(forward, lambda rows: rows.flip(0))


def _rotated(forward: Forward) -> Forward:
    return _reordered(forward, lambda rows: rows.roll(1))


def _reordered(forward: Forward, order: Callable[[Tensor], Tensor]) -> Forward:
    def run(waveforms: Tensor, num_samples: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
        rows = order(torch.arange(len(waveforms), device=waveforms.device))
        frames, num_frames = forward(waveforms[rows], num_samples[rows], **settings)
        back = rows.argsort()
        return frames[back], num_frames[back]

    return run


def _between_silence_and_noise(forward: Forward) -> Forward:
    def run(waveforms: Tensor, num_samples: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
        silence, loud = torch.zeros_like(waveforms[:1]), torch.ones_like(waveforms[:1])
        loud[:, ::2] = -1.0  # full scale, all of it
        width = torch.tensor([waveforms.shape[1]], device=num_samples.device)
        rows, lengths = torch.cat([silence, waveforms, loud]), torch.cat([width, num_samples, width])
        frames, num_frames = forward(rows, lengths, **settings)
        return frames[1:-1], num_frames[1:-1]

    return run


def _padded_by_one(forward: Forward) -> Forward:
    return _padded(forward, lambda _: 1)


def _padded_by_half(forward: Forward) -> Forward:
    return _padded(forward, lambda width: width // 2)


def _padded(forward: Forward, more: Callable[[int], int]) -> Forward:
    def run(waveforms: Tensor, num_samples: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
        padded = F.pad(waveforms, (0, more(waveforms.shape[1])))
        return forward(padded, num_samples, **{**settings, "is_full": False})

    return run
