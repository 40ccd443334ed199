"""Labels of every utterance: of stored embeddings, or of audio through the model, checked before they are written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioError, ConfigError, ManifestError
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.models import AudioNeeds, Runtime
from audio_ssl.inference.source import ManifestSource, OpenedInput, Refusal
from audio_ssl.inference.stream import Stream, StreamSettings
from audio_ssl.inference.units.codebook import Units
from audio_ssl.inference.units.label_files import LabelFiles
from audio_ssl.inference.units.statistics import UnitStatistics
from audio_ssl.inference.units.stored import StoredFrames, frames_of_length
from audio_ssl.model.encoder import Encoder

READ_FRAMES = 30_000  # of a long recording at once
Labels = NDArray[np.int32]
Progress = Callable[[float], None]


class Labelled(Protocol):
    """Utterances whose labels can be asked for."""

    @property
    def manifest(self) -> Manifest:
        """All utterances."""

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """What never became an utterance."""

    def run(self, on_progress: Progress) -> Iterator[tuple[int, Labels] | Refusal]:
        """(T,) labels of each row, or why there are none; in the manifest's order but for refusals.

        ``on_progress`` is called with the seconds of audio that are done.
        """


@dataclass(frozen=True)
class AssignSummary:
    """What an assignment did.

    Attributes:
        statistics: of the labels; JSON-able.
        refused: utterances and files without labels.
        files: what was written.
    """

    statistics: dict[str, Any]
    refused: tuple[Refusal, ...]
    files: LabelFiles


def assign(
    units: Units,
    labelled: Labelled,
    out: Path,
    *,
    dedup: bool = False,
    strict: bool = False,
    on_progress: Progress = lambda _: None,
) -> AssignSummary:
    """Write the labels of every utterance.

    Args:
        units: that ``labelled`` was made with.
        labelled: the input.
        out: ``NAME.txt`` or ``NAME.km``.
        dedup: runs as one label.
        strict: stop at the first utterance that has no labels; nothing is then written.
        on_progress: called with the seconds of audio that are done.

    Raises:
        ConfigError: a place that cannot be taken; see :class:`LabelFiles`.
        ManifestError: an input that the format cannot say.
        AudioError: in strict mode.
    """
    manifest, statistics, refused = labelled.manifest, UnitStatistics(units.num_units), list(labelled.refused)
    seconds = manifest.durations_s()
    if strict and refused:
        raise _stopped(refused[0])
    with LabelFiles(out, units, manifest, dedup=dedup) as files:
        for item in labelled.run(on_progress):
            found = item if isinstance(item, Refusal) else _checked(item, units, manifest)
            if isinstance(found, Refusal):
                if strict:
                    raise _stopped(found)
                refused.append(found)
                continue
            row, labels = found
            files.write(row, labels)
            statistics.add(labels, float(seconds[row]))
        document = statistics.to_document(units.document["hop_s"])
        refused.sort(key=lambda refusal: -1 if refusal.row is None else refusal.row)
        if statistics.num_utterances:
            files.finish(document, refused)
    return AssignSummary(document, tuple(refused), files)


class StoredLabels:
    """Labels of stored embeddings.

    Args:
        units: of the same model and layer.
        stored: the frames.
        device: where products run.

    Raises:
        ConfigError: units of other frames.
    """

    def __init__(self, units: Units, stored: StoredFrames, device: torch.device) -> None:
        units.check_origin(stored.origin, whose=str(stored.folder))
        if stored.dim != units.centroids.shape[1]:
            wanted = units.centroids.shape[1]
            raise ConfigError(
                f"{stored.folder} must hold frames of {wanted} numbers as {units.path}, it has {stored.dim}"
            )
        self._stored, self._nearest = stored, units.nearest(device)
        self.manifest = Manifest.from_rows(map(_utterance, stored.lines), root=Path("/"))
        self.refused = stored.errors

    def run(self, on_progress: Progress) -> Iterator[tuple[int, Labels] | Refusal]:
        """See :class:`Labelled`."""
        seconds = self.manifest.durations_s()
        for row, line in enumerate(self._stored.lines):
            try:
                yield row, self._label(row)
            except ManifestError as error:
                yield Refusal(line["id"], line["path"], str(error), row)
            on_progress(float(seconds[row]))

    def _label(self, row: int) -> Labels:
        labels = np.empty(int(self._stored.num_frames[row]), dtype=np.int32)
        for first in range(0, len(labels), READ_FRAMES):
            part = slice(first, first + READ_FRAMES)
            labels[part], _ = self._nearest(self._stored.read(row, part.start, part.stop))
        return labels


class AudioLabels:
    """Labels of audio through the model that the units are of; no embedding is kept.

    Args:
        units: of this model.
        encoder: in eval mode, on the runtime's device.
        encoder_hash: of its weights.
        opened: the input.
        settings: batches and windows.
        runtime: device and number format.
        scratch: folder of a file that is gone afterwards.

    Attributes:
        layer: that of the units.

    Raises:
        ConfigError: units of another model, or of a learned sum of layers.
    """

    def __init__(
        self,
        units: Units,
        encoder: Encoder,
        encoder_hash: str,
        opened: OpenedInput,
        *,
        settings: StreamSettings,
        runtime: Runtime,
        scratch: Path,
    ) -> None:
        rate = encoder.sample_rate_hz
        found = {
            "model_hash": encoder_hash,
            "layer": units.document["layer"],
            "normalized": encoder.normalize_waveform,
            "model_rate_hz": rate,
            "hop_s": encoder.geometry.hop_samples / rate,
            "first_centre_s": encoder.geometry.frame_centre_s(0, sample_rate_hz=rate),
        }
        units.check_origin(found, whose="MODEL")
        self.manifest, self.refused = opened.manifest, opened.refused
        self._units, self._nearest, self._scratch = units, units.nearest(runtime.device), scratch
        layer = units.document["layer"]
        if layer.startswith("weighted"):
            raise ConfigError(f"--model cannot give {layer}, a learned sum of layers; label embeddings of it instead")
        self.layer = choose_layer(layer, num_layers=encoder.num_layers)
        forward = LayerForward(encoder, self.layer)
        self._source = ManifestSource(opened.manifest)
        self._stream = Stream(self._source, forward, needs=AudioNeeds.of(encoder), settings=settings, runtime=runtime)

    def run(self, on_progress: Progress) -> Iterator[tuple[int, Labels] | Refusal]:
        """See :class:`Labelled`.

        The model takes utterances by length, so labels wait for their turn in a nameless file, four bytes a frame.
        """
        lengths = [
            frames_of_length(u.num_samples, rate_hz=u.sample_rate, origin=self._units.origin) for u in self.manifest
        ]
        first = np.concatenate([[0], np.cumsum(lengths)])
        is_done = np.zeros(len(lengths), dtype=bool)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            if first[-1]:
                os.posix_fallocate(file.fileno(), 0, 4 * int(first[-1]))  # a full disk is told now, not by a kill
            kept = (
                np.memmap(file, dtype=np.int32, mode="r+", shape=(int(first[-1]),))
                if first[-1]
                else np.empty(0, np.int32)
            )
            for item in self._label_pieces(kept, first):
                if isinstance(item, Refusal):
                    yield item
                else:
                    is_done[item] = True
                    on_progress(self._source.seconds(item))
            for row in np.flatnonzero(is_done).tolist():
                yield row, np.array(kept[first[row] : first[row + 1]])

    def _label_pieces(self, kept: Labels, first: NDArray[np.int64]) -> Iterator[int | Refusal]:
        """Fill ``kept``, where the labels of a row begin at ``first[row]``; gives each row that is complete."""
        spoilt: set[int] = set()
        for piece in self._stream.run(range(len(self._source))):
            if isinstance(piece, Refusal):
                yield piece
            elif piece.row not in spoilt and not np.isfinite(piece.frames).all():
                spoilt.add(piece.row)
                yield Refusal(*self._source.name(piece.row), "the model gives NaN or infinity for it", piece.row)
            elif piece.row not in spoilt:
                place = first[piece.row]
                labels, _ = self._nearest(piece.frames)
                kept[place + piece.window.keep_from : place + piece.window.keep_to] = labels
                if piece.is_last:
                    yield piece.row


def _checked(item: tuple[int, Labels], units: Units, manifest: Manifest) -> tuple[int, Labels] | Refusal:
    """Labels that are one a frame of the audio and each a unit's number; a refusal where the count differs."""
    row, labels = item
    utterance = manifest[row]
    expected = frames_of_length(utterance.num_samples, rate_hz=utterance.sample_rate, origin=units.origin)
    if len(labels) != expected or not expected:
        reason = f"its {utterance.num_samples} samples must give {expected} labels, there are {len(labels)}"
        return Refusal(utterance.id, str(manifest.audio_path(row)), reason, row)
    least, most = int(labels.min()), int(labels.max())
    assert least >= 0, (utterance.id, least)
    assert most < units.num_units, (utterance.id, most)
    return item


def _utterance(line: Mapping[str, Any]) -> Utterance:
    return Utterance(
        line["id"], line["path"], line["start"], line["num_samples"], line["sample_rate"],
        offset=line.get("offset"), num_bytes=line.get("num_bytes"),
    )  # fmt: skip


def _stopped(refusal: Refusal) -> AudioError:
    return AudioError(f"{refusal.id} ({refusal.path}): {refusal.reason} (--strict stops here)")
