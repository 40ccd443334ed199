"""Small tasks, candidates and outcomes, made by hand: no audio, no model, no head that learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audio_ssl.config.probe import ProbeData, ProbeLabels, ProbeTask
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.geometry import ConvGeometry
from audio_ssl.probe.candidates import Candidate, Role
from audio_ssl.probe.items import Fold, Items, as_rows
from audio_ssl.probe.outcome import Amounts, Measured, TaskOutcome
from audio_ssl.probe.run import Asked
from audio_ssl.probe.scores import Draws, Result, Score, share_score

VOICES = ("ann", "bob", "cy")
TASK = ProbeTask(
    kind="classify", title="letters, speakers held out", data=ProbeData(root="letters"),
    labels=ProbeLabels(pattern="(?P<label>.)"), heads=("linear",),
)  # fmt: skip


def candidate(
    name: str, role: Role = "model", *, digest: str = "", num_layers: int = 1, random_of: tuple[str, ...] = (),
    path: Path | None = None,
) -> Candidate:  # fmt: skip
    return Candidate(
        name, role, 16_000, ConvGeometry((400,), (320,)), num_layers, 2, "fp32", digest or f"digest of {name}",
        open=None, random_of=random_of, path=path, model_hash="00ff" if role == "model" else None,
    )  # fmt: skip


CANDIDATES = (
    candidate("log-mel", "log_mel"),
    candidate("log-mel, 140 ms", "log_mel"),
    candidate("MFCC", "mfcc"),
    candidate("random weights, a", "random", num_layers=3, random_of=("first",)),
    candidate("random weights, b", "random", num_layers=2, random_of=("second",)),
    candidate("first", num_layers=3),
)


def asked(root: Path, *, labels: str = "xyxyxy", name: str = "letters", task: ProbeTask = TASK) -> Asked:
    """Six items of three speakers, of whom the last is measured on."""
    rows = [
        Utterance(f"{label}{i}", f"{label}/{i}.wav", 0, 16_000 * (1 + i), 16_000, None, VOICES[i // 2])
        for i, label in enumerate(labels)
    ]
    manifest = Manifest.from_rows(rows, root=root)
    speakers = tuple(VOICES[i // 2] for i in range(6))
    items = Items(manifest, tuple(labels), speakers, (None,) * 6, ((),) * 6)
    return Asked(name, task, items, [Fold("split", as_rows([0, 1]), as_rows([2, 3]), as_rows([4, 5]))], "letters.toml")


class FakeFrames:
    """Frames of six items, all alike."""

    def __init__(self, name: str, num_layers: int = 1, *, layers: Sequence[int] | None = None) -> None:
        self.name, self.layers = name, tuple(range(num_layers)) if layers is None else tuple(layers)
        self.num_layers, self.dim, self.hop_s = len(self.layers), 2, 0.02

    def of(self, item: int) -> Tensor:
        return torch.ones(self.num_layers, 3, 2)

    def pooled(self) -> Tensor:
        """Item i stands at angle i / 10 in layer 0, and at twice that in layer 1 ..."""
        angles = torch.arange(6)[:, None] / 10 * (1 + torch.tensor(self.layers))
        return torch.stack((angles.cos(), angles.sin(), torch.zeros_like(angles), torch.zeros_like(angles)), dim=-1)

    def layer(self, number: int) -> FakeFrames:
        return FakeFrames(self.name, layers=[self.layers[number]])


def score(hits: Sequence[float], *, out_of: int = 10, seeds: Sequence[int] = (1,), metric: str = "accuracy") -> Score:
    """A share of hits of each speaker."""
    counts = {voice: (float(own), float(out_of)) for voice, own in zip(VOICES, hits, strict=True)}
    return share_score(
        metric, dict.fromkeys(seeds, counts), draws=Draws.of(VOICES, len(seeds)), higher_is_better=metric == "accuracy"
    )


def outcome(
    hits: dict[str, Sequence[float]], *, candidates: Sequence[Candidate] = CANDIDATES, warnings: tuple[str, ...] = (),
    layers: dict[str, Sequence[Sequence[float]]] | None = None, weights: dict[str, tuple[float, ...]] | None = None,
    metric: str = "accuracy", name: str = "letters", notes: tuple[str, ...] = (),
) -> TaskOutcome:  # fmt: skip
    """A task with one head, and hits of each speaker out of ten by each candidate."""
    measured = tuple(
        Measured(
            one, (Result("linear", score(hits[one.name], metric=metric), layer_weights=(weights or {}).get(one.name)),),
            tuple(Result("linear", score(own, metric=metric), layer=n)
                  for n, own in enumerate((layers or {}).get(one.name, ()))),
        )
        for one in candidates if one.name in hits
    )  # fmt: skip
    parts = {"train": Amounts(2, 0.5, 1), "valid": Amounts(0, 0.0, 0), "test": Amounts(30, 1.5, 3)}
    return TaskOutcome(
        name, TASK, "letters.toml", {"split": parts}, Amounts(32, 2.0, 4), True, 0.5, measured, notes, warnings
    )  # fmt: skip


def is_same(a: Score, b: Score) -> bool:
    """To the last bit."""
    return (
        (a.metric, a.value, a.num_blocks, a.of_seed, a.higher_is_better, a.of_block)
        == (b.metric, b.value, b.num_blocks, b.of_seed, b.higher_is_better, b.of_block)
        and np.array_equal(a.resamples, b.resamples, equal_nan=True)
    )  # fmt: skip
