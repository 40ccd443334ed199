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
    document = ctc_document(config, symbols=symbols)
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
    assert isinstance(names["one"].frames, np.ndarray)
    assert [each.frames.shape for each in names["two"]] == [(2, 49, 48), (2, 49, 48)]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "(49, 48) [0.0125 0.0325]"
    assert [line.partition(" layers")[0] for line in said[1:3]] == ["Embedding(id='one',", "Embedding(id='two',"]
    assert len(said) == 4
