"""Transcripts before training: labels, and every row that CTC cannot learn from, by reason and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.preflight.notices import Fit
from audio_ssl.data.text import Vocabulary, min_ctc_frames
from audio_ssl.geometry import ConvGeometry

EMPTY = "empty transcript"
TOO_LONG = "transcript needs more frames than its audio has"


@dataclass(frozen=True)
class Transcripts:
    """The labels of a manifest.

    Attributes:
        texts: normalised transcript of each row; empty where there is none.
        labels: (L,) int64 symbol numbers of each row.
        refused: reason to the rows that CTC cannot learn from.
        fit: of labels and audio.
        min_samples: (N,) int64, the fewest samples whose frames can carry the labels of each row.
    """

    texts: tuple[str, ...]
    labels: tuple[Tensor, ...]
    refused: Mapping[str, Sequence[int]]
    fit: Fit
    min_samples: NDArray[np.int64]

    def of_rows(self, rows: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Labels of a batch: (sum of L,) int64 one after another, and (B,) int64 lengths."""
        chosen = [self.labels[i] for i in rows]
        lengths = torch.tensor([len(label) for label in chosen])
        return torch.cat(chosen).to(device, non_blocking=True), lengths.to(device, non_blocking=True)


def read_transcripts(
    manifest: Manifest, vocabulary: Vocabulary, *, sample_rate_hz: int, geometry: ConvGeometry
) -> Transcripts:
    """Encode every transcript and find the rows that CTC cannot learn from.

    Args:
        manifest: rows with text.
        vocabulary: the model's symbols.
        sample_rate_hz: the model's rate.
        geometry: samples to frames.
    """
    texts = tuple(vocabulary.normalize(text or "") for text in manifest.column("text"))
    labels = [vocabulary.encode(text) for text in texts]
    needs = np.array([min_ctc_frames(label) for label in labels], dtype=np.int64)
    num_labels = np.array([len(label) for label in labels], dtype=np.int64)
    fit = Fit(num_labels, needs, geometry.num_frames(manifest.num_samples_at(sample_rate_hz)))
    refused: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        if not text:
            refused.setdefault(EMPTY, []).append(i)
        elif fit.num_frames[i] < needs[i]:
            refused.setdefault(TOO_LONG, []).append(i)
    tensors = tuple(torch.tensor(label, dtype=torch.int64) for label in labels)
    min_samples = np.array([geometry.samples_for_frames(frames) for frames in needs.tolist()], dtype=np.int64)
    return Transcripts(texts, tensors, refused, fit, min_samples)
