"""Frames in Python: ``audio_ssl.load`` gives an :class:`Embedder`, which gives an :class:`Embedding` for each input.

Thin: inputs of many kinds become sources, the rest of the room does the work.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import ConfigError
from audio_ssl.inference.inputs import (
    IN_MEMORY,
    Group,
    OneInput,
    groups_of_items,
    groups_of_rows,
    is_one,
)
from audio_ssl.inference.layers import LayerChoice, LayerForward, Layers, choose_layer, model_quantizer
from audio_ssl.inference.models import (
    AudioNeeds,
    Precision,
    Runtime,
    open_runtime,
    prepare_for_inference,
)
from audio_ssl.inference.source import OpenedInput, Refusal, open_input
from audio_ssl.inference.stream import Stream, StreamSettings, joined
from audio_ssl.inference.windows import WindowSettings
from audio_ssl.interop.source import read_model
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.files import encoder_from
from audio_ssl.model.kernels import freeze_linears
from audio_ssl.objective.quantizer import GumbelQuantizer

ManyInputs: TypeAlias = str | os.PathLike[str] | Manifest | Iterable[OneInput]
_BATCHES_AHEAD = 8  # that a stream sorts by length; a batch of 60 s gives 9 MB of frames in base, 230 MB in all layers


class Options(TypedDict, total=False):
    """What :meth:`Embedder.extract` and :meth:`Embedder.stream` take by keyword; see there."""

    layers: Layers
    sample_rate_hz: int | None
    batch_s: float
    max_s: float
    overlap_s: float
    exact: bool


@dataclass(frozen=True)
class _Options:
    layers: Layers = None
    sample_rate_hz: int | None = None
    batch_s: float = 60.0
    max_s: float = 60.0
    overlap_s: float = 4.0
    exact: bool = False


@dataclass(frozen=True, eq=False)
class Embedding:
    """The frames of one input.

    Attributes:
        id: its path as given, ``array N``, or the id of its row in a manifest.
        path: its file; None for an array.
        row: its number in the input, from 0.
        duration_s: seconds of audio.
        layers: what was asked for: numbers, one for each layer of ``frames``, or ``last``, ``conv``, ``codes``,
            ``weighted-...``.
        frames: (T, D) float32; (L, T, D) for several layers; (T, C) for ``conv``; (T, G) int32 for ``codes``.
        times_s: (T,) float64, the centre of each frame in seconds from the input's start.
    """

    id: str
    path: str | None
    row: int
    duration_s: float
    layers: tuple[int | str, ...]
    frames: NDArray[Any]
    times_s: NDArray[np.float64]

    def __repr__(self) -> str:
        given = f"id={self.id!r}, layers={self.layers}, frames={self.frames.dtype} {self.frames.shape}"
        return f"Embedding({given}, duration_s={self.duration_s:g})"

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.times_s)

    @property
    def dim(self) -> int:
        """D, C or G."""
        return int(self.frames.shape[-1])


class Embedder:
    """An encoder that gives frames; see :func:`load`. Any number of threads may call it at once.

    Args:
        encoder: used as it is and where it is; put in eval mode when it is called.
        quantizer: the model's, for ``codes``; None where it has none.
        precision: number format of the forward pass.

    Attributes:
        encoder: the module.
        precision: as above.
    """

    def __init__(
        self, encoder: Encoder, *, quantizer: GumbelQuantizer | None = None, precision: Precision = "fp32"
    ) -> None:
        self.encoder, self.precision = encoder, precision
        self._quantizer = quantizer
        if precision == "int8":
            freeze_linears(encoder)  # no others multiply in integers

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.encoder.mask_embedding.device

    def to(self, device: str | torch.device) -> Embedder:
        """Move the model in place, and give this embedder back; not while another thread extracts.

        Raises:
            ConfigError: no such device, or it lacks the precision.
        """
        chosen = open_runtime(str(device), self.precision).device
        self.encoder.to(chosen)
        if self._quantizer is not None:
            self._quantizer.to(chosen)
        return self

    @overload
    def extract(self, inputs: OneInput, **options: Unpack[Options]) -> Embedding: ...  # type: ignore[overload-overlap]

    @overload
    def extract(self, inputs: Iterable[OneInput], **options: Unpack[Options]) -> list[Embedding]: ...

    def extract(self, inputs: OneInput | Iterable[OneInput], **options: Unpack[Options]) -> Embedding | list[Embedding]:
        """Frames of one input, or of a list of them.

        Args:
            inputs: an audio file's path, an (S,) array or tensor, a pair (array, rate in Hz), or a list of such, of
                mixed kinds. Floating point is taken as it is, integers are scaled by their type's range.
            options: as :meth:`stream`.

        Returns:
            One result for one input; a list in input order for a list.

        Raises:
            AudioError: an input cannot be read, is not one waveform, holds NaN, or is too short for a frame.
            ConfigError: no such layer, or an option out of range.
        """
        if is_one(inputs):
            return next(self.stream([inputs], **options))
        many = cast("Iterable[OneInput]", inputs)
        return list(self.stream(many, **options))

    @overload
    def stream(
        self, inputs: ManyInputs, *, on_error: Literal["raise"] = ..., **options: Unpack[Options]
    ) -> Iterator[Embedding]: ...

    @overload
    def stream(
        self, inputs: ManyInputs, *, on_error: Literal["yield"], **options: Unpack[Options]
    ) -> Iterator[Embedding | Refusal]: ...

    def stream(
        self, inputs: ManyInputs, *, on_error: Literal["raise", "yield"] = "raise", **options: Unpack[Options]
    ) -> Iterator[Embedding] | Iterator[Embedding | Refusal]:
        """Frames of any number of inputs, in input order and bounded memory.

        Inputs are taken a group of about eight batches at a time, which is sorted by length inside.

        Args:
            inputs: any iterable of what :meth:`extract` takes; or a manifest, or the path of a manifest, a folder or
                a file.
            on_error: ``raise`` stops at the first input without a result; ``yield`` gives a
                :class:`~audio_ssl.inference.source.Refusal` in its place (what a folder's scan refuses comes first).
            options:
                layers: None or ``last``: the network's output; n: output of block n (0: input of block 1); a list of
                numbers: these, stacked; ``all``; ``conv``; ``codes``; or a
                :class:`~audio_ssl.inference.layer_weights.LayerWeights`.
                sample_rate_hz: of arrays that come without their rate; None for the model's.
                batch_s: most seconds in a batch, padding included; 60.
                max_s: longer inputs run in windows of this length; 60.
                overlap_s: of the windows; 4.
                exact: refuse longer inputs instead, where attention is cut into windows; False.

        Raises:
            AudioError: while the stream is read, with ``on_error="raise"``.
            ConfigError: no such layer, or an option out of range.
            ManifestError: no usable folder or manifest.
        """
        if on_error not in ("raise", "yield"):
            raise ConfigError(f"on_error must be raise or yield, got {on_error!r}")
        given = _Options(**options)
        choice = choose_layer(given.layers, num_layers=self.encoder.num_layers, quantizer=self._quantizer)
        windows = WindowSettings(given.max_s, given.overlap_s, given.exact and not choice.is_local)
        settings = StreamSettings(given.batch_s, windows)
        seconds = given.batch_s * max(_BATCHES_AHEAD // max(len(choice.numbers), 1), 1)
        rate = self.encoder.sample_rate_hz if given.sample_rate_hz is None else given.sample_rate_hz
        opened = _opened(inputs)
        if opened is not None:
            groups = groups_of_rows(opened, seconds=seconds)
        else:
            items: Any = [inputs] if is_one(inputs) else inputs
            groups = groups_of_items(items, rate_hz=rate, seconds=seconds)
        results = self._results(() if opened is None else opened.refused, groups, choice, settings)
        return results if on_error == "yield" else _without_refusals(results)

    def _results(
        self, refused: Iterable[Refusal], groups: Iterable[Group], choice: LayerChoice, settings: StreamSettings
    ) -> Iterator[Embedding | Refusal]:
        yield from refused
        for group in groups:
            found: dict[int, Embedding | Refusal] = dict(group.refused)
            found.update(self._run(group, choice, settings))
            for row in group.rows:
                yield found.pop(row)

    def _run(
        self, group: Group, choice: LayerChoice, settings: StreamSettings
    ) -> Iterator[tuple[int, Embedding | Refusal]]:
        if self.encoder.training:  # not put back afterwards: another thread may be at work
            self.encoder.eval()
        source, encoder = group.source, self.encoder
        stream = Stream(
            source, LayerForward(encoder, choice), needs=AudioNeeds.of(encoder), settings=settings,
            runtime=Runtime(self.device, self.precision),
        )  # fmt: skip
        for result in joined(stream.run([row for row in group.rows if row not in group.refused])):
            if isinstance(result, Refusal):
                assert result.row is not None
                yield result.row, result
                continue
            row, frames = result
            name, path = source.name(row)
            yield row, Embedding(
                id=name, path=None if path == IN_MEMORY else path, row=row,
                duration_s=source.num_samples(row) / source.rate_hz(row), layers=choice.numbers or (choice.name,),
                frames=np.ascontiguousarray(frames, dtype=np.int32 if choice.name == "codes" else np.float32),
                times_s=_centres_s(encoder, frames.shape[-2]),
            )  # fmt: skip


def load(path: str | Path, *, device: str = "cpu", precision: Precision = "fp32") -> Embedder:
    """Load the encoder of a model, ready to extract with.

    Its module is made for inference (weight norm is folded); to train or save one, use ``audio_ssl.load_encoder``.

    Args:
        path: as the MODEL of the command line: a model directory, checkpoint or run folder, or a peer's.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto`` (the GPU where there is one).
        precision: ``bf16`` or ``int8`` for products of the forward pass, on devices that have them; see
            :class:`~audio_ssl.inference.models.Runtime`.

    Raises:
        CheckpointError: no usable model there.
        ConfigError: no such device or precision.
    """
    open_runtime(device, precision)  # refuse before a large file is read
    files = read_model(path)
    encoder = encoder_from(files)
    prepare_for_inference(encoder)
    return Embedder(encoder, quantizer=model_quantizer(files), precision=precision).to(device)


def _opened(inputs: object) -> OpenedInput | None:
    """A folder, a manifest or a file; None where inputs come one by one."""
    if isinstance(inputs, Manifest):
        return OpenedInput(inputs)
    return open_input(Path(inputs)) if isinstance(inputs, str | os.PathLike) else None


def _centres_s(encoder: Encoder, num_frames: int) -> NDArray[np.float64]:
    hop, field_samples = encoder.geometry.hop_samples, encoder.geometry.receptive_field_samples
    return (2 * hop * np.arange(num_frames) + field_samples) / 2 / encoder.sample_rate_hz


def _without_refusals(results: Iterable[Embedding | Refusal]) -> Iterator[Embedding]:
    for result in results:
        if isinstance(result, Refusal):
            raise result.error()
        yield result
