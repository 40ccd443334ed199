"""Frames and items that tests make up: no file, no model."""

from pathlib import Path

import numpy as np
import torch

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.probe.items import Fold, Items, as_rows

HOP_S = 0.02


class InMemory:
    """Frames of all items, (L, T, D) each."""

    def __init__(self, clips, *, hop_s=HOP_S, name="made up"):
        self._clips = [torch.as_tensor(np.asarray(clip), dtype=torch.float32) for clip in clips]
        self.name, self.hop_s = name, hop_s
        self.num_layers, _, self.dim = self._clips[0].shape

    def of(self, item):
        return self._clips[item].clone()

    def pooled(self):
        parts = [torch.cat((clip.mean(1), clip.std(1, correction=0)), dim=-1) for clip in self._clips]
        return torch.stack(parts)

    def layer(self, number):
        return InMemory([clip[number : number + 1] for clip in self._clips], hop_s=self.hop_s)


def items_of(labels, speakers, *, segments=None):
    rows = [Utterance(f"u{i}", f"{i}.wav", 0, 16000, 16000) for i in range(len(labels))]
    manifest = Manifest.from_rows(rows, root=Path("/made/up"))
    nothing = tuple(() for _ in labels)
    return Items(manifest, tuple(labels), tuple(speakers), (None,) * len(labels), segments or nothing)


def fold_of(train, test, *, valid=(), name="split"):
    return Fold(name, as_rows(list(train)), as_rows(list(valid)), as_rows(list(test)))
