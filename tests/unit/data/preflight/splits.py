"""Splits in memory for tests: a row is its seconds and its text, or an utterance."""

from pathlib import Path

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.preflight.notices import Split

RATE = 100


def row(i: int, seconds: float, text: str | None, **more) -> Utterance:
    return Utterance(f"u{i}", f"u{i}.wav", 0, round(seconds * RATE), RATE, text, **more)


def split(*rows: tuple[float, str | None] | Utterance, name: str = "train", root: Path = Path("/nowhere")) -> Split:
    """A split whose text rules are lower case and single spaces."""
    utterances = [r if isinstance(r, Utterance) else row(i, *r) for i, r in enumerate(rows)]
    manifest = Manifest.from_rows(utterances, root=root)
    return Split(name, manifest, [" ".join((u.text or "").lower().split()) for u in utterances])
