"""Pictures are drawn from whatever a run has logged, and show the spans that were masked."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from audio_ssl.evaluate.report.figures import (
    MelExample,
    TranscriptExample,
    _draw_curves,
    demo_figure,
    mel_with_mask,
    runs_of,
    training_curves,
)

IS_MASKED = np.array([0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1], dtype=bool)
EXAMPLE = MelExample(np.sin(np.arange(3_760) / 9).astype(np.float32), 16_000, IS_MASKED, 320)
ROWS = [
    {"split": "train", "update": 10, "contrastive_loss": 4.6, "accuracy": 0.01, "code_perplexity": 30.0},
    {"split": "valid", "update": 20, "contrastive_loss": 4.2, "accuracy": 0.05, "code_perplexity": None},
    {"split": "train", "update": 20, "contrastive_loss": None, "accuracy": 0.04},
]


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def testruns_of_of_the_mask() -> None:
    assert runs_of(IS_MASKED) == [(1, 3), (5, 6), (8, 11)]
    assert runs_of(np.zeros(0, dtype=bool)) == []


def test_curves_hold_the_rows_and_the_chance_lines() -> None:
    axes = Figure().subplots(1, 3)
    _draw_curves(axes, ROWS, 101)
    lines = [{line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()} for ax in axes]
    assert lines[0]["train"] == [[10, 4.6]]
    assert lines[0]["valid"] == [[20, 4.2]]
    assert lines[1]["train"] == [[10, 1.0], [20, 4.0]]  # per cent
    assert lines[0]["chance 4.62"][0][1] == pytest.approx(math.log(101))
    assert lines[2].keys() == {"train"}
    assert [ax.get_xlabel() for ax in axes] == ["update"] * 3


def test_the_spectrogram_is_shaded_where_frames_are_masked() -> None:
    ax = Figure().subplots()
    mel_with_mask(EXAMPLE, ax=ax)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    np.testing.assert_allclose(spans, [(0.02, 0.06), (0.10, 0.12), (0.16, 0.22)])
    assert ax.get_legend().get_texts()[0].get_text() == "masked: 55% of the frames"
    assert ax.get_xlabel() == "time (s)"


def test_pictures_are_written(tmp_path: Path) -> None:
    training_curves(ROWS, tmp_path / "new/curves.png")
    mel_with_mask(EXAMPLE, out=tmp_path / "mel.png")
    texts = [TranscriptExample("it costs $5 or $6", {"pre-trained": "it cost", "random": ""})]
    demo_figure([], EXAMPLE, texts, out=tmp_path / "demo.png")
    assert all(is_png(tmp_path / name) for name in ("new/curves.png", "mel.png", "demo.png"))


def test_a_picture_needs_one_place() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        mel_with_mask(EXAMPLE)
