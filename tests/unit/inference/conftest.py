"""Tiny random models with the real geometry (hop 320, receptive field 400), and synthetic audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from audio_ssl.config import ModelConfig
from audio_ssl.inference.inputs import InputSource, open_one
from audio_ssl.inference.models import Recogniser, Runtime, open_recogniser
from audio_ssl.interop.source import load_encoder
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.files import ctc_document, encoder_document, save_model_dir

RATE = 16_000
SYMBOLS = ("<pad>", "<unk>", "|", "a", "b", "c", "t")
CONFIG = ModelConfig(
    preset="tiny_cpu", conv_dims=(8,) * 7, dim=16, num_layers=3, num_heads=2, ffn_dim=24,
    pos_conv_kernel=8, pos_conv_groups=4,
)  # fmt: skip
CPU = Runtime(torch.device("cpu"))


def noise(num_samples: int, *, seed: int = 0) -> np.ndarray:
    """Speech-like loudness, every sample different."""
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def write_wav(path: Path, waveform: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, waveform, rate, subtype="FLOAT")
    return path


def array_source(waveforms: Sequence[np.ndarray], *, sample_rate_hz: int) -> InputSource:
    """Waveforms in memory."""
    return InputSource({i: open_one(w, i, rate_hz=sample_rate_hz) for i, w in enumerate(waveforms)})


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("models") / "encoder"
    save_model_dir(path, encoder_document(CONFIG), {"encoder": build_encoder(CONFIG)})
    return path


@pytest.fixture(scope="session")
def encoder(model_dir: Path) -> Encoder:
    return load_encoder(model_dir)


@pytest.fixture(scope="session")
def ctc_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("models") / "ctc"
    model = CTCModel(build_encoder(CONFIG), len(SYMBOLS))
    model.head.weight.data.mul_(4)  # decided enough to spell something
    document = ctc_document(CONFIG, symbols=SYMBOLS)
    save_model_dir(path, document, {"encoder": model.encoder, "head": model.head})
    return path


@pytest.fixture(scope="session")
def recogniser(ctc_dir: Path) -> Recogniser:
    return open_recogniser(ctc_dir)
