"""Models ready for use: an encoder or a recogniser in eval mode, on a device, with a number format.

The rest of this room takes these and never opens a model directory itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ConfigError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.interop.source import load_ctc, load_encoder
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.kernels import freeze_linears
from audio_ssl.model.positional import fold_weight_norm
from audio_ssl.model.time_stats import TimeSums

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Runtime:
    """Where and in what number format a model computes.

    Attributes:
        device: of the model and its batches.
        precision: ``bf16`` runs the products of the forward pass in bfloat16 (results are float32 all the same).
    """

    device: torch.device
    precision: Precision = "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


@dataclass(frozen=True)
class AudioNeeds:
    """What a model asks of its input.

    Attributes:
        sample_rate_hz: of its waveforms.
        normalize: whether they must have zero mean and unit variance per utterance.
        geometry: samples to frames.
        group_frames: frames that it sees as one: windows start on a group.
        time_sums: sums over an utterance's time that it must be given where it sees the utterance in windows; None
            where it needs none.
    """

    sample_rate_hz: int
    normalize: bool
    geometry: ConvGeometry
    group_frames: int = 1
    time_sums: Callable[[], TimeSums | None] | None = None

    @classmethod
    def of(cls, encoder: Encoder) -> AudioNeeds:
        """The needs of an encoder."""
        sums = encoder.feature_encoder.time_sums
        return cls(
            encoder.sample_rate_hz, encoder.normalize_waveform, encoder.geometry, encoder.context_stride,
            time_sums=None if sums() is None else sums,
        )  # fmt: skip


@dataclass(frozen=True)
class Recogniser:
    """A CTC model with what its text needs.

    Attributes:
        model: in eval mode.
        vocabulary: the symbols of its head,
            and whether its transcripts were lower-cased (references must be too before they are compared).
    """

    model: CTCModel
    vocabulary: Vocabulary


def open_runtime(device: str = "auto", precision: Precision = "fp32") -> Runtime:
    """Choose the device; ``auto`` is the GPU where there is one.

    Raises:
        ConfigError: the device does not exist, or lacks bf16.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {device} must exist: this machine shows {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu, or see `audio-ssl doctor`"
        )
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"--precision must be fp32 or bf16, got {precision!r}")
    if precision == "bf16" and chosen.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("--precision must be fp32 on this GPU: it has no bf16")
    return Runtime(chosen, precision)


def open_encoder(path: str | Path) -> Encoder:
    """Load the encoder of a model directory, checkpoint or run folder, ready to run.

    Raises:
        CheckpointError: no usable model there.
    """
    encoder = load_encoder(path)
    prepare_for_inference(encoder)
    return encoder


def open_recogniser(path: str | Path) -> Recogniser:
    """Load a fine-tuned recogniser, ready to run.

    Raises:
        CheckpointError: no usable CTC model there.
    """
    model, document = load_ctc(path)
    prepare_for_inference(model)
    ctc = document["ctc"]
    return Recogniser(model, Vocabulary(tuple(ctc["symbols"]), lowercase=bool(ctc["lowercase"])))


def prepare_for_inference(module: nn.Module) -> None:
    """Do once, in place, what every forward pass would do again: the same numbers, less work.

    A module so prepared does not train or save like the original.
    """
    fold_weight_norm(module)
    freeze_linears(module)
