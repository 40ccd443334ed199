"""Embeddings of many utterances into a folder: shard by shard, by any number of processes; continues where it stopped.

Bounded memory: batches are bounded in seconds, a long recording is written window by window, and of a million rows only
what is done is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError
from audio_ssl.inference.folder import OutputFolder
from audio_ssl.inference.index import FolderIndex
from audio_ssl.inference.layers import LayerChoice, LayerForward
from audio_ssl.inference.models import AudioNeeds, Runtime
from audio_ssl.inference.precision_error import PrecisionError, measure_precision_error, stated_error
from audio_ssl.inference.ranks import Rank
from audio_ssl.inference.rows import Rows
from audio_ssl.inference.shard_work import ShardWork, Tally, stopped
from audio_ssl.inference.shards import PlannedRows, Shard, cut
from audio_ssl.inference.sinks.base import Sink, open_sink
from audio_ssl.inference.sinks.numbers import STORED, choose_dtype
from audio_ssl.inference.source import ManifestSource, OpenedInput
from audio_ssl.inference.stream import Stream, StreamSettings
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.kernels import forget_layouts

LINE_KEYS = ("layer", "dtype", "hop_s", "first_centre_s", "model_hash", "normalized")  # enough to use one file alone


@dataclass(frozen=True)
class ExtractSettings:
    """How embeddings are made and kept.

    Attributes:
        layer: which frames.
        format: of the folder.
        dtype: of what is written.
        pool: ``mean`` or ``mean+std``, one vector an utterance; None for its frames.
        shard_mib: what a shard holds, about; a run that is killed loses the one in hand.
        stream: batches and windows.
        strict: stop at the first utterance that cannot be done.
    """

    layer: LayerChoice
    format: str = "npy"
    dtype: str = "fp32"
    pool: str | None = None
    shard_mib: float = 256.0
    stream: StreamSettings = field(default_factory=StreamSettings)
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.shard_mib > 0:
            raise ConfigError(f"--shard-mib must be > 0, got {self.shard_mib}")
        choose_dtype(self.format, self.dtype, holds_codes=self.layer.name == "codes")
        if self.pool is not None and self.layer.name == "codes":
            raise ConfigError(f"--pool {self.pool} must be left out with --layer codes, which are names, not amounts")

    @property
    def stream_of_layer(self) -> StreamSettings:
        """Windows of frames that look at their own samples alone are exact: none is refused."""
        exact = self.stream.windows.exact and not self.layer.is_local
        return replace(self.stream, windows=replace(self.stream.windows, exact=exact))


@dataclass(frozen=True)
class ExtractSummary:
    """What a run did.

    Attributes:
        tally: of this rank.
        num_shards: of the whole input.
        busy: shards that another process is at work on.
        is_complete: whether every utterance of the input was tried, by whatever rank, so that the index is there.
        is_empty: whether none of them has a result.
    """

    tally: Tally
    num_shards: int
    busy: tuple[str, ...]
    is_complete: bool
    is_empty: bool


@dataclass(frozen=True)
class Extractor:
    """An encoder that writes embeddings.

    Attributes:
        encoder: in eval mode, on the runtime's device.
        encoder_hash: names the weights in the index.
        settings: what to keep and how.
        runtime: device and number format.
    """

    encoder: Encoder
    encoder_hash: str
    settings: ExtractSettings
    runtime: Runtime

    def to_folder(
        self,
        opened: OpenedInput,
        folder: Path,
        *,
        rank: Rank = Rank(),  # noqa: B008 - frozen
        on_progress: Callable[[float], None] = lambda _: None,
        on_precision_error: Callable[[PrecisionError], None] = lambda _: None,
    ) -> ExtractSummary:
        """Write this rank's share of the embeddings that ``folder`` does not hold yet.

        Args:
            opened: the input.
            folder: made if absent; ``docs/embeddings.md`` tells what it holds.
            rank: this process among those of the run.
            on_progress: called with the seconds of audio that are done; those of earlier runs come first.
            on_precision_error: called before the run with the error of a number format that is not float32.

        Returns:
            Counts, and the refused ones by name.

        Raises:
            ManifestError: ids that the format cannot have, a folder that was made with another model or settings, or
                one that a process with another input is at work on.
            AudioError: in strict mode, the first utterance that cannot be done.
            ConfigError: the folder cannot be written.
        """
        if self.settings.strict and opened.refused:
            raise stopped(opened.refused[0])
        source, rows, shared = ManifestSource(opened.manifest), Rows(opened.manifest), self._shared()
        error = stated_error(folder, self.runtime.precision, lambda: self._precision_error(source))
        if error is not None:
            on_precision_error(error)
        shared["precision_error"] = None if error is None else asdict(error)
        num_frames = self._num_frames(source)
        shards, planned = self._cut(source, num_frames), PlannedRows(rows, num_frames)
        plan = hashlib.blake2b(f"{rows.digest()} {shards}".encode(), digest_size=16).hexdigest()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sink = self._sink(folder, planned, about=shared)
            with OutputFolder(folder, shared, plan) as output:
                work = ShardWork(
                    output, FolderIndex(output, rows), sink, source, rows, planned, self._stream(source),
                    constants={key: shared[key] for key in LINE_KEYS},
                    strict=self.settings.strict, on_progress=on_progress,
                )  # fmt: skip
                work.tally.refuse(opened.refused if rank.index == 0 else ())
                busy = work.do(shards[rank.index :: rank.size])
                is_complete = work.index.merge(opened.refused, finish=sink.finish)
        except OSError as error:
            raise ConfigError(
                f"{folder} must be writable with room to spare: {error}. What is finished is kept; free space or "
                "choose another folder, then run the same command again"
            ) from error
        is_empty = bool(len(rows) or opened.refused) and not work.index.is_done.any()
        return ExtractSummary(work.tally, len(shards), tuple(shard.name for shard in busy), is_complete, is_empty)

    def _num_frames(self, source: ManifestSource) -> NDArray[np.int64]:
        """(N,) frames of each row, pooled or not."""
        lengths = source.manifest.num_samples_at(self.encoder.sample_rate_hz)
        num_frames: NDArray[np.int64] = self.encoder.geometry.num_frames(lengths)
        return num_frames if self.settings.pool is None else np.minimum(num_frames, 1)

    def _sink(self, folder: Path, rows: PlannedRows, *, about: Mapping[str, Any]) -> Sink:
        settings = self.settings
        layers = about["layers"] or ()
        return open_sink(
            settings.format, folder,
            dtype=settings.dtype, all_rows=rows, layers=layers, pool=settings.pool, about=about,
        )  # fmt: skip

    def _cut(self, source: ManifestSource, num_frames: NDArray[np.int64]) -> list[Shard]:
        settings = self.settings
        frame_bytes = STORED[settings.dtype].itemsize * settings.layer.frame_size(self.encoder)
        return cut(
            num_frames * float(frame_bytes), source.manifest.durations_s(), shard_bytes=settings.shard_mib * 2**20
        )

    def _stream(self, source: ManifestSource) -> Stream:
        encoder, settings = self.encoder, self.settings
        needs = AudioNeeds.of(encoder)
        forward = LayerForward(encoder, settings.layer)
        return Stream(
            source, forward, needs=needs, settings=settings.stream_of_layer, runtime=self.runtime,
            measures_windows=not settings.layer.is_local,
        )  # fmt: skip

    def _precision_error(self, source: ManifestSource) -> PrecisionError | None:
        encoder, settings = self.encoder, self.settings
        return measure_precision_error(
            source, LayerForward(encoder, settings.layer),
            needs=AudioNeeds.of(encoder), settings=settings.stream_of_layer, runtime=self.runtime,
            is_codes=settings.layer.name == "codes",
            # as large as the model, and the run needs them no more
            after_exact=lambda: forget_layouts(encoder, torch.float32),
        )  # fmt: skip

    def _shared(self) -> dict[str, Any]:
        """What all embeddings of a folder share."""
        geometry, rate, settings = self.encoder.geometry, self.encoder.sample_rate_hz, self.settings
        hop, field_samples = geometry.hop_samples, geometry.receptive_field_samples
        stride = self.encoder.context_stride
        is_repeated = stride > 1 and settings.layer.is_repeated
        repeats = f"; blocks see {stride} frames as one, whose output stands {stride} times" if is_repeated else ""
        return {
            "format": settings.format,
            "dtype": settings.dtype,
            "pool": settings.pool,
            "layer": settings.layer.name,
            "layers": [str(n) for n in settings.layer.numbers] if settings.layer.is_stacked else None,
            "layer_convention": settings.layer.convention + repeats,
            "hop_s": hop / rate,
            "first_centre_s": geometry.frame_centre_s(0, sample_rate_hz=rate),
            "frame_rule": (
                f"frame t covers samples [{hop}t, {hop}t + {field_samples}) at {rate} Hz from the utterance's start; "
                "its centre is first_centre_s + hop_s * t seconds"
            ),
            "model_hash": self.encoder_hash,
            "model_rate_hz": rate,
            "normalized": self.encoder.normalize_waveform,
            "precision": self.runtime.precision,
            "max_s": settings.stream.windows.max_s,
            "overlap_s": settings.stream.windows.overlap_s,
            "exact": settings.stream.windows.exact,
        }
