"""Frames and items that a test holds in memory."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.probe.items import Fold, Items, as_rows


@dataclass(frozen=True)
class Held:
    """Frames of items, (L, T, D) each."""

    frames: tuple[Tensor, ...]
    name: str = "held"
    hop_s: float = 0.02

    @property
    def num_layers(self):
        return self.frames[0].shape[0]

    @property
    def dim(self):
        return self.frames[0].shape[2]

    def of(self, item):
        return self.frames[item]

    def pooled(self):
        return torch.stack([torch.cat((f.mean(1), f.std(1, correction=0)), dim=-1) for f in self.frames])

    def layer(self, number):
        return Held(tuple(f[number : number + 1] for f in self.frames), self.name, self.hop_s)


def vectors(values):
    """Frames whose mean over time is each of the values, (N, D) or (N, L, D), and whose deviation is 1."""
    values = torch.as_tensor(values, dtype=torch.float32)
    layered = values[:, None] if values.ndim == 2 else values
    return Held(tuple(torch.stack((v - 1, v + 1), dim=1) for v in layered))  # (L, D) -> (L, 2, D)


def items_of(labels, speakers, **changes):
    """Items of a second each, without audio."""
    rows = [
        Utterance(f"u{i}", f"{speaker}/{i}.wav", 0, 16000, 16000, speaker=speaker) for i, speaker in enumerate(speakers)
    ]
    known = {
        "languages": (None,) * len(rows), "segments": ((),) * len(rows), **changes,
    }  # fmt: skip
    return Items(Manifest.from_rows(rows, root=Path("/nowhere")), tuple(labels), tuple(speakers), **known)


def fold(train, test, valid=(), name="split"):
    return Fold(name, as_rows(list(train)), as_rows(list(valid)), as_rows(list(test)))


def one_out(speakers):
    """Leave each speaker out once."""
    rows = range(len(speakers))
    return [
        fold([i for i in rows if speakers[i] != name], [i for i in rows if speakers[i] == name], name=name)
        for name in sorted(set(speakers))
    ]
