"""How far frames of windows are from those of attention over both at once, measured where two windows meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.inference.windows import WindowSettings

Frames = NDArray[np.float32]
SHARE = 0.1
"""Of the audio of an input: what is computed once more to measure, the first long recording left aside."""


@dataclass(frozen=True)
class WindowError:
    """Kept frames of two neighbouring windows against those of one pass over the stretch that they cover.

    Attributes:
        relative: norm of the difference over the norm of the frames at full attention; of several layers the worst.
        worst_frame: the same of the frame where it is largest.
        least_cosine: of a frame with the same frame at full attention, the least of all.
        over_s: seconds that were attended to at once.
        by_layer: ``relative`` of each layer, where several were asked for.
    """

    relative: float
    worst_frame: float
    least_cosine: float
    over_s: float
    by_layer: tuple[float, ...] | None = None

    def as_document(self) -> dict[str, Any]:
        """For an index line."""
        values = {"relative": self.relative, "worst_frame": self.worst_frame}
        document: dict[str, Any] = {key: float(f"{value:.6g}") for key, value in values.items()}
        document |= {"least_cosine": round(self.least_cosine, 9), "over_s": round(self.over_s, 3)}
        if self.by_layer is not None:
            document["by_layer"] = [float(f"{value:.6g}") for value in self.by_layer]
        return document

    def __str__(self) -> str:
        """For people."""
        return (
            f"windows against attention over {self.over_s:.0f} s: relative error {self.relative:.2g}, worst frame "
            f"{self.worst_frame:.2g}, least cosine {self.least_cosine:.5f}"
        )


def compare(found: Sequence[Frames], exact: Frames, *, over_s: float) -> WindowError:
    """Measure.

    Args:
        found: (..., T, X) each, frames of windows, one after another.
        exact: (..., T', X), the same frames at full attention, T' the sum of all T.
        over_s: seconds that were attended to at once.
    """
    num_layers = exact.shape[0] if exact.ndim == 3 else 1
    exact = exact.reshape(num_layers, *exact.shape[-2:])
    layers = []
    for number, layer in enumerate(exact):
        own = np.concatenate([part.reshape(num_layers, *part.shape[-2:])[number] for part in found]).astype(np.float64)
        layers.append(_of_layer(own, layer.astype(np.float64)))
    relative, worst, cosine = (np.array(column) for column in zip(*layers, strict=True))
    by_layer = tuple(relative.tolist()) if num_layers > 1 else None
    return WindowError(float(relative.max()), float(worst.max()), float(cosine.min()), over_s, by_layer)


def _of_layer(found: NDArray[np.float64], exact: NDArray[np.float64]) -> tuple[float, float, float]:
    """(relative, worst frame, least cosine) of (T, X) frames."""
    errors, norms, own = (np.linalg.norm(x, axis=-1) for x in (found - exact, exact, found))
    tiny = np.finfo(np.float64).tiny
    cosines = np.where(errors == 0, 1.0, (found * exact).sum(-1) / np.maximum(norms * own, tiny))
    relative = np.linalg.norm(errors) / max(float(np.linalg.norm(norms)), tiny)
    return float(relative), float((errors / np.maximum(norms, tiny)).max()), float(min(cosines.min(), 1.0))


def rows_to_measure(lengths_s: Iterable[float], windows: WindowSettings) -> frozenset[int]:
    """The first utterance that is cut, and further ones as long as all stretches stay below a tenth of all audio.

    Depends on the input alone, so that it is the same for every rank and for a run that was cut off.

    Args:
        lengths_s: of every utterance, in order.
        windows: what is cut, and how.
    """
    chosen, done_s, extra_s = list[int](), 0.0, 0.0
    for row, seconds in enumerate(lengths_s):
        done_s += seconds
        stretch_s = min(stretch_seconds(windows), seconds)
        if seconds > windows.max_s and (not chosen or extra_s + stretch_s <= SHARE * done_s):
            chosen.append(row)
            extra_s += stretch_s
    return frozenset(chosen)


def stretch_seconds(windows: WindowSettings) -> float:
    """What two neighbouring windows cover."""
    return 2 * windows.max_s - windows.overlap_s


def worst_of(errors: Iterable[WindowError | None]) -> WindowError | None:
    """The one whose ``relative`` is largest; None where nothing was measured."""
    return max((error for error in errors if error is not None), key=lambda error: error.relative, default=None)
