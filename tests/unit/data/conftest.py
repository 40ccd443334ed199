"""Small audio files, and the folder of bad input that users meet."""

import faulthandler
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.audio import probe
from audio_ssl.data.manifest import Manifest, Utterance

WriteAudio = Callable[..., np.ndarray]
DEADLINE_S = 300  # generous: what it stops would wait for ever


def noise(num_samples: int, *, seed: int = 0, channels: int = 1) -> np.ndarray:
    """(S,) or (S, channels) float32 in -0.5..0.5, on the 16-bit grid so that PCM and FLAC keep it exactly."""
    shape = (num_samples,) if channels == 1 else (num_samples, channels)
    return (np.random.default_rng(seed).integers(-16384, 16384, shape) / 32768).astype(np.float32)


@pytest.fixture
def never_hangs() -> Iterator[None]:
    """A test that waits for ever ends the whole run, with every thread's stack."""
    faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def write_audio() -> WriteAudio:
    def write(
        path: Path, num_samples: int, *, rate: int = 16000, channels: int = 1, seed: int = 0, **kind
    ) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = noise(num_samples, seed=seed, channels=channels)
        sf.write(path, samples, rate, **kind)
        return samples

    return write


@pytest.fixture
def corpus(tmp_path: Path, write_audio: WriteAudio) -> Manifest:
    """Seven FLAC files of 0.5 s to 1.1 s at 16 kHz, speakers s0, s1, s2 in turn."""
    rows = []
    for i in range(7):
        name = f"s{i % 3}/u{i}.flac"
        write_audio(tmp_path / "audio" / name, 8000 + 1600 * i, seed=i)
        info = probe(tmp_path / "audio" / name)
        rows.append(Utterance(f"u{i}", name, 0, info.num_samples, 16000, f"text {i}", f"s{i % 3}", "en"))
    return Manifest.from_rows(rows, root=tmp_path / "audio")


@pytest.fixture(scope="session")
def bad_folder(tmp_path_factory: pytest.TempPathFactory, write_audio: WriteAudio) -> Path:
    """One file of each kind of trouble, and good files with unusual names, rates and lengths."""
    root = tmp_path_factory.mktemp("bad input")
    write_audio(root / "good.wav", 16000)
    write_audio(root / "8k.wav", 8000, rate=8000)
    write_audio(root / "48k stereo.wav", 48000, rate=48000, channels=2)
    write_audio(root / "имя с пробелами" / "語音 1.flac", 16000)
    write_audio(root / "UPPER.WAV", 16000)
    (root / "zero.flac").touch()
    (root / "text.wav").write_text("this is not audio at all, but a sentence\n" * 20)
    write_audio(root / "short.wav", 200)
    _truncate(write_audio, root / "cut.flac", keep=0.6)
    _truncate(write_audio, root / "cut.wav", keep=0.6)
    samples = noise(16000)
    samples[12345] = np.nan
    sf.write(root / "nan.wav", samples, 16000, subtype="FLOAT")
    sf.write(root / "hour.flac", np.zeros(8000 * 3600, dtype=np.int16), 8000)
    (root / "._good.wav").write_bytes(b"\x00\x05\x16\x07")
    (root / "notes.pdf").write_bytes(b"%PDF")
    return root


def _truncate(write_audio: WriteAudio, path: Path, *, keep: float) -> None:
    write_audio(path, 48000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
