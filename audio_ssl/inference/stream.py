"""Utterances through a model: decode in threads while it computes, batches of like length, long ones in windows.

Knows neither embeddings nor text: a ``forward`` turns padded waveforms into frames of whatever meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.plan import eval_batches
from audio_ssl.errors import ConfigError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.jobs import Job, Loaded, Loader, prefetched
from audio_ssl.inference.models import AudioNeeds, Runtime
from audio_ssl.inference.source import Refusal, Source
from audio_ssl.inference.window_error import WindowError, compare, rows_to_measure
from audio_ssl.inference.windows import Window, WindowSettings, plan_windows, resampled_length
from audio_ssl.model.time_stats import TimeStats

Frames = NDArray[np.float32]


class Forward(Protocol):
    """A model for a :class:`Stream`."""

    def __call__(
        self, waveforms: Tensor, num_samples: Tensor, *, is_full: bool, time_stats: TimeStats | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, S) float32 waveforms and (B,) lengths to frames (B, ..., T, X) and their (B,) counts.

        ``is_full`` says that no row is padded; ``time_stats`` are those of the recording that all rows are windows of.
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
        frames: (..., T, X) float32, the kept frames; or all of the window's, from ``window.first_frame`` on.
        window_error: of a recording that was cut, with its last piece, where it was measured.
    """

    row: int
    window: Window
    is_last: bool
    is_windowed: bool
    total_frames: int
    frames: Frames
    window_error: WindowError | None = None


class Stream:
    """A model at work on a source.

    Args:
        source: the utterances.
        forward: the model; called without gradients.
        needs: of the model.
        settings: of batches.
        runtime: device and number format.
        measures_windows: whether to measure what windows cost, on the recordings that
            :func:`~audio_ssl.inference.window_error.rows_to_measure` chooses.
        keeps_overlap: whether pieces hold all frames of their windows, for one who looks where to join them.
    """

    def __init__(
        self,
        source: Source,
        forward: Forward,
        *,
        needs: AudioNeeds,
        settings: StreamSettings,
        runtime: Runtime,
        measures_windows: bool = False,
        keeps_overlap: bool = False,
    ) -> None:
        self._source, self._forward, self._keeps_overlap = source, forward, keeps_overlap
        self._needs, self._settings, self._runtime = needs, settings, runtime
        self._load = Loader(source, needs)
        self._measured: frozenset[int] | None = None if measures_windows else frozenset()

    def run(self, rows: Sequence[int], *, begin: Mapping[int, int] | None = None) -> Iterator[Piece | Refusal]:
        """Frames of each utterance: short ones first, by length; then long ones, each window by window in order.

        Args:
            rows: which utterances.
            begin: of those that are not wanted from their first frame, which is. Batches of windows that end before
                it are left out; the others are as they would be without.

        Yields:
            The pieces of the utterances, and a refusal for each one that cannot be read or is too short. After a
            refusal no piece of that utterance follows.
        """
        whole, long, refused = list[Job](), list[list[Job]](), set[int]()
        for row in rows:
            own = self._jobs(row)
            if own[0].window.keep_to == 0:
                yield self._too_short(row)
            elif len(own) == 1:
                whole += own
            elif self._settings.windows.exact:
                yield self._too_long(row)
            else:
                long.append(own)
        seam = _Seam(self._frames_of, self._needs.geometry, self._needs.sample_rate_hz)
        for batch, results in prefetched(
            self._batches(whole, long, refused, begin or {}), self._load, self._settings.num_threads
        ):
            good: list[Loaded] = []
            for job, result in zip(batch, results, strict=True):
                if isinstance(result, str):
                    if job.row not in refused:
                        refused.add(job.row)
                        yield Refusal(*self._source.name(job.row), reason=result, row=job.row)
                elif job.row not in refused:
                    good.append(result)
            for loaded, piece in zip(good, self._compute(good), strict=True):
                yield seam.look(loaded, piece)

    def _jobs(self, row: int) -> list[Job]:
        windows = plan_windows(
            self._source.num_samples(row), self._settings.windows,
            geometry=self._needs.geometry, from_hz=self._source.rate_hz(row), to_hz=self._needs.sample_rate_hz,
            group_frames=self._needs.group_frames,
        )  # fmt: skip
        last = len(windows) - 1
        seam = (last - 1) // 2 if last > 0 and row in self._rows_to_measure() else None  # in the middle
        return [Job(row, w, i == last, last > 0, i == seam, windows[last].keep_to) for i, w in enumerate(windows)]

    def _rows_to_measure(self) -> frozenset[int]:
        if self._measured is None:
            lengths_s = (self._seconds(row) for row in range(len(self._source)))
            self._measured = rows_to_measure(lengths_s, self._settings.windows)
        return self._measured

    def _batches(
        self, whole: Sequence[Job], long: Sequence[list[Job]], refused: Collection[int], begin: Mapping[int, int]
    ) -> Iterator[list[Job]]:
        limit = max(int(self._settings.batch_s * self._needs.sample_rate_hz), 1)
        lengths = np.array([self._length(job) for job in whole], dtype=np.int64)
        cost = self._runtime.batch_cost_samples(self._needs.sample_rate_hz)
        for batch in eval_batches(lengths, micro_batch_samples=limit, batch_cost_samples=cost):
            yield [whole[i] for i in batch]
        for own in long:
            size = max(limit // max(self._length(job) for job in own), 1)
            for first in range(0, len(own), size):
                jobs = own[first : first + size]
                if own[0].row not in refused and self._stop_frame(jobs[-1]) > begin.get(own[0].row, 0):
                    yield jobs

    def _stop_frame(self, job: Job) -> int:
        return job.window.first_frame + self._needs.geometry.num_frames(self._length(job))

    def _length(self, job: Job) -> int:
        rate = self._source.rate_hz(job.row)
        return resampled_length(job.window.num_samples, from_hz=rate, to_hz=self._needs.sample_rate_hz)

    def _seconds(self, row: int) -> float:
        return self._source.num_samples(row) / self._source.rate_hz(row)

    def _compute(self, good: Sequence[Loaded]) -> list[Piece]:
        frames, counts = self._frames_of(good) if good else (np.empty(0, dtype=np.float32), [])
        pieces = []
        for own, count, loaded in zip(frames, counts, good, strict=True):
            job = loaded.job
            # the kept slice lies inside the valid frames by the arithmetic of windows; never trust it in silence
            assert job.window.kept.stop <= count, (job, count)
            kept = own[..., slice(count) if self._keeps_overlap else job.window.kept, :]
            pieces.append(Piece(job.row, job.window, job.is_last, job.is_windowed, job.total_frames, kept))
        return pieces

    @torch.inference_mode()
    def _frames_of(self, batch: Sequence[Loaded]) -> tuple[Frames, list[int]]:
        """(B, ..., T, X) float32 of a batch, and (B,) valid frames."""
        lengths = [len(loaded.waveform) for loaded in batch]
        padded = torch.zeros(len(batch), max(lengths))
        for row, loaded in zip(padded, batch, strict=True):
            row[: len(loaded.waveform)] = torch.from_numpy(loaded.waveform)
        device, stats = self._runtime.device, batch[0].time_stats  # of one recording, or none
        with self._runtime.autocast():
            frames, num_frames = self._forward(
                padded.to(device), torch.tensor(lengths, device=device),
                is_full=min(lengths) == max(lengths), time_stats=None if stats is None else stats.to(device),
            )  # fmt: skip
        return frames.float().cpu().numpy(), num_frames.tolist()

    def _too_short(self, row: int) -> Refusal:
        least, rate = self._needs.geometry.receptive_field_samples, self._needs.sample_rate_hz
        milliseconds = self._seconds(row) * 1000
        reason = f"it must last {least / rate * 1000:g} ms or more to give a frame, it lasts {milliseconds:g} ms"
        return Refusal(*self._source.name(row), reason=reason, row=row)

    def _too_long(self, row: int) -> Refusal:
        seconds = self._seconds(row)
        reason = (
            f"it must last {self._settings.windows.max_s:g} s (--max-s) or less with --exact, it lasts {seconds:.1f} s "
            f"and would be cut into windows; give --max-s {math.ceil(seconds)} (memory grows with it), cut the "
            "recording into rows of a manifest, or leave out --exact"
        )
        return Refusal(*self._source.name(row), reason=reason, row=row)


class _Seam:
    """The two windows of a recording that the cost of windows is measured on, one after the other.

    Args:
        frames_of: a batch's frames and their counts.
        geometry: samples to frames.
        rate_hz: of the waveforms.
    """

    def __init__(
        self, frames_of: Callable[[Sequence[Loaded]], tuple[Frames, list[int]]], geometry: ConvGeometry, rate_hz: int
    ) -> None:
        self._frames_of, self._geometry, self._rate_hz = frames_of, geometry, rate_hz
        self._left: tuple[Loaded, Frames] | None = None
        self._errors: dict[int, WindowError] = {}

    def look(self, loaded: Loaded, piece: Piece) -> Piece:
        """Take note of the next window of a recording; the error goes with the last one's piece."""
        if self._left is not None:
            (left, left_frames), self._left = self._left, None
            if left.job.row == loaded.job.row:
                self._errors[piece.row] = self._measure(left, loaded, [left_frames, piece.frames])
        if loaded.job.is_left_of_seam:
            self._left = loaded, piece.frames.copy()  # not the batch that it is a part of
        return replace(piece, window_error=self._errors.pop(piece.row, None)) if piece.is_last else piece

    def _measure(self, left: Loaded, right: Loaded, found: Sequence[Frames]) -> WindowError:
        first, second = left.job.window, right.job.window
        shared = (second.first_frame - first.first_frame) * self._geometry.hop_samples
        stretch = np.concatenate([left.waveform[:shared], right.waveform])
        frames, _ = self._frames_of([replace(left, waveform=stretch)])
        kept = slice(first.keep_from - first.first_frame, second.keep_to - first.first_frame)
        return compare(found, frames[0][..., kept, :], over_s=len(stretch) / self._rate_hz)


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
