"""Pictures: training curves, a mel-spectrogram with the masked spans, and both with transcripts on one page.

matplotlib and librosa are imported when a picture is drawn. Figures are built without pyplot, so drawing needs no
display and leaves nothing behind in the process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANCE_CANDIDATES = 101
"""The true latent and K = 100 distractors: chance is a loss of ln 101 = 4.615 nats and an accuracy of 1/101."""
DPI = 130
MASK_COLOUR = "#35c6ff"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class MelExample:
    """An utterance to show with its masked spans.

    Attributes:
        waveform: (S,) float32 mono.
        sample_rate_hz: of the waveform.
        is_masked: (T,) bool, True where the frame was masked.
        hop_samples: samples between the starts of neighbouring frames.
    """

    waveform: NDArray[np.float32]
    sample_rate_hz: int
    is_masked: NDArray[np.bool_]
    hop_samples: int


@dataclass(frozen=True)
class TranscriptExample:
    """A reference with what models recognised.

    Attributes:
        reference: what was said.
        hypotheses: model's name to its text.
    """

    reference: str
    hypotheses: Mapping[str, str]


def training_curves(rows: Sequence[Row], out: Path, *, num_candidates: int = CHANCE_CANDIDATES) -> None:
    """Draw loss, accuracy and code perplexity over updates.

    Args:
        rows: of ``metrics.jsonl``; figures that are absent or null are left out.
        out: PNG to write.
        num_candidates: latents that the contrastive task chooses from, for the chance lines.
    """
    figure = _figure(width=13.0, height=3.8)
    _draw_curves(figure.subplots(1, 3), rows, num_candidates)
    _save(figure, out)


def mel_with_mask(example: MelExample, *, out: Path | None = None, ax: Any = None) -> None:
    """Draw a mel-spectrogram (80 bands, dB) with the masked frames shaded.

    Args:
        example: what to draw.
        out: PNG to write, or
        ax: matplotlib axes to draw into.

    Raises:
        ValueError: neither or both of ``out`` and ``ax`` are given.
    """
    if (out is None) == (ax is None):
        raise ValueError("exactly one of out and ax must be given")
    if out is None:
        _draw_mel(ax, example)
        return
    figure = _figure(width=11.0, height=3.8)
    _draw_mel(figure.subplots(), example)
    _save(figure, out)


def demo_figure(
    rows: Sequence[Row],
    example: MelExample,
    transcripts: Sequence[TranscriptExample],
    *,
    out: Path,
    title: str = "audio_ssl",
    num_candidates: int = CHANCE_CANDIDATES,
) -> None:
    """Draw the main job on one page: curves of pre-training, masked spans, transcripts.

    Args:
        rows: of the pre-training's ``metrics.jsonl``.
        example: an utterance with its mask.
        transcripts: a few utterances with what was recognised.
        out: PNG to write.
        title: of the page.
        num_candidates: see :func:`training_curves`.
    """
    lines = _transcript_lines(transcripts)
    text_height = 0.45 + 0.16 * len(lines)
    heights = [3.4, 3.4, text_height]
    figure = _figure(width=13.0, height=sum(heights) + 0.7)
    figure.suptitle(title, fontsize=13)
    grid = figure.add_gridspec(3, 3, height_ratios=heights)
    _draw_curves([figure.add_subplot(grid[0, column]) for column in range(3)], rows, num_candidates)
    _draw_mel(figure.add_subplot(grid[1, :]), example)
    page = figure.add_subplot(grid[2, :])
    page.set_axis_off()
    page.set_title("transcripts of held-out voices", loc="left", fontsize=10)
    page.text(0, 1, "\n".join(lines), family="monospace", fontsize=8.5, va="top", transform=page.transAxes)
    _save(figure, out)


def _draw_curves(axes: Sequence[Any], rows: Sequence[Row], num_candidates: int) -> None:
    panels = (
        ("contrastive_loss", "contrastive loss (nats a target)", math.log(num_candidates)),
        ("accuracy", "contrastive accuracy (%)", 100 / num_candidates),
        ("code_perplexity", "code perplexity (entries in use)", None),
    )
    for ax, (name, label, chance) in zip(axes, panels, strict=True):
        scale = 100 if name == "accuracy" else 1
        for split, style in (("train", "-"), ("valid", "o--")):
            points = [
                (r["update"], scale * r[name]) for r in rows if r.get("split") == split and r.get(name) is not None
            ]
            if points:
                ax.plot(*zip(*points, strict=True), style, label=split, markersize=4, linewidth=1.4)
        if chance is not None:
            ax.axhline(chance, color="grey", linestyle=":", label=f"chance {chance:.3g}")
        ax.set_xlabel("update")
        ax.set_ylabel(label)
        ax.grid(visible=True, alpha=0.25)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)


def _draw_mel(ax: Any, example: MelExample) -> None:
    from librosa.display import specshow
    from matplotlib.patches import Patch

    rate = example.sample_rate_hz
    specshow(
        mel_decibels(example.waveform, rate), sr=rate, hop_length=_hop_samples(rate), x_axis="time", y_axis="mel",
        fmax=rate / 2, ax=ax, cmap="magma",
    )  # fmt: skip
    for start, stop in runs_of(example.is_masked):
        ax.axvspan(
            start * example.hop_samples / rate, stop * example.hop_samples / rate, color=MASK_COLOUR, alpha=0.42, lw=0
        )
    share = float(np.mean(example.is_masked)) if len(example.is_masked) else 0.0
    ax.set_xlim(0, len(example.waveform) / rate)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("frequency (Hz, mel scale)")
    ax.legend(
        handles=[Patch(color=MASK_COLOUR, alpha=0.6, label=f"masked: {share:.0%} of the frames")],
        loc="upper right", fontsize=8,
    )  # fmt: skip


def mel_decibels(waveform: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """(80, columns) mel-spectrogram in dB below its loudest place, low bands first, 10 ms a column."""
    import librosa

    power = librosa.feature.melspectrogram(
        y=np.asarray(waveform, dtype=np.float32), sr=sample_rate_hz, n_fft=max(sample_rate_hz // 40, 16),
        hop_length=_hop_samples(sample_rate_hz), n_mels=80, fmax=sample_rate_hz / 2,
    )  # fmt: skip
    return np.asarray(librosa.power_to_db(power, ref=np.max), dtype=np.float32)


def _hop_samples(sample_rate_hz: int) -> int:
    return max(sample_rate_hz // 100, 1)


def runs_of(is_masked: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open ranges of frames in which the mask is True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_masked, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _transcript_lines(transcripts: Sequence[TranscriptExample], *, width: int = 120) -> list[str]:
    names = ["reference", *(name for t in transcripts for name in t.hypotheses)]
    margin = max(map(len, names)) + 2
    lines = []
    for transcript in transcripts:
        for name, text in (("reference", transcript.reference), *transcript.hypotheses.items()):
            shown = text if len(text) <= width else text[: width - 1] + "…"
            # a dollar sign would start a formula
            lines.append(f"{name:<{margin}}{shown}".replace("$", r"\$"))
        lines.append("")
    return lines


def _figure(*, width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)
