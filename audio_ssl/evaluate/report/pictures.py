"""Pictures of one utterance: mel-spectrogram with masked spans, and how alike contexts and targets are over time."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.evaluate.report.charts import SIDE, Frame, Line, key, legend, shown, thinned, ticks
from audio_ssl.evaluate.report.examples import Examples, MaskedUtterance
from audio_ssl.evaluate.report.figures import mel_decibels, runs_of

TIE = 1e-5  # between cosines of equal targets
MAX_SIDE = 400  # pixels of a similarity matrix; more frames are averaged
LOUDEST_DB = 70.0  # below the loudest that is still drawn
MEL_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000)


def utterance(examples: Examples) -> str:
    """HTML of one utterance: what was masked of it, and what the model predicts there."""
    example = examples.masked
    if example is None:
        return "<p>Not available; see the last section.</p>"
    num_hit, by_chance = _hits(example)
    num_masked = int(example.is_masked.sum())
    return (
        f'<p>Utterance <span class="mono">{escape(example.name)}</span>, seen by {escape(examples.weights)} under '
        f"one mask as in training. At {num_hit} of {num_masked} masked frames no other target of the utterance's "
        f"masked frames is nearer than the own; chance would give {by_chance:.1f}.</p>"
        f'<figure><h4>Mel-spectrogram with masked spans <span class="unit">Hz, '
        f"decibels</span></h4>{spectrogram(example)}"
        "<figcaption>Brighter is louder, within 70 dB of the loudest place. Masks should cover speech as well as "
        "pauses, in "
        "spans long enough that neighbours do not give them away.</figcaption></figure>"
        f'<div class="pair"><figure><h4>Context and target over time <span class="unit">cosine</span></h4>'
        f"{similarity_over_time(example)}"
        "<figcaption>The loss is taken at masked frames only. In a run that learns the first line lies above the "
        "second there; "
        "where both are equal, nothing has been learned, and where both are near 1, everything looks alike: a collapse."
        "</figcaption></figure>"
        f'<figure><h4>Every context with every target <span class="unit">cosine</span></h4>{similarity_matrix(example)}'
        "<figcaption>Down: time of the context. A bright diagonal comes with learning; bright squares are "
        "stretches of one "
        "sound. A plain of one colour is a collapse.</figcaption></figure></div>"
    )


def spectrogram(example: MaskedUtterance) -> str:
    """HTML of the mel-spectrogram with the masked spans hatched over it."""
    seconds = len(example.waveform) / example.sample_rate_hz
    share = float(example.is_masked.mean())
    label = (
        f"Mel-spectrogram of {example.name}, {seconds:.1f} s. {len(runs_of(example.is_masked))} masked spans cover "
        f"{share:.0%} of the frames."
    )
    hatch = (
        '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path d="M0 0V7"/></pattern></defs>'
    )
    plot = mel_plot(example.waveform, example.sample_rate_hz, label=label, before=hatch, over=_spans(example, "masked"))
    return f'{plot}<p class="keys">{key("hatched", "masked: the model hears nothing of it")}</p>'


def mel_plot(
    waveform: NDArray[np.float32], sample_rate_hz: int, *, label: str, before: str = "", over: str = "",
    max_columns: int | None = None,
) -> str:  # fmt: skip
    """HTML of a mel-spectrogram with its ticks.

    Args:
        waveform: (S,) float32.
        sample_rate_hz: of it.
        label: says in words what is seen.
        before: SVG that is defined ahead of the picture.
        over: SVG that is drawn over the picture.
        max_columns: of the picture; more (10 ms each) are averaged.
    """
    decibels = mel_decibels(waveform, sample_rate_hz)
    if max_columns is not None and decibels.shape[1] > max_columns:
        edges = np.linspace(0, decibels.shape[1], max_columns + 1).astype(np.int64)
        decibels = (np.add.reduceat(decibels, edges[:-1], axis=1) / np.diff(edges)).astype(np.float32)
    picture = png_address(decibels[::-1], "magma", low=-LOUDEST_DB, high=0.0)
    seconds = len(waveform) / sample_rate_hz
    hertz = [hz for hz in MEL_TICKS_HZ if hz <= sample_rate_hz / 2]
    tops = _mel_places(hertz, sample_rate_hz / 2)
    y = "".join(f'<span style="bottom:{100 * up:.1f}%">{hz}</span>' for hz, up in zip(hertz, tops, strict=True))
    return (
        f'<div class="plot mel"><div class="y" aria-hidden="true">{y}</div>'
        f'<svg role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>{before}'
        f'<image href="{picture}" width="100%" height="100%" '
        f'preserveAspectRatio="none"/>{over}</svg>'
        f"{_seconds(seconds)}</div>"
    )


def similarity_over_time(example: MaskedUtterance) -> str:
    """HTML of the cosine of each frame's context with its own target, and with the targets of other masked frames."""
    own = example.similarity.diagonal()
    masked = np.flatnonzero(example.is_masked)
    among = example.similarity[:, masked]
    is_self = masked[None, :] == np.arange(len(own))[:, None]
    others = np.where(is_self, np.nan, among)
    step = example.hop_samples / example.sample_rate_hz
    seconds = len(example.waveform) / example.sample_rate_hz
    times = (np.arange(len(own)) * step).tolist()
    lines = [
        Line("with its own target", list(zip(times, own.tolist(), strict=True)), "train"),
        Line("with the targets of other masked frames, mean", _line(times, _nanmean(others)), "valid"),
    ]
    values = [y for line in lines for _, y in line.points]
    frame = Frame((0.0, seconds), (min(values, default=0.0) - 0.05, max(values, default=1.0) + 0.05))
    at_masked = own[masked]
    label = (
        f"Cosine of context and target over time. At masked frames: {_mean(at_masked)} with the own target, "
        f"{_mean(others[masked])} with the targets of other masked frames."
    )
    y = "".join(f'<span style="bottom:{100 * frame.up(v):.1f}%">{shown(v)}</span>' for v in ticks(*frame.y))
    inner = "".join(
        f'<g class="{line.style}"><path d="M'
        + "L".join(f"{SIDE * frame.across(x):.1f} {SIDE * (1 - frame.up(v)):.1f}" for x, v in thinned(line.points))
        + '"/></g>'
        for line in lines
        if line.points
    )
    keys = legend(lines, [f"{_mean(at_masked)} at masked frames", f"{_mean(others[masked])} at masked frames"])
    return (
        f'<div class="plot"><div class="y" aria-hidden="true">{y}</div><svg role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{_spans(example, 'shade')}"
        f'<svg viewBox="0 0 {SIDE:.0f} {SIDE:.0f}" width="100%" height="100%" '
        f'preserveAspectRatio="none">{inner}</svg></svg>'
        f'{_seconds(seconds)}</div>{keys}<p class="keys">{key("shade", "masked")}</p>'
    )


def similarity_matrix(example: MaskedUtterance) -> str:
    """HTML of the cosines of every context with every target."""
    matrix = _pooled(example.similarity)
    low, high = float(matrix.min()), float(matrix.max())
    seconds = len(example.waveform) / example.sample_rate_hz
    label = (
        f"Cosine of the context of each frame (down) with the target of each frame (across), from {low:.2f} (dark) to "
        f"{high:.2f} (bright); a bright diagonal means that a frame's own target is the nearest."
    )
    marks = ticks(0.0, seconds)
    y = "".join(f'<span style="bottom:{100 * (1 - s / seconds):.1f}%">{shown(s)} s</span>' for s in marks)
    return (
        f'<div class="plot square"><div class="y" aria-hidden="true">{y}</div>'
        f'<svg role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<image href="{png_address(matrix, "viridis", low=low, high=high)}" width="100%" height="100%" '
        f'preserveAspectRatio="none"/>'
        f"</svg>{_seconds(seconds, 'time of the target')}</div>"
        f'<p class="keys"><span class="ramp"></span>cosine {low:.2f} (dark) to {high:.2f} (bright)</p>'
    )


def _hits(example: MaskedUtterance) -> tuple[int, float]:
    """Masked frames to which no other masked frame's target is nearer than the own, and how many chance would give.

    Targets of equal codes are equal: they count as the own one, as in the loss.
    """
    masked = np.flatnonzero(example.is_masked)
    among = example.similarity[np.ix_(masked, masked)]
    own = among.diagonal()[:, None]
    is_hit = (among <= own + TIE).all(axis=1)
    return int(is_hit.sum()), float((np.abs(among - own) <= TIE).mean(axis=1).sum()) if len(masked) else 0.0


def _spans(example: MaskedUtterance, style: str) -> str:
    total, hop = len(example.waveform), example.hop_samples
    return "".join(
        f'<rect class="{style}" x="{100 * start * hop / total:.2f}%" '
        f'width="{100 * (min(stop * hop, total) - start * hop) / total:.2f}%" height="100%"/>'
        for start, stop in runs_of(example.is_masked)
    )


def _seconds(seconds: float, label: str = "time") -> str:
    spans = "".join(f'<span style="left:{100 * s / seconds:.1f}%">{shown(s)} s</span>' for s in ticks(0.0, seconds))
    return f'<div class="x" aria-hidden="true">{spans}</div><div class="xl" aria-hidden="true">{escape(label)}</div>'


def _mel_places(hertz: Sequence[int], highest_hz: float) -> list[float]:
    import librosa

    places = librosa.hz_to_mel(np.array([*hertz, highest_hz], dtype=np.float64))
    return [float(place / places[-1]) for place in places[:-1]]


def _pooled(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over squares, so that neither side is longer than :data:`MAX_SIDE`."""
    size = -(-len(matrix) // MAX_SIDE)
    if size == 1:
        return matrix
    length = len(matrix) // size * size
    squares = matrix[:length, :length].reshape(length // size, size, length // size, size)
    pooled: NDArray[np.float32] = squares.mean(axis=(1, 3))
    return pooled


def png_address(values: Any, colours: str, *, low: float, high: float) -> str:
    """A data address of a picture, a pixel a value, first row on top.

    Args:
        values: (rows, columns).
        colours: one of matplotlib's colour maps.
        low: value of its first colour.
        high: value of its last.
    """
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, values, cmap=colours, vmin=low, vmax=max(high, low + 1e-6), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _nanmean(values: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = (~np.isnan(values)).sum(1)
    sums = np.nansum(values, axis=1, dtype=np.float64)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _line(times: Sequence[float], values: NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(t, float(v)) for t, v in zip(times, values, strict=True) if np.isfinite(v)]


def _mean(values: NDArray[np.float32]) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.mean():.2f}" if len(finite) else "none"
