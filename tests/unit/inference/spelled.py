"""Audio whose text is known without training: each frame's samples say which symbol it is, and a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_ssl.config import ModelConfig
from audio_ssl.data.text import Vocabulary
from audio_ssl.inference.models import Recogniser
from tests.unit.inference.conftest import SYMBOLS

HOP, FIELD = 320, 400
SURE, UNSURE = -0.02, -6.0


def spelled(symbols: str | Sequence[int], *, frames_each: int = 1) -> np.ndarray:
    """A waveform whose frame t is the t-th symbol; in text ``-`` is blank and ``|`` parts words."""
    if isinstance(symbols, str):
        symbols = [0 if c == "-" else SYMBOLS.index(c) for c in symbols]
    values = np.repeat(np.asarray(symbols, dtype=np.float32) / 16, HOP * frames_each)
    return np.concatenate([values, values[-1:].repeat(FIELD - HOP)])


def speller() -> Recogniser:
    """A recogniser that reads :func:`spelled`, as sure of every frame as of the next."""
    geometry = ModelConfig().geometry
    encoder = SimpleNamespace(
        geometry=geometry, sample_rate_hz=16_000, normalize_waveform=False, context_stride=1,
        feature_encoder=SimpleNamespace(time_sums=lambda: None), mask_embedding=torch.zeros(1),
    )  # fmt: skip

    def read(waveforms: Tensor, num_samples: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        num_frames = geometry.num_frames(num_samples)
        symbols = (waveforms[:, 10::HOP] * 16).round().long()[:, : int(num_frames.max())]
        log_probs = torch.full((*symbols.shape, len(SYMBOLS)), UNSURE)
        log_probs.scatter_(-1, symbols[..., None], SURE)
        return log_probs, num_frames

    model: Any = SimpleNamespace(encoder=encoder, training=False)
    return Recogniser(_Callable(read, model), Vocabulary(SYMBOLS))  # type: ignore[arg-type]


class _Callable:
    def __init__(self, read: Any, model: Any) -> None:
        self._read, self.encoder, self.training = read, model.encoder, False

    def __call__(self, *arguments: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self._read(*arguments, **settings)
        return found


class Counted:
    """A model that counts its batches."""

    def __init__(self, model: Any) -> None:
        self._model, self.encoder, self.training, self.calls = model, model.encoder, False, 0

    def __call__(self, *arguments: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        found: tuple[Tensor, Tensor] = self._model(*arguments, **settings)
        return found
