"""What is measured: a model with its objective on a batch of noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.config.objective import OF_PRESETS
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch

CPU = torch.device("cpu")
PRECISIONS = ("fp32", "bf16")
# (M, K, N) of the machine's own products: a large cube, and both halves of base's feed-forward on 2 x 15 s.
GEMM_SHAPES = ((2048, 2048, 2048), (1500, 768, 3072), (1500, 3072, 768))


@dataclass(frozen=True)
class Case:
    """A model on ``rows`` rows of ``seconds`` of noise without padding.

    Dropouts are the preset's on all sides. Layer drop is 0 on all sides: it would give every candidate another number
    of blocks to run, and a fast step would be a lucky one.

    Attributes:
        name: as given to ``--case``.
        model: the encoder.
        objective: what pre-training adds.
        rows: of a batch.
        seconds: a row.
        gemm_shapes: of the products that the machine's peak is taken from.
    """

    name: str
    model: ModelConfig
    objective: Wav2Vec2Config
    rows: int
    seconds: float
    gemm_shapes: tuple[tuple[int, int, int], ...] = GEMM_SHAPES

    @property
    def audio_s(self) -> float:
        """Seconds of audio in a batch."""
        return self.rows * self.seconds

    @property
    def num_samples(self) -> int:
        """Of a row."""
        return round(self.seconds * self.model.sample_rate_hz)

    @property
    def label(self) -> str:
        """Name and size of the batch: ``base/2 x 15 s``."""
        return f"{self.name}/{self.rows} x {self.seconds:g} s"

    def of_size(self, *, rows: int, seconds: float) -> Case:
        """The same model on another batch."""
        return replace(self, rows=rows, seconds=seconds)

    def batch(self) -> Batch:
        """The batch; the same at every call."""
        return noise(self.rows, self.num_samples)


def noise(rows: int, num_samples: int) -> Batch:
    """Rows of noise of unit variance, equally long."""
    waveforms = torch.randn(rows, num_samples, generator=torch_generator(1, "bench"))
    return Batch(waveforms, torch.full((rows,), num_samples), tuple(range(rows)), is_full=True)


def _of_preset(name: str, preset: str, *, rows: int, seconds: float) -> Case:
    model = ModelConfig(preset=preset, layer_drop=0.0)
    return Case(name, model, Wav2Vec2Config(**OF_PRESETS[preset]), rows, seconds)


# For the tests of this harness: its figures mean nothing.
_SMOKE: dict[str, Any] = {
    "conv_dims": (16,) * 7, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64,
    "pos_conv_kernel": 16, "pos_conv_groups": 4, "layer_drop": 0.0,
}  # fmt: skip
CASES = {
    case.name: case
    for case in (
        _of_preset("base", "wav2vec2_base", rows=2, seconds=15),
        _of_preset("large", "wav2vec2_large", rows=1, seconds=10),
        _of_preset("small", "small", rows=4, seconds=10),
        _of_preset("tiny_cpu", "tiny_cpu", rows=4, seconds=10),
        Case("smoke", ModelConfig(preset="tiny_cpu", **_SMOKE), Wav2Vec2Config(), 2, 1.0, ((64, 64, 64),)),
    )
}
