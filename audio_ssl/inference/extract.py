"""Embeddings of many utterances: one ``.npy`` each and an index; continues where it stopped.

Bounded memory: batches are bounded in seconds, and a long recording is written window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audio_ssl.errors import AudioError, ConfigError, ManifestError
from audio_ssl.inference.embedding_files import Dtype, EmbeddingFiles
from audio_ssl.inference.index import EmbeddingIndex, embedding_file
from audio_ssl.inference.layers import LayerChoice, LayerForward
from audio_ssl.inference.models import AudioNeeds, Runtime
from audio_ssl.inference.output import write_refused
from audio_ssl.inference.source import ManifestSource, OpenedInput, Refusal
from audio_ssl.inference.stream import Piece, Stream, StreamSettings
from audio_ssl.model.encoder import Encoder

REFUSED_FILE = "refused.tsv"


@dataclass(frozen=True)
class ExtractSettings:
    """How embeddings are made and kept.

    Attributes:
        layer: which frames.
        dtype: of the files.
        stream: batches and windows.
        strict: stop at the first utterance that cannot be done.
    """

    layer: LayerChoice
    dtype: Dtype = "fp32"
    stream: StreamSettings = field(default_factory=StreamSettings)
    strict: bool = False


@dataclass(frozen=True)
class ExtractSummary:
    """What a run did.

    Attributes:
        num_written: utterances done in this run.
        num_present: utterances that were done before.
        num_frames: frames written in this run.
        audio_s: seconds of audio done in this run.
        refused: utterances and files without a result.
    """

    num_written: int
    num_present: int
    num_frames: int
    audio_s: float
    refused: tuple[Refusal, ...]


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
        self, opened: OpenedInput, folder: Path, *, on_progress: Callable[[float], None] = lambda _: None
    ) -> ExtractSummary:
        """Write embeddings of every utterance of ``opened`` that ``folder`` does not hold yet.

        Args:
            opened: the input.
            folder: made if absent; holds ``index.jsonl``, the ``.npy`` files, and ``refused.tsv`` where there is cause.
            on_progress: called with the seconds of audio that are done; those of earlier runs come first.

        Returns:
            Counts, and the refused ones by name.

        Raises:
            ManifestError: ids that are no file names, or a folder that was made with another model or settings.
            AudioError: in strict mode, the first utterance that cannot be done.
            ConfigError: the folder cannot be written.
        """
        _refuse_odd_ids(opened)
        if self.settings.strict and opened.refused:
            _stop(opened.refused[0])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with EmbeddingIndex(folder, self._constants()) as index:
                summary = self._fill(opened, index, EmbeddingFiles(folder, self.settings.dtype), on_progress)
                index.sort(opened.manifest.column("id"))
            write_refused(folder / REFUSED_FILE, summary.refused)
        except OSError as error:
            raise ConfigError(
                f"{folder} must be writable with room to spare: {error}. What is finished is kept; free space or "
                "choose another folder, then run the same command again"
            ) from error
        return summary

    def _fill(
        self, opened: OpenedInput, index: EmbeddingIndex, files: EmbeddingFiles, on_progress: Callable[[float], None]
    ) -> ExtractSummary:
        source, constants = ManifestSource(opened.manifest), self._constants()
        present = {row for row in range(len(source)) if index.has(_identity(source, row))}
        on_progress(sum(source.seconds(row) for row in present))
        refused, written, num_frames = list(opened.refused), list[int](), 0
        try:
            for piece in self._stream(source).run([row for row in range(len(source)) if row not in present]):
                refusal = piece if isinstance(piece, Refusal) else _keep(piece, source, files)
                if refusal is not None:
                    files.drop(embedding_file(refusal.id))
                    if self.settings.strict:
                        _stop(refusal)
                    refused.append(refusal)
                elif isinstance(piece, Piece) and piece.is_last:
                    index.add(_line(piece, source, constants))
                    written.append(piece.row)
                    num_frames += piece.total_frames
                    on_progress(source.seconds(piece.row))
        finally:
            files.drop_all()
        audio_s = sum(source.seconds(row) for row in written)
        return ExtractSummary(len(written), len(present), num_frames, audio_s, tuple(refused))

    def _stream(self, source: ManifestSource) -> Stream:
        encoder, settings = self.encoder, self.settings
        needs = AudioNeeds.of(encoder)
        forward = LayerForward(encoder, settings.layer)
        return Stream(source, forward, needs=needs, settings=settings.stream, runtime=self.runtime)

    def _constants(self) -> dict[str, Any]:
        """The part of an index line that is the same for all utterances of a folder."""
        geometry, rate, settings = self.encoder.geometry, self.encoder.sample_rate_hz, self.settings
        hop, field_samples = geometry.hop_samples, geometry.receptive_field_samples
        stride = self.encoder.context_stride
        is_repeated = stride > 1 and settings.layer.name != "last"
        repeats = f"; blocks see {stride} frames as one, whose output stands {stride} times" if is_repeated else ""
        return {
            "dtype": settings.dtype,
            "layer": settings.layer.name,
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
        }


def _keep(piece: Piece, source: ManifestSource, files: EmbeddingFiles) -> Refusal | None:
    name, path = source.name(piece.row)
    reason = files.take(embedding_file(name), piece)
    return None if reason is None else Refusal(name, path, reason, piece.row)


def _identity(source: ManifestSource, row: int) -> dict[str, Any]:
    """The part of an index line that says which audio it is."""
    utterance = source.manifest[row]
    place = {} if utterance.offset is None else {"offset": utterance.offset, "num_bytes": utterance.num_bytes}
    return {
        "id": utterance.id,
        "path": str(source.manifest.audio_path(row)),
        **place,
        "start": utterance.start,
        "num_samples": utterance.num_samples,
        "sample_rate": utterance.sample_rate,
    }


def _line(piece: Piece, source: ManifestSource, constants: Mapping[str, Any]) -> dict[str, Any]:
    identity = _identity(source, piece.row)
    layers = {"num_layers": piece.frames.shape[0]} if piece.frames.ndim == 3 else {}
    return {
        **identity, "file": embedding_file(identity["id"]), "num_frames": piece.total_frames,
        "dim": piece.frames.shape[-1], **layers, "windowed": piece.is_windowed, **constants,
    }  # fmt: skip


def _refuse_odd_ids(opened: OpenedInput) -> None:
    faults = []
    for name in opened.manifest.column("id"):
        try:
            embedding_file(name)
        except ManifestError as error:
            faults.append(str(error))
    if faults:
        more = f"\n  and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ManifestError("\n  ".join(faults[:5]) + more)


def _stop(refusal: Refusal) -> None:
    raise AudioError(f"{refusal.id} ({refusal.path}): {refusal.reason} (--strict stops here)")
