"""What units say of the speech they label: how evenly they are used, how long they last, how many bits they carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class UnitStatistics:
    """Counts over utterances; memory does not grow with them.

    Args:
        num_units: K.
    """

    def __init__(self, num_units: int) -> None:
        self.frames: NDArray[np.int64] = np.zeros(num_units, dtype=np.int64)  # of each unit
        self.runs: NDArray[np.int64] = np.zeros(num_units, dtype=np.int64)
        self.num_utterances = 0
        self.audio_s = 0.0

    def add(self, labels: NDArray[np.int32], audio_s: float) -> None:
        """Count an utterance: (T,) labels, and its length in seconds."""
        starts, _ = runs_of(labels)
        self.frames += np.bincount(labels, minlength=len(self.frames))
        self.runs += np.bincount(labels[starts], minlength=len(self.runs))
        self.num_utterances += 1
        self.audio_s += audio_s

    def to_document(self, hop_s: float) -> dict[str, Any]:
        """Figures, JSON-able.

        Bits a second are symbols a second times the entropy of their distribution (the bitrate of the ZeroSpeech
        challenges, 1904.11469): of all frames, and of runs (``deduplicated``).
        """
        frames, runs, used = int(self.frames.sum()), int(self.runs.sum()), self.frames > 0
        mean_run = frames / runs if runs else 0.0
        return {
            "utterances": self.num_utterances,
            "audio_s": self.audio_s,
            "frames": frames,
            "units": len(self.frames),
            "units_used": int(used.sum()),
            "unused": np.flatnonzero(~used).tolist(),
            "perplexity": 2.0 ** _entropy_bits(self.frames),
            "entropy_bits": _entropy_bits(self.frames),
            "mean_run_frames": mean_run,
            "mean_run_s": mean_run * hop_s,
            "bits_per_s": _entropy_bits(self.frames) * frames / self.audio_s if self.audio_s else 0.0,
            "bits_per_s_deduplicated": _entropy_bits(self.runs) * runs / self.audio_s if self.audio_s else 0.0,
            "frames_of_unit": self.frames.tolist(),
            "runs_of_unit": self.runs.tolist(),
        }


def runs_of(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First frame and length of each run of equal labels."""
    changes = np.flatnonzero(np.diff(labels)) + 1
    starts = np.concatenate([np.zeros(min(len(labels), 1), dtype=np.int64), changes])
    return starts, np.diff(np.append(starts, len(labels)))


def _entropy_bits(counts: NDArray[np.int64]) -> float:
    total = counts.sum()
    if not total:
        return 0.0
    shares = counts[counts > 0] / total
    return float(-(shares * np.log2(shares)).sum()) + 0.0
