"""Transcripts before training: labels, and every row that CTC cannot learn from, by reason and name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.text import Vocabulary, min_ctc_frames, out_of_vocabulary
from audio_ssl.errors import ManifestError
from audio_ssl.geometry import ConvGeometry

NUM_NAMED = 8
EMPTY = "empty transcript"
TOO_LONG = "transcript needs more frames than its audio has"


@dataclass(frozen=True)
class Transcripts:
    """The labels of a manifest.

    Attributes:
        texts: normalised transcript of each row; empty where there is none.
        labels: (L,) int64 symbol numbers of each row.
        refused: reason to the rows that CTC cannot learn from.
        unknown: one line a character that the vocabulary lacks.
        min_samples: (N,) int64, the fewest samples whose frames can carry the labels of each row.
    """

    texts: tuple[str, ...]
    labels: tuple[Tensor, ...]
    refused: Mapping[str, Sequence[int]]
    unknown: tuple[str, ...]
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
    num_frames = geometry.num_frames(manifest.num_samples_at(sample_rate_hz))
    refused: dict[str, list[int]] = {}
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not text:
            refused.setdefault(EMPTY, []).append(i)
        elif num_frames[i] < min_ctc_frames(label):
            refused.setdefault(TOO_LONG, []).append(i)
    unknown = out_of_vocabulary(vocabulary, ((manifest.describe(i), text) for i, text in enumerate(texts)))
    tensors = tuple(torch.tensor(label, dtype=torch.int64) for label in labels)
    min_samples = np.array([geometry.samples_for_frames(min_ctc_frames(label)) for label in labels], dtype=np.int64)
    return Transcripts(texts, tensors, refused, tuple(map(str, unknown)), min_samples)


def refuse_odd_share(transcripts: Transcripts, manifest: Manifest, *, max_share: float, where: str) -> None:
    """Stop before training when too many rows are unusable.

    Raises:
        ManifestError: naming reasons, counts and the first rows.
    """
    num_odd = sum(map(len, transcripts.refused.values()))
    if num_odd <= max_share * len(manifest):
        return
    lines = [
        f"  - {len(rows)} rows: {reason}: {', '.join(manifest.describe(i) for i in rows[:NUM_NAMED])}"
        for reason, rows in transcripts.refused.items()
    ]
    raise ManifestError(
        f"{where}: at most {max_share:.0%} of the rows may have no usable transcript (ctc.max_odd_share), "
        f"got {num_odd} of {len(manifest)}:\n" + "\n".join(lines)
    )


def rare_characters(texts: Sequence[str]) -> str:
    """Characters that stand in one transcript only, which a model can hardly learn."""
    counts = Counter(c for text in texts for c in set(text))
    return "".join(sorted(c for c, n in counts.items() if n == 1))
