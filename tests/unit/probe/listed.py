"""Frames and items written down in a test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_ssl.config.probe import ProbeTask
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from audio_ssl.probe.items import Fold, Items, Segment, as_rows


@dataclass(frozen=True)
class ListedFrames:
    """Frames in memory: of each item (L, T, D)."""

    frames: Sequence[Tensor]
    hop_s: float = 0.02
    name: str = "listed"

    @property
    def num_layers(self) -> int:
        return self.frames[0].shape[0]

    @property
    def dim(self) -> int:
        return self.frames[0].shape[2]

    def of(self, item: int) -> Tensor:
        return self.frames[item]

    def pooled(self) -> Tensor:
        return torch.stack([torch.cat((f.mean(1), f.std(1, correction=0)), dim=-1) for f in self.frames])

    def layer(self, number: int) -> "ListedFrames":
        return ListedFrames([f[number : number + 1] for f in self.frames], self.hop_s, self.name)


def at_degrees(*degrees: float) -> Tensor:
    """(1, T, 2): a frame for each angle."""
    return torch.tensor([[[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]])


def listed_items(
    labels: Sequence[str | tuple[str, ...]],
    speakers: Sequence[str],
    *,
    languages: Sequence[str | None] | None = None,
    segments: Sequence[Sequence[Segment]] | None = None,
) -> Items:
    rows = [Utterance(f"u{i}", f"{i}.wav", 0, 16_000, 16_000) for i in range(len(labels))]
    return Items(
        Manifest.from_rows(rows, root="."),
        tuple(labels),
        tuple(speakers),
        tuple(languages or [None] * len(rows)),
        tuple(map(tuple, segments or [()] * len(rows))),
    )


def fold_of(test: Sequence[int], *, train: Sequence[int] = (), valid: Sequence[int] = (), name: str = "split") -> Fold:
    return Fold(name, as_rows(train), as_rows(valid), as_rows(test))


def task_of(kind: str, *, across: str = "speaker") -> ProbeTask:
    return ProbeTask.model_validate({
        "kind": kind, "title": "a task", "data": {"root": "x"}, "across": across,
        "labels": {"column": "speaker"},
    })  # fmt: skip
