"""The Python interface: ``audio_ssl.load``, ``audio_ssl.extract``, ``audio_ssl.transcribe``. Numpy comes back.

Thin: inputs of many kinds become a source, the rest of the room does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.errors import AudioError
from audio_ssl.inference.decode import Decoder, GreedyDecoder
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.models import AudioNeeds, Precision, Recogniser, Runtime, open_encoder, open_recogniser
from audio_ssl.inference.source import ArraySource, ManifestSource, Refusal, Source, manifest_of_files
from audio_ssl.inference.stream import Stream, StreamSettings, joined
from audio_ssl.inference.transcribe import transcribe_source
from audio_ssl.inference.windows import WindowSettings
from audio_ssl.interop.source import load_encoder
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.kernels import freeze_linears

Waveform: TypeAlias = NDArray[Any] | Tensor
OneInput: TypeAlias = str | Path | Waveform
Inputs: TypeAlias = OneInput | Sequence[OneInput]


def load(path: str | Path) -> Encoder:
    """Load the encoder of a model directory, checkpoint or run folder, in eval mode on the CPU.

    Args:
        path: as the MODEL of the command line.

    Raises:
        CheckpointError: no usable model there.
    """
    encoder = load_encoder(path)
    freeze_linears(encoder)  # for extract; it trains and saves as ever
    return encoder


def load_recogniser(path: str | Path) -> Recogniser:
    """Load a fine-tuned recogniser, in eval mode on the CPU; for many calls of :func:`transcribe`.

    Raises:
        CheckpointError: no usable recogniser there.
    """
    return open_recogniser(path)


def extract(
    model: str | Path | Encoder,
    inputs: Inputs,
    *,
    layer: int | str | None = None,
    sample_rate_hz: int | None = None,
    batch_s: float = 60.0,
    max_s: float = 60.0,
    overlap_s: float = 4.0,
    precision: Precision = "fp32",
) -> Any:
    """Frame embeddings of one input or of many.

    Args:
        model: a loaded encoder (used where it is: CPU or GPU) or the path of one.
        inputs: path of an audio file, (S,) array or tensor, or a list of those of one kind. Floating point is taken
            as it is, integers are scaled by their type's range.
        layer: None or ``"last"``: the context network's output; n: output of block n (0: input of block 1);
            ``"all"``: every layer from 0 on.
        sample_rate_hz: of arrays; needed unless it is the model's.
        batch_s: most seconds in a batch, padding included.
        max_s: longer inputs run in windows of this length.
        overlap_s: of the windows.
        precision: ``bf16`` for the products of the forward pass, on devices that have it.

    Returns:
        (T, D) float32, or (L, T, D) for ``"all"``; a list of them for a list. Frame t is centred at
        ``encoder.geometry.frame_centre_s(t, sample_rate_hz=encoder.sample_rate_hz)`` seconds.

    Raises:
        AudioError: an input cannot be read, is not one waveform, holds NaN, or is too short for a frame.
        CheckpointError: no usable model.
        ConfigError: no such layer.
    """
    encoder = model if isinstance(model, Encoder) else open_encoder(model)
    is_single, source = _source(inputs, encoder, sample_rate_hz)
    choice = choose_layer(layer, num_layers=encoder.num_layers)
    stream = Stream(
        source,
        LayerForward(encoder, choice),
        needs=AudioNeeds.of(encoder),
        settings=StreamSettings(batch_s, WindowSettings(max_s, overlap_s)),
        runtime=Runtime(encoder.mask_embedding.device, precision),
    )
    found: dict[int, NDArray[np.float32]] = {}
    with _eval_mode(encoder):
        for result in joined(stream.run(range(len(source)))):
            if isinstance(result, Refusal):
                _stop(result)
            else:
                found[result[0]] = np.ascontiguousarray(result[1])
    return found[0] if is_single else [found[row] for row in range(len(source))]


def transcribe(
    model: str | Path | Recogniser,
    inputs: Inputs,
    *,
    sample_rate_hz: int | None = None,
    decoder: Decoder | None = None,
    batch_s: float = 60.0,
    max_s: float = 60.0,
    overlap_s: float = 4.0,
    precision: Precision = "fp32",
) -> Any:
    """Text of one input or of many.

    Args:
        model: a recogniser from :func:`load_recogniser` or the path of one.
        inputs: as :func:`extract`.
        sample_rate_hz: as :func:`extract`.
        decoder: None for greedy; or an :class:`audio_ssl.inference.decode.BeamDecoder`.
        batch_s: as :func:`extract`.
        max_s: as :func:`extract`.
        overlap_s: as :func:`extract`.
        precision: as :func:`extract`.

    Returns:
        str; a list of them, in order, for a list.

    Raises:
        AudioError: as :func:`extract`.
        CheckpointError: no usable recogniser.
    """
    recogniser = model if isinstance(model, Recogniser) else open_recogniser(model)
    encoder = recogniser.model.encoder
    is_single, source = _source(inputs, encoder, sample_rate_hz)
    with _eval_mode(recogniser.model):
        transcripts, refused = transcribe_source(
            source,
            recogniser=recogniser,
            decoder=decoder or GreedyDecoder(recogniser.vocabulary),
            settings=StreamSettings(batch_s, WindowSettings(max_s, overlap_s)),
            runtime=Runtime(encoder.mask_embedding.device, precision),
        )
    if refused:
        _stop(refused[0])
    return transcripts[0].text if is_single else [transcript.text for transcript in transcripts]


class _eval_mode:  # noqa: N801 - a context manager, read as a verb
    """Dropout off while inference runs; the module's mode comes back afterwards."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module, self._was_training = module, module.training

    def __enter__(self) -> None:
        self._module.eval()

    def __exit__(self, *_: object) -> None:
        self._module.train(self._was_training)


def _source(inputs: Inputs, encoder: Encoder, sample_rate_hz: int | None) -> tuple[bool, Source]:
    """Whether one input was given, and the source that holds it or them."""
    is_single = isinstance(inputs, str | Path | np.ndarray | Tensor)
    items: list[OneInput] = [inputs] if is_single else list(inputs)  # type: ignore[list-item, arg-type]
    paths = [Path(item) for item in items if isinstance(item, str | Path)]
    if len(paths) == len(items):
        return is_single, ManifestSource(manifest_of_files(paths))
    if paths:
        raise AudioError("inputs must be of one kind: paths, or arrays and tensors; call once for each kind")
    rate = encoder.sample_rate_hz if sample_rate_hz is None else sample_rate_hz
    if rate < 1:
        raise AudioError(f"sample_rate_hz must be >= 1, got {rate}")
    waveforms = [_mono_float(item, number) for number, item in enumerate(items)]
    return is_single, ArraySource(waveforms, sample_rate_hz=rate)


def _mono_float(item: Any, number: int) -> NDArray[np.float32]:
    if isinstance(item, Tensor):
        item = item.detach().cpu()
        item = item.float() if item.is_floating_point() else item  # numpy has no bfloat16
    array: NDArray[Any] = np.asarray(item)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise AudioError(
            f"input {number} must be one mono waveform of shape (S,), got shape {array.shape}; "
            "average or choose a channel first"
        )
    if np.issubdtype(array.dtype, np.signedinteger):
        array = array / float(np.iinfo(array.dtype).max + 1)
    elif not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"input {number} must hold floating point or signed integer samples, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _stop(refusal: Refusal) -> None:
    raise AudioError(f"{refusal.id} ({refusal.path}): {refusal.reason}")
