"""What a number format costs beside float32, in this model on this input: measured before the run, said beside it.

The first utterances go through the model twice; nothing of it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio_ssl.inference.folder import SETTINGS_FILE
from audio_ssl.inference.models import AudioNeeds, Runtime
from audio_ssl.inference.source import Refusal, Samples, Source
from audio_ssl.inference.stream import Forward, Stream, StreamSettings, joined

LEAST_S, MOST_S, _SHARE = 5.0, 20.0, 0.02  # of audio: 20 s are a thousand frames
_MOST_ROWS = 100  # that are tried, for a corpus may begin with thousands of clips that cannot be read


@dataclass(frozen=True)
class PrecisionError:
    """How frames in a number format differ from those in float32; of several layers the worst.

    Attributes:
        precision: the number format.
        relative: root mean square of the difference over that of frames in float32; of codes the share that differs.
        least_cosine: of a frame with its own in float32; of all frames the least. None of codes.
        audio_s: seconds of audio that were measured, all frames of them.
    """

    precision: str
    relative: float
    least_cosine: float | None
    audio_s: float

    def __str__(self) -> str:
        measured = f"on {self.audio_s:.3g} s of this input"
        if self.least_cosine is None:
            return f"{self.precision}: {self.relative:.2%} of the codes differ from fp32's, {measured}"
        # Rounded down: 1.0000 of a frame that differs would promise too much.
        cosine = np.floor(self.least_cosine * 1e5) / 1e5
        return (
            f"{self.precision}: frames differ from fp32 by {self.relative:.2%}, least cosine {cosine:.5f}, {measured}"
        )


def stated_error(folder: Path, precision: str, measure: Callable[[], PrecisionError | None]) -> PrecisionError | None:
    """What an output folder says of its number format, or what is to be said of it.

    Args:
        folder: read where it has been begun, so that a run that goes on does not measure again.
        precision: of the run; nothing is said of a folder with another one, which the run will refuse.
        measure: called otherwise.
    """
    try:
        known = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        found = known["precision_error"]
        return PrecisionError(**found) if found is not None and found["precision"] == precision else None
    except FileNotFoundError:
        return measure()
    except (OSError, ValueError, TypeError, KeyError):
        return None  # whoever opens the folder to write says what is wrong with it


def measure_precision_error(
    source: Source,
    forward: Forward,
    *,
    needs: AudioNeeds,
    settings: StreamSettings,
    runtime: Runtime,
    is_codes: bool = False,
    after_exact: Callable[[], None] = lambda: None,
) -> PrecisionError | None:
    """Compare the frames of the first seconds of an input with the same in float32.

    Measured are 2 % of the input, at least 5 and at most 20 seconds: the cost of it is a part of the run's.

    Args:
        source: the input; what cannot be read is passed over.
        forward: the model.
        needs: of the model.
        settings: of batches, as in the run.
        runtime: with the number format in question.
        is_codes: whether frames are names, which are equal or not.
        after_exact: called between the two passes, to give back what only the one in float32 needs.

    Returns:
        The error; None for float32, or where the first utterances give no frame.
    """
    if runtime.precision == "fp32":
        return None
    head = _Head(source)
    in_fp32 = replace(runtime, precision="fp32")
    exact = _frames(Stream(head, forward, needs=needs, settings=settings, runtime=in_fp32), len(head))
    after_exact()
    found = _frames(Stream(head, forward, needs=needs, settings=settings, runtime=runtime), len(head))
    rows = sorted(exact.keys() & found.keys())
    if not rows:
        return None
    audio_s = sum(head.num_samples(row) / head.rate_hz(row) for row in rows)
    pairs = [(exact[row].astype(np.float64), found[row].astype(np.float64)) for row in rows]
    if is_codes:
        differing = sum(int((a != b).sum()) for a, b in pairs) / sum(a.size for a, _ in pairs)
        return PrecisionError(runtime.precision, _short(differing), None, _short(audio_s))
    relative, least_cosine = compare(pairs)
    return PrecisionError(runtime.precision, _short(relative), least_cosine, _short(audio_s))


def compare(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[float, float]:
    """Differences of frames (T, D) or (L, T, D) from exact ones, which stand first in each pair.

    Returns:
        Root mean square of the differences over that of exact values, of the layers the largest; and the least cosine.
    """
    difference = sum(((found - exact) ** 2).sum((-1, -2)) for exact, found in pairs)  # () or (L,)
    total = sum((exact**2).sum((-1, -2)) for exact, _ in pairs)
    cosines = np.concatenate([_cosines(exact, found).ravel() for exact, found in pairs])
    return float(np.sqrt(difference / np.maximum(total, np.finfo(float).tiny)).max()), float(cosines.min())


def _cosines(exact: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(exact, axis=-1) * np.linalg.norm(found, axis=-1)
    cosines = (exact * found).sum(-1) / np.where(lengths > 0, lengths, 1.0)
    result: NDArray[np.float64] = np.where(lengths > 0, cosines, (exact == found).all(-1))
    return result


def _short(value: float) -> float:
    return float(f"{value:.4g}")


class _Head:
    """The first seconds of a source, the last utterance cut where they are over."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._num_samples: list[int] = []
        first_rows = range(min(len(source), _MOST_ROWS))
        first_s = sum(source.num_samples(row) / source.rate_hz(row) for row in first_rows)
        whole_s = first_s * len(source) / max(len(first_rows), 1)  # nearly: nobody wants to look at millions of rows
        seconds = min(max(_SHARE * whole_s, LEAST_S), MOST_S)
        for row in first_rows:
            if seconds <= 0:
                break
            length = min(source.num_samples(row), round(seconds * source.rate_hz(row)))
            self._num_samples.append(length)
            seconds -= length / source.rate_hz(row)

    def __len__(self) -> int:
        return len(self._num_samples)

    def num_samples(self, row: int) -> int:
        return self._num_samples[row]

    def rate_hz(self, row: int) -> int:
        return self._source.rate_hz(row)

    def name(self, row: int) -> tuple[str, str]:
        return self._source.name(row)

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
        return self._source.load(row, start, num_samples, to_hz=to_hz)


def _frames(stream: Stream, num_rows: int) -> dict[int, NDArray[np.float32]]:
    results = joined(stream.run(range(num_rows)))
    return {result[0]: result[1] for result in results if not isinstance(result, Refusal)}
