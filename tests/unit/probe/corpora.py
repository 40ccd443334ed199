"""Folders of short noises that look like corpora, and items in memory without audio."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import soundfile as sf

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.probe.items import Items, Label

RATE = 8000


def write_noise(path: Path, seconds: float = 0.1, *, seed: int | None = None) -> None:
    """A file of noise; of its own, unless a seed is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = seed if seed is not None else crc32(f"{path.parent.name}/{path.name}".encode())
    samples = np.random.default_rng(own).integers(-9000, 9000, round(seconds * RATE)).astype(np.int16)
    sf.write(path, samples, RATE, subtype="PCM_16")


def items_of(told: Iterable[tuple[str, str, Label]], *, seconds: Sequence[float] = (), known: bool = True) -> Items:
    """Items of (path, speaker, label) that nobody reads, of a second each."""
    told = list(told)
    lengths = list(seconds) or [1.0] * len(told)
    rows = [
        Utterance(path, path, 0, round(RATE * length), RATE, speaker=who if known else None)
        for (path, who, _), length in zip(told, lengths, strict=True)
    ]
    return Items(
        Manifest.from_rows(rows, root=Path("/nowhere")),
        tuple(label for _, _, label in told),
        tuple(who if known else path for path, who, _ in told),
        (None,) * len(told),
        ((),) * len(told),
        known,
    )
