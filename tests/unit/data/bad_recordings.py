"""Every kind of bad recording that is known, and lists of segments over them."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest, Utterance

RATE, LENGTH = 16000, 48000
SPANS = ((0, 8000), (8000, 8000), (20000, 16000), (40000, 8000))  # segments of every recording
CUT = "must decode to the end|but decoding ends at"


def cut(path: Path, keep: float = 0.6) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


def poison(path: Path) -> None:
    samples, _ = sf.read(path, dtype="float32")
    samples[12345] = np.nan
    sf.write(path, samples, RATE, subtype="FLOAT")


def rot(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lock(path: Path) -> None:
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")


def rewrite(path: Path, num_samples: int, rate: int = RATE) -> None:
    sf.write(path, np.full(num_samples, 0.25), rate)


def damage(file: str, do: Callable[[Path], None], *good: int, reason: str, scan_reason: str) -> SimpleNamespace:
    return SimpleNamespace(file=file, do=do, good=good, reason=reason, scan_reason=scan_reason)


# What is done to a recording of 48000 samples after its segments were listed; which of SPANS can still be read; what
# is said of the others; and what a scan says of the file. A page of Ogg holds about half a second.
BAD = {
    "empty": damage("a.flac", lambda p: os.truncate(p, 0), reason="zero bytes", scan_reason="empty file"),
    "cut flac": damage("a.flac", cut, 0, 1, reason=CUT, scan_reason="truncated"),
    "cut wav": damage("a.wav", cut, 0, 1, reason=CUT, scan_reason="truncated"),
    "cut ogg": damage("a.ogg", cut, 0, reason=CUT, scan_reason="truncated"),
    "cut opus": damage("a.opus", cut, 0, reason=CUT, scan_reason="truncated"),
    "cut mp3": damage("a.mp3", cut, 0, 1, reason=CUT, scan_reason="truncated"),
    "no header": damage("a.flac", lambda p: os.truncate(p, 20), reason="must be readable", scan_reason="not audio"),
    "text": damage("a.wav", lambda p: p.write_text("no audio\n" * 99), reason="not recog", scan_reason="not audio"),
    "text in m4a": damage("a.m4a", lambda p: p.write_text("no" * 999), reason="ffmpeg", scan_reason="no decoder"),
    "nan": damage("a.wav", poison, 0, 2, 3, reason="sample 12345 is nan", scan_reason="NaN or infinity"),
    "rotten": damage("a.flac", rot, 0, 1, 3, reason="must decode to the end", scan_reason=""),
    "short": damage("a.wav", lambda p: rewrite(p, 200), reason="decoding ends at 200: ", scan_reason="too short"),
    "missing": damage("a.flac", Path.unlink, reason="no such file", scan_reason=""),
    "other rate": damage("a.wav", lambda p: rewrite(p, LENGTH, 8000), reason="16000 Hz, got 8000 Hz", scan_reason=""),
    "folder": damage("a.wav", folder, reason="it is a folder", scan_reason=""),
    "locked": damage("a.flac", lock, reason="must be readable audio", scan_reason="unreadable"),
}
KINDS = {"a.opus": {"format": "OGG", "subtype": "OPUS"}, "a.wav": {"subtype": "FLOAT"}, "a.m4a": {"format": "WAV"}}


def recording(path: Path, *, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-16384, 16384, LENGTH) / 32768
    sf.write(path, samples.astype(np.float32), RATE, **KINDS.get(path.name, {}))


def listed_rows(root: Path, names: list[str]) -> list[Utterance]:
    """Segments of the recordings, and rows of two good files before, between and behind."""
    rows = []
    for i, name in enumerate(names):
        if not (root / name).exists():
            recording(root / name, seed=i)
        rows += [Utterance(f"{name}#{n}", name, start, length, RATE) for n, (start, length) in enumerate(SPANS)]
    for i in range(2):
        recording(root / f"good{i}.flac", seed=99 + i)
        rows.insert(i * 3, Utterance(f"good{i}", f"good{i}.flac", 1000 * i, 30000, RATE))
    return rows


def opened(manifest: Manifest, engine: str, **settings) -> Loader:
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip(f"fairseq2: {fairseq2_unavailable()}")
    return Loader(
        manifest, **{"sample_rate_hz": RATE, "normalize": False, "engine": engine, "num_workers": 2} | settings
    )
