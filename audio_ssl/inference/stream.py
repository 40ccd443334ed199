"""Utterances through a model: decode in threads while it computes, batches of like length, long ones in windows.

Knows neither embeddings nor text: a ``forward`` turns padded waveforms into frames of whatever meaning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.plan import eval_batches
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioSSLError, ConfigError
from audio_ssl.inference.models import AudioNeeds, Runtime
from audio_ssl.inference.moments import Moments
from audio_ssl.inference.source import Refusal, Samples, Source
from audio_ssl.inference.windows import Window, WindowSettings, plan_windows, resampled_length

Frames = NDArray[np.float32]


class Forward(Protocol):
    """A model for a :class:`Stream`."""

    def __call__(self, waveforms: Tensor, num_samples: Tensor, *, is_full: bool) -> tuple[Tensor, Tensor]:
        """(B, S) float32 waveforms and (B,) lengths to frames (B, ..., T, X) and their (B,) counts.

        ``is_full`` says that no row is padded.
        """


@dataclass(frozen=True)
class StreamSettings:
    """How utterances are batched and read.

    Attributes:
        batch_s: most seconds in a batch, padding included; a longer utterance goes alone.
        windows: when an utterance is cut.
        num_threads: threads that read and decode.
    """

    batch_s: float = 60.0
    windows: WindowSettings = field(default_factory=WindowSettings)
    num_threads: int = 2

    def __post_init__(self) -> None:
        if not self.batch_s > 0:
            raise ConfigError(f"--batch-s must be > 0 seconds, got {self.batch_s}")


@dataclass(frozen=True)
class Piece:
    """Frames of one window.

    Attributes:
        row: the utterance.
        window: which part of it.
        is_last: whether the utterance is complete with it.
        is_windowed: whether the utterance was cut at all.
        total_frames: frames of the whole utterance.
        frames: (..., T, X) float32, the kept frames.
    """

    row: int
    window: Window
    is_last: bool
    is_windowed: bool
    total_frames: int
    frames: Frames


@dataclass(frozen=True)
class _Job:
    row: int
    window: Window
    is_last: bool
    is_windowed: bool
    total_frames: int


class Stream:
    """A model at work on a source.

    Args:
        source: the utterances.
        forward: the model; called without gradients.
        needs: of the model.
        settings: of batches.
        runtime: device and number format.
    """

    def __init__(
        self, source: Source, forward: Forward, *, needs: AudioNeeds, settings: StreamSettings, runtime: Runtime
    ) -> None:
        self._source, self._forward = source, forward
        self._needs, self._settings, self._runtime = needs, settings, runtime
        self._moments = Moments(source, settings.windows, needs)

    def run(self, rows: Sequence[int]) -> Iterator[Piece | Refusal]:
        """Frames of each utterance: short ones first, by length; then long ones, each window by window in order.

        Args:
            rows: which utterances.

        Yields:
            The pieces of the utterances, and a refusal for each one that cannot be read or is too short. After a
            refusal no piece of that utterance follows.
        """
        jobs = {row: self._jobs(row) for row in rows}
        refused: set[int] = set()
        for row, own in jobs.items():
            if own[0].window.keep_to == 0:
                yield self._too_short(row)
        whole = [row for row, own in jobs.items() if len(own) == 1 and own[0].window.keep_to > 0]
        long = [own for own in jobs.values() if len(own) > 1]
        for batch, waveforms in _prefetched(self._batches(jobs, whole, long), self._load, self._settings.num_threads):
            good: list[tuple[_Job, Samples]] = []
            for job, waveform in zip(batch, waveforms, strict=True):
                if isinstance(waveform, str):
                    if job.row not in refused:
                        refused.add(job.row)
                        yield Refusal(*self._source.name(job.row), reason=waveform, row=job.row)
                elif job.row not in refused:
                    good.append((job, waveform))
            yield from self._compute(good)

    def _jobs(self, row: int) -> list[_Job]:
        windows = plan_windows(
            self._source.num_samples(row), self._settings.windows,
            geometry=self._needs.geometry, from_hz=self._source.rate_hz(row), to_hz=self._needs.sample_rate_hz,
            group_frames=self._needs.group_frames,
        )  # fmt: skip
        last = len(windows) - 1
        return [_Job(row, w, i == last, last > 0, windows[last].keep_to) for i, w in enumerate(windows)]

    def _batches(
        self, jobs: dict[int, list[_Job]], whole: Sequence[int], long: Sequence[list[_Job]]
    ) -> Iterator[list[_Job]]:
        limit = max(int(self._settings.batch_s * self._needs.sample_rate_hz), 1)
        lengths = np.array([self._length(jobs[row][0]) for row in whole], dtype=np.int64)
        cost = self._runtime.batch_cost_samples(self._needs.sample_rate_hz)
        for batch in eval_batches(lengths, micro_batch_samples=limit, batch_cost_samples=cost):
            yield [jobs[whole[i]][0] for i in batch]
        for own in long:
            size = max(limit // max(self._length(job) for job in own), 1)
            for first in range(0, len(own), size):
                yield own[first : first + size]

    def _length(self, job: _Job) -> int:
        rate = self._source.rate_hz(job.row)
        return resampled_length(job.window.num_samples, from_hz=rate, to_hz=self._needs.sample_rate_hz)

    def _load(self, job: _Job) -> Samples | str:
        """The waveform as the model wants it, or the reason why there is none."""
        try:
            waveform = self._source.load(
                job.row, job.window.start, job.window.num_samples, to_hz=self._needs.sample_rate_hz
            )
            if not np.isfinite(waveform).all():
                return f"{self._source.name(job.row)[0]} must hold finite samples, it holds NaN or infinity"
            if not self._needs.normalize:
                return waveform
            if not job.is_windowed:
                return normalize(waveform)
            mean, std = self._moments.of(job.row)
            return ((waveform - mean) / std).astype(np.float32)
        except (AudioSSLError, OSError) as error:
            return str(error)

    @torch.inference_mode()
    def _compute(self, good: Sequence[tuple[_Job, Samples]]) -> list[Piece]:
        if not good:
            return []
        lengths = [len(waveform) for _, waveform in good]
        padded = torch.zeros(len(good), max(lengths))
        for i, (_, waveform) in enumerate(good):
            padded[i, : len(waveform)] = torch.from_numpy(waveform)
        device, is_full = self._runtime.device, min(lengths) == max(lengths)
        with self._runtime.autocast():
            frames, num_frames = self._forward(padded.to(device), torch.tensor(lengths, device=device), is_full=is_full)
        on_cpu, counts = frames.float().cpu().numpy(), num_frames.tolist()
        pieces = []
        for i, (job, _) in enumerate(good):
            # the kept slice lies inside the valid frames by the arithmetic of windows; never trust it in silence
            assert job.window.kept.stop <= counts[i], (job, counts[i])
            kept = on_cpu[i][..., job.window.kept, :]
            pieces.append(Piece(job.row, job.window, job.is_last, job.is_windowed, job.total_frames, kept))
        return pieces

    def _too_short(self, row: int) -> Refusal:
        least, rate = self._needs.geometry.receptive_field_samples, self._needs.sample_rate_hz
        seconds = self._source.num_samples(row) / self._source.rate_hz(row)
        reason = f"it must last {least / rate * 1000:g} ms or more to give a frame, it lasts {seconds * 1000:g} ms"
        return Refusal(*self._source.name(row), reason=reason, row=row)


def joined(pieces: Iterable[Piece | Refusal]) -> Iterator[tuple[int, Frames] | Refusal]:
    """Whole utterances: the kept frames of all their windows, one after another along the frame axis."""
    parts: dict[int, list[Frames]] = {}
    for piece in pieces:
        if isinstance(piece, Refusal):
            parts.pop(-1 if piece.row is None else piece.row, None)
            yield piece
        elif not piece.is_last:
            parts.setdefault(piece.row, []).append(piece.frames)
        else:
            yield piece.row, np.concatenate([*parts.pop(piece.row, []), piece.frames], axis=-2)


def _prefetched(
    batches: Iterable[list[_Job]], load: Callable[[_Job], Samples | str], num_threads: int, *, ahead: int = 2
) -> Iterator[tuple[list[_Job], list[Samples | str]]]:
    """Load the waveforms of each batch in threads, at most ``ahead`` batches before they are asked for."""
    pool = ThreadPoolExecutor(max(num_threads, 1), thread_name_prefix="decode")
    waiting: deque[tuple[list[_Job], list[Future[Samples | str]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(load, job) for job in batch]))
            if len(waiting) > ahead:
                ready, futures = waiting.popleft()
                yield ready, [future.result() for future in futures]
        while waiting:
            ready, futures = waiting.popleft()
            yield ready, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
