"""Number formats of embeddings: which format of files holds which, frames to stored numbers and back, and the error.

int8 is symmetric: a frame's scale is its largest magnitude / 127 (float32), a value is ``round(x / scale)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError

DTYPES_OF: dict[str, tuple[str, ...]] = {
    "npy": ("fp32", "fp16", "int8", "int32"),
    "matrix": ("fp32", "fp16", "int8", "int32"),
    "safetensors": ("fp32", "fp16", "bf16", "int8", "int32"),
    "parquet": ("fp32", "fp16", "int8", "int32"),
    "arrow": ("fp32", "fp16", "int8", "int32"),
    "kaldi": ("fp32",),
}
"""Which formats there are, and which dtypes each holds. ``int32`` is for codes, and codes are ``int32``."""

STORED: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),  # numpy has none: the upper half of a float32's bits
    "int8": np.dtype("i1"),
    "int32": np.dtype("<i4"),
}
INEXACT = ("fp16", "bf16", "int8")
_INT8_MAX = 127


@dataclass(frozen=True)
class Encoded:
    """Frames as they are stored.

    Attributes:
        values: (..., T, D) of the stored type.
        scales: (..., T) float32 for int8, else None.
    """

    values: NDArray[Any]
    scales: NDArray[np.float32] | None = None


def choose_dtype(file_format: str, dtype: str | None, *, holds_codes: bool = False) -> str:
    """The number format of a run.

    Args:
        file_format: a key of :data:`DTYPES_OF`.
        dtype: what was asked for; None for ``fp32``, or ``int32`` where codes are kept.
        holds_codes: whether the frames are whole numbers that name codebook entries.

    Raises:
        ConfigError: no such format or dtype, a format that does not hold it, or codes as anything but ``int32``.
    """
    if file_format not in DTYPES_OF:
        raise ConfigError(f"--format must be one of {', '.join(DTYPES_OF)}, got {file_format!r}")
    dtype = dtype or ("int32" if holds_codes else "fp32")
    if dtype not in STORED:
        raise ConfigError(f"--dtype must be one of {', '.join(STORED)}, got {dtype!r}")
    if holds_codes != (dtype == "int32"):
        must = "int32 for codes, which are whole numbers" if holds_codes else f"one of {', '.join(_REAL)} here"
        more = "" if holds_codes else "; int32 is for codes alone"
        raise ConfigError(f"--dtype must be {must}, got {dtype}{more}")
    if dtype not in DTYPES_OF[file_format]:
        ways = [name for name, held in DTYPES_OF.items() if dtype in held]
        own = " or ".join(d for d in DTYPES_OF[file_format] if d != "int32")
        way_out = f"--format {ways[0]}" if holds_codes else f"--dtype {own}, or --format {ways[0]}"
        raise ConfigError(f"--format {file_format} cannot hold {dtype}; use {way_out}")
    return dtype


_REAL = tuple(dtype for dtype in STORED if dtype != "int32")


def encode(frames: NDArray[np.float32], dtype: str) -> Encoded | str:
    """Frames to stored numbers, or why they cannot be stored.

    Args:
        frames: (..., T, D) float32.
        dtype: a key of :data:`STORED`.
    """
    if not np.isfinite(frames).all():
        return "the model gives NaN or infinity for it"
    if dtype == "int8":
        return _quantised(frames)
    if dtype == "bf16":
        stored = _to_bf16(frames)
        fits = np.isfinite(decode(Encoded(stored), dtype)).all()
    else:
        with np.errstate(over="ignore"):  # said in words below
            stored = frames.astype(STORED[dtype], copy=False)
        fits = np.isfinite(stored).all()
    names = {"fp16": "float16", "bf16": "bfloat16"}
    return Encoded(stored) if fits else f"its values exceed {names[dtype]}; use --dtype fp32"


def decode(stored: Encoded, dtype: str) -> NDArray[Any]:
    """Stored numbers to float32; float32 and int32 stay what they are, also memory-mapped."""
    if dtype in ("fp32", "int32"):
        return stored.values
    if dtype == "bf16":
        return (stored.values.astype("<u4") << 16).view("<f4")
    values: NDArray[np.float32] = stored.values.astype(np.float32)
    if dtype == "int8":
        assert stored.scales is not None
        values *= stored.scales[..., None]
    return values


@dataclass
class ErrorSummary:
    """The errors of many utterances, in percent.

    Attributes:
        count: of them.
        total: their sum.
        largest: of them.
    """

    count: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, percent: float) -> None:
        """Count an utterance."""
        self.count, self.total, self.largest = self.count + 1, self.total + percent, max(self.largest, percent)

    def __str__(self) -> str:
        return f"{self.total / self.count:.2g} % of an utterance's norm on average, {self.largest:.2g} % at most"


class Error:
    """How far stored frames are from what the model gave, summed up piece by piece."""

    def __init__(self) -> None:
        self._squared, self._signal = 0.0, 0.0

    def add(self, frames: NDArray[np.float32], stored: Encoded, dtype: str) -> None:
        """Count frames and what was stored of them."""
        off = decode(stored, dtype) - frames
        self._squared += _sum_of_squares(off)
        self._signal += _sum_of_squares(frames)

    @property
    def percent(self) -> float:
        """``100 |stored - given| / |given|``, Euclidean norms over all values."""
        return 100 * float(np.sqrt(self._squared / self._signal)) if self._signal else 0.0


def _sum_of_squares(values: NDArray[np.float32]) -> float:
    # einsum converts in small buffers: no copy of the frames in float64
    return float(np.einsum("...d,...d->...", values, values, dtype=np.float64, casting="safe").sum())


def _quantised(frames: NDArray[np.float32]) -> Encoded:
    scales = (np.abs(frames).max(axis=-1) / _INT8_MAX).astype("<f4")
    divisor = np.where(scales > 0, scales, 1)[..., None]  # silence: zeros, whose scale is 0
    values = np.rint(frames / divisor)
    # the scale of denormal frames is itself rounded hard, so that a quotient may leave the range
    return Encoded(np.clip(values, -_INT8_MAX, _INT8_MAX).astype("i1"), scales)


def _to_bf16(frames: NDArray[np.float32]) -> NDArray[np.uint16]:
    import torch

    rounded = torch.from_numpy(np.ascontiguousarray(frames)).to(torch.bfloat16)  # to nearest, ties to even
    return rounded.view(torch.int16).numpy().view("<u2")
