"""Models ready for use: an encoder or a recogniser in eval mode, on a device, with a number format.

The rest of this room takes these and never opens a model directory itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from audio_ssl.data.text import Vocabulary
from audio_ssl.data.vocabulary import vocabulary_in
from audio_ssl.errors import ConfigError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.interop.source import load_ctc, load_encoder
from audio_ssl.model.compiling import compile_blocks
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.int8 import int8_products, missing_for_int8
from audio_ssl.model.kernels import freeze_linears, has_onednn, thaw_linears
from audio_ssl.model.positional import fold_weight_norm
from audio_ssl.model.time_stats import TimeSums

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


# What a CPU does not compute while oneDNN prepares its kernels for a batch of another shape, in seconds of audio a
# thread: 50 ms, when base gets through 23 s of audio in a second.
_BATCH_COST_S = 1.0


@dataclass(frozen=True)
class Runtime:
    """Where and in what number format a model computes.

    Attributes:
        device: of the model and its batches.
        precision: ``bf16`` runs the products of the forward pass in bfloat16 (results are float32 all the same);
            ``int8`` those of linear layers in integers (:mod:`audio_ssl.model.int8`) and the others in bfloat16, or in
            float32 where the processor has no bfloat16.
        is_compiled: whether the encoder went through :func:`compile_encoder`.
    """

    device: torch.device
    precision: Precision = "fp32"
    is_compiled: bool = False

    @property
    def name(self) -> str:
        """What computes, for messages and settings: two runs of one name give the same numbers."""
        return f"compiled {self.precision}" if self.is_compiled else self.precision

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context of a forward pass."""
        with ExitStack() as contexts:
            if self.item_bytes == 2:
                contexts.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
            if self.precision == "int8":
                contexts.enter_context(int8_products())
            yield

    @property
    def item_bytes(self) -> int:
        """Of a number between the products."""
        is_bf16 = self.precision == "bf16" or (self.precision == "int8" and has_onednn(torch.bfloat16))
        return 2 if is_bf16 else 4

    def batch_cost_samples(self, sample_rate_hz: int) -> int | None:
        """What one more batch costs beside its samples; None on a GPU, which wants batches that are full."""
        if self.device.type != "cpu":
            return None
        return round(_BATCH_COST_S * torch.get_num_threads() * sample_rate_hz)


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
        vocabulary: the symbols of its head, and its text rules (references go through them before they are compared).
    """

    model: CTCModel
    vocabulary: Vocabulary


def open_runtime(device: str = "auto", precision: Precision = "fp32", *, compiles: bool = False) -> Runtime:
    """Choose the device; ``auto`` is the GPU where there is one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: as of :class:`Runtime`.
        compiles: whether the encoder will go through :func:`compile_encoder`.

    Raises:
        ConfigError: the device does not exist, or lacks the number format, or a use for a compiler.
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
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, got {precision!r}")
    if precision == "bf16" and chosen.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("--precision must be fp32 on this GPU: it has no bf16")
    if precision == "int8":
        missing = missing_for_int8() if chosen.type == "cpu" else "its products are written for CPUs alone"
        if missing is not None:
            raise ConfigError(f"--precision must be fp32 or bf16 on {chosen.type}, got int8: {missing}")
    if compiles and chosen.type == "cpu":
        raise ConfigError(
            "--compile must be left out on a CPU: linear layers and attention are laid out for it already, and what "
            "torch compiles runs slower there (docs/decisions/0036)"
        )
    return Runtime(chosen, precision, compiles)


def compile_encoder(encoder: Encoder) -> None:
    """Compile the transformer blocks, in place, when their first batch comes: linear layers become plain ones again."""
    thaw_linears(encoder)
    compile_blocks(encoder)


def open_encoder(path: str | Path, runtime: Runtime | None = None) -> Encoder:
    """Load the encoder of a model directory, checkpoint or run folder, ready to run.

    Args:
        path: of the model.
        runtime: where it will run, and whether compiled; None for the CPU.

    Raises:
        CheckpointError: no usable model there.
    """
    encoder = load_encoder(path)
    prepare_for_inference(encoder)
    if runtime is not None:
        encoder.to(runtime.device)
        if runtime.is_compiled:
            compile_encoder(encoder)
    return encoder


def open_recogniser(path: str | Path) -> Recogniser:
    """Load a fine-tuned recogniser, ready to run.

    Raises:
        CheckpointError: no usable CTC model there.
    """
    model, document = load_ctc(path)
    prepare_for_inference(model)
    return Recogniser(model, vocabulary_in(document["ctc"], source=path))


def prepare_for_inference(module: nn.Module) -> None:
    """Do once, in place, what every forward pass would do again: the same numbers, less work.

    A module so prepared does not train or save like the original.
    """
    fold_weight_norm(module)
    freeze_linears(module)
