"""Embedding folders made by hand, as ``extract`` writes them, with frames that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHARED: dict[str, Any] = {
    "version": 1, "format": "npy", "dtype": "fp32", "pool": None, "layers": None, "layer": "2",
     "layer_convention": "output of block 2", "hop_s": 0.02,
    "first_centre_s": 0.0125, "frame_rule": "...", "model_rate_hz": 16_000, "model_hash": "h1", "normalized": True,
    "precision": "fp32", "max_s": 60.0, "overlap_s": 4.0,
}  # fmt: skip


def write_embeddings(folder: Path, frames: Sequence[np.ndarray], settings: Mapping[str, Any] | None = None) -> Path:
    """A folder of ``.npy`` files ``u0`` ... with (T, D) or (L, T, D) frames of 16 kHz audio that is not there."""
    folder.mkdir(parents=True)
    shared = {**SHARED, **(settings or {})}
    lines = []
    for i, array in enumerate(frames):
        np.save(folder / f"u{i}.npy", array)
        num_frames, dim = array.shape[-2:]
        layers = {"num_layers": len(array)} if array.ndim == 3 else {}
        line = {
            "id": f"u{i}", "path": f"/speech/u{i}.wav", "start": 0, "num_samples": 320 * num_frames + 80,
            "sample_rate": 16_000, "file": f"u{i}.npy", "num_frames": num_frames, "dim": dim, **layers,
            "windowed": False,
        }  # fmt: skip
        keys = ("layer", "dtype", "hop_s", "first_centre_s", "model_hash", "normalized")
        lines.append(line | {key: shared[key] for key in keys})
    (folder / "embeddings.json").write_text(json.dumps(shared))
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def blobs(
    num_clusters: int, *, dim: int = 7, num_utterances: int = 23, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Utterances of far-apart Gaussian clusters, and the cluster of each frame."""
    generator = np.random.default_rng(seed)
    centres = 50.0 * generator.standard_normal((num_clusters, dim))
    labels = [generator.integers(0, num_clusters, size=31 + 7 * i) for i in range(num_utterances)]
    frames = [(centres[own] + generator.standard_normal((len(own), dim))).astype(np.float32) for own in labels]
    return frames, labels
