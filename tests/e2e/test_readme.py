"""The README's Python example runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from audio_ssl.config import ModelConfig
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, encoder_document, save_model_dir

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    config = ModelConfig(preset="tiny_cpu", conv_dims=(16,) * 7, dim=48, num_heads=3, pos_conv_groups=4)
    torch.manual_seed(0)
    encoder = build_encoder(config)
    save_model_dir(tmp_path / "runs/first/model", encoder_document(config), {"encoder": encoder})
    symbols = ("<pad>", "<unk>", "|", "a", "b")
    recogniser = CTCModel(encoder, len(symbols))
    document = ctc_document(config, symbols=symbols, lowercase=True)
    save_model_dir(tmp_path / "runs/asr/model", document, {"encoder": encoder, "head": recogniser.head})
    (tmp_path / "recordings").mkdir()
    noise = np.random.default_rng(0).normal(size=16000).astype(np.float32) / 10
    sf.write(tmp_path / "recordings/one.wav", noise, 16000)
    sf.write(tmp_path / "recordings/two.flac", noise[:12000], 8000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_example_runs(folder, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(example.splitlines()) <= 11
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["frames"].shape == (49, 48)
    assert isinstance(names["frames"], np.ndarray)
    assert [len(frames) for frames in names["batch"]] == [49, 74]
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["(49, 48) (49, 48) 2", "a frame every 20 ms"]
    assert len(said) == 3
