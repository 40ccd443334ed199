"""The most memory that extraction will have, told before it starts: from shapes, and from what the process has by then.

``tools/memory_check.py`` compares it with what processes really take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from audio_ssl.data.plan import eval_batches
from audio_ssl.inference.jobs import READ_AHEAD
from audio_ssl.inference.layers import LayerChoice
from audio_ssl.inference.models import Runtime
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.window_error import stretch_seconds
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.transformer import Block

GIB = 2**30
_KERNELS = (
    128 << 20
)  # what oneDNN makes of shapes that are new to it, stacks of threads, libraries that audio brings in
_MEASURED_S = 30.0  # of a recording's pieces, whose samples under a kernel are float64


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes, part by part.

    Attributes:
        program: the process now, with the model in it.
        so_far: the most that it has had on the way there.
        weights: laid out once more for products.
        batch_s: seconds of the widest batch, padding included.
        batch: its activations and results.
        seam_s: seconds of the stretch on which windows are measured; 0 where none is.
        seam: its activations, and what they are compared with.
        audio: what is decoded and read ahead.
        output: frames on their way into files.
        on_gpu: weights there; None where the model runs on the CPU. Activations are there too, then.
    """

    program: int
    so_far: int
    weights: int
    batch_s: float
    batch: int
    seam_s: float
    seam: int
    audio: int
    output: int
    on_gpu: int | None = None

    @property
    def widest(self) -> int:
        """Of a pass of the model, or of the check of windows where that is more."""
        return max(self.batch, self.seam)

    @property
    def to_come(self) -> int:
        """Of the machine's memory, beyond what the process has now."""
        return self.weights + self.audio + self.output + (self.widest if self.on_gpu is None else 0)

    @property
    def total(self) -> int:
        """The most of the machine's memory that the process will have had in the end."""
        return max(self.program + self.to_come, self.so_far)

    def __str__(self) -> str:
        """For people, with all parts."""
        what = f"a batch of {self.batch_s:.0f} s"
        if self.seam > self.batch:
            what = f"the check of windows over {self.seam_s:.0f} s"
        parts = {"program and model": self.program, "weights laid out for products": self.weights}
        if self.on_gpu is None:
            parts[what] = self.widest
        parts |= {"audio read ahead": self.audio, "output": self.output}
        text = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        gpu = "" if self.on_gpu is None else f"; on the GPU {(self.on_gpu + self.widest) / GIB:.2f} GiB for {what}"
        return f"needs about {self.total / GIB:.2f} GiB ({text}){gpu}"

    def warning(self, available: int | None) -> str | None:
        """What to say where the machine does not have as much; None where it has, or does not tell.

        Args:
            available: bytes that the process may still take.
        """
        if available is None or self.to_come <= available:
            return None
        option = "--max-s" if self.seam > self.batch else "--batch-s, and --max-s where utterances are longer than that"
        return (
            f"{self.to_come / GIB:.2f} GiB more will be needed than the process has now, and {available / GIB:.2f} GiB "
            f"are available: lower {option}"
        )


def memory_needs(
    encoder: Encoder,
    choice: LayerChoice,
    lengths: NDArray[np.int64],
    *,
    source_hz: int,
    settings: StreamSettings,
    runtime: Runtime,
    resident: tuple[int, int],
) -> MemoryNeeds:
    """What extraction will need.

    Args:
        encoder: ready to run, not yet used.
        choice: what is kept.
        lengths: (N,) samples of each utterance at the model's rate.
        source_hz: highest rate of the files.
        settings: batches, windows, threads.
        runtime: device and number format.
        resident: bytes of this process, now and the most so far.
    """
    rate, windows = encoder.sample_rate_hz, settings.windows
    longest = int(lengths.max(initial=0))
    max_samples = round(windows.max_s * rate)
    item_bytes = runtime.item_bytes
    cost = runtime.batch_cost_samples(rate)
    batches = _widest_batches(lengths[lengths <= max_samples], settings, rate=rate, batch_cost_samples=cost)
    is_cut = longest > max_samples and not windows.exact
    if is_cut:
        at_once = max(int(settings.batch_s * rate) // max_samples, 1)
        batches.append((min(at_once, -(-longest // max_samples) + 1), max_samples))
    one = _Forward(encoder, choice, item_bytes, runtime.device.type)
    batch = max((one.peak(*shape) for shape in batches), default=0)
    widest = max((rows * width for rows, width in batches), default=0)
    is_checked = is_cut and not choice.is_local
    seam, stretch = 0, min(round(stretch_seconds(windows) * rate), longest) if is_checked else 0
    if is_checked:
        seam = one.result(1, widest) + max(one.peak(1, stretch), one.result(1, stretch) + one.compared(stretch))
    decoded = settings.num_threads * min(max_samples, longest) * (2 + 2 * source_hz / rate) * 4
    measured = min(_MEASURED_S * rate, longest) * (source_hz / rate * 8 + 24 + 2 * 12 * 2) if is_cut else 0
    return MemoryNeeds(
        *resident,
        # in float32 whatever the precision: its error is measured against that before the run
        weights=_KERNELS + (_laid_out(encoder, 4) if runtime.device.type == "cpu" else 0),
        batch_s=widest / rate,
        batch=batch,
        seam_s=stretch / rate,
        seam=seam,
        audio=int((READ_AHEAD + 2) * widest * 4 + max(decoded, measured)),
        output=int(one.result(1, widest) * 1.25),  # in the number format of the files, and whether all are finite
        on_gpu=None if runtime.device.type == "cpu" else sum(p.numel() * 4 for p in encoder.parameters()),
    )


def _widest_batches(
    lengths: NDArray[np.int64], settings: StreamSettings, *, rate: int, batch_cost_samples: int | None
) -> list[tuple[int, int]]:
    """(rows, width) of the batch of most samples, padding included, and of the one of most rows."""
    if not len(lengths):
        return []
    limit = max(int(settings.batch_s * rate), 1)
    batches = eval_batches(lengths, micro_batch_samples=limit, batch_cost_samples=batch_cost_samples)
    shapes = [(len(batch), int(lengths[batch[0]])) for batch in batches]  # longest first
    return [max(shapes, key=lambda shape: shape[0] * shape[1]), max(shapes)]


def _laid_out(encoder: Encoder, item_bytes: int) -> int:
    """Weights that oneDNN keeps in an order of its own."""
    layers = [module for module in encoder.modules() if isinstance(module, nn.Linear | nn.Conv1d)]
    return sum(layer.weight.numel() * item_bytes for layer in layers)


@dataclass(frozen=True)
class _Forward:
    """Bytes of one pass of (rows, width) samples."""

    encoder: Encoder
    choice: LayerChoice
    item_bytes: int
    device_type: str

    @property
    def _dim(self) -> int:
        return self.encoder.latent_dim if self.choice.is_local else self.encoder.dim  # codes are fewer

    def _frames(self, rows: int, width: int) -> int:
        return rows * int(self.encoder.geometry.num_frames(width))

    def result(self, rows: int, width: int) -> int:
        """Frames that were asked for, float32."""
        numbers = self._dim * max(len(self.choice.numbers), 1)
        return self._frames(rows, width) * numbers * 4

    def compared(self, width: int) -> int:
        """One layer's frames as float64: both, their difference, its squares, and their products."""
        return self._frames(1, width) * self._dim * 8 * 5

    def peak(self, rows: int, width: int) -> int:
        """Of the front end, the projection and a block together: an allocator keeps what the one before has freed."""
        encoder, frames = self.encoder, self._frames(rows, width)
        latents, features = frames * encoder.latent_dim * 4, frames * encoder.dim * 4
        front = encoder.feature_encoder.activation_bytes(
            rows, width, item_bytes=self.item_bytes, device_type=self.device_type
        )
        return (
            front + 2 * latents + (0 if self.choice.is_local else features + self._block(rows, width))
            + self.result(rows, width) + rows * width * 4
        )  # fmt: skip

    def _block(self, rows: int, width: int) -> int:
        """The residual, and attention or feed-forward beside it; a squeezed network has fewer frames there."""
        encoder, block = self.encoder, self.encoder.context_network.blocks[0]
        assert isinstance(block, Block)
        frames = self._frames(rows, width) // encoder.context_stride
        residual, products = frames * encoder.dim * 4, frames * encoder.dim * self.item_bytes
        attention, inner = 5 * products, frames * block.feed_forward.inner.out_features * self.item_bytes
        if self.item_bytes == 2:  # queries, keys and values laid out by heads, and scores of a head or more
            scores = 2 * (frames // rows) ** 2
            attention += 3 * products + min(max(8 << 20, scores), rows * block.attention.num_heads * scores)
        return 2 * residual + max(attention, inner + products + residual)
