"""Text in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import audio_ssl
from audio_ssl.errors import AudioError, CheckpointError
from audio_ssl.inference.api import load_recogniser
from tests.unit.inference.conftest import noise, write_wav

WAVEFORM = noise(12_345)


def test_transcribe_takes_what_extract_takes(ctc_dir: Path, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", WAVEFORM)
    recogniser = load_recogniser(ctc_dir)
    text = audio_ssl.transcribe(recogniser, WAVEFORM)
    assert isinstance(text, str)
    assert text
    assert audio_ssl.transcribe(ctc_dir, [path, str(path)]) == [text, text]
    assert audio_ssl.transcribe(recogniser, [path, WAVEFORM, (WAVEFORM, 16_000)]) == [text] * 3


def test_the_first_input_without_text_is_named(ctc_dir: Path, tmp_path: Path) -> None:
    recogniser = load_recogniser(ctc_dir)
    with pytest.raises(AudioError, match=r"array 1 .*25 ms or more"):
        audio_ssl.transcribe(recogniser, [WAVEFORM, np.zeros(399, np.float32)])
    with pytest.raises(AudioError, match="no such file"):
        audio_ssl.transcribe(recogniser, [WAVEFORM, "nowhere.wav"])


def test_an_encoder_is_no_recogniser(model_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="must be a recogniser"):
        audio_ssl.transcribe(model_dir, WAVEFORM)
