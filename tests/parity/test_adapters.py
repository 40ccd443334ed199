"""Adapters after the blocks, as transformers has them (MMS): the same numbers both ways, or an honest refusal."""

from __future__ import annotations

import pytest
import torch
from checkpoints import save_transformers
from peers import random_config

from audio_ssl.config import ModelConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.convert import convert
from audio_ssl.interop.source import load_ctc, load_encoder
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, read_model_dir, save_model_dir

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
WIDTH = 8000


def adapted(order: str = "pre", eps: float = 1e-5, **changes) -> ModelConfig:
    return ModelConfig(**{
        **random_config(3).model_dump(), "norm_order": order, "layer_norm_eps": eps, "adapter_dim": 5, **changes,
    })  # fmt: skip


def save(path, config: ModelConfig):
    """An encoder whose adapters do something."""
    torch.manual_seed(3)
    encoder = build_encoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model_dir(path, encoder_document(config), {"encoder": encoder})
    return path


def test_ours_there_and_back(tmp_path):
    ours = save(tmp_path / "ours", adapted())
    theirs = convert(ours, tmp_path / "theirs", to="transformers").path  # which also runs it beside the peer
    peer, report = transformers.AutoModel.from_pretrained(theirs, output_loading_info=True)
    assert not any(report.values())
    waveforms, lengths = torch.randn(1, WIDTH), torch.tensor([WIDTH])
    with torch.no_grad():
        expected = peer.eval()(waveforms).last_hidden_state
        torch.testing.assert_close(load_encoder(ours)(waveforms, lengths).frames, expected, rtol=1e-4, atol=1e-5)
    back = convert(theirs, tmp_path / "back", to="audio_ssl").path
    first, second = read_model_dir(ours), read_model_dir(back)
    assert first.document["model"]["adapter_dim"] == second.document["model"]["adapter_dim"] == 5
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


def test_a_recogniser_of_theirs_with_adapters(tmp_path):
    peer = save_transformers(tmp_path / "theirs", "large", "ctc")
    config = peer.config
    config.adapter_attn_dim, config.layer_norm_eps = 7, 1e-5
    torch.manual_seed(5)
    peer = transformers.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    peer.save_pretrained(tmp_path / "theirs")
    model, document = load_ctc(tmp_path / "theirs")
    assert document["model"]["adapter_dim"] == 7
    waveforms, lengths = torch.randn(1, WIDTH), torch.tensor([WIDTH])
    with torch.no_grad():
        expected = peer.wav2vec2(waveforms).last_hidden_state
        found = model.encoder(waveforms, lengths).frames
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("order", "eps"), [("post", 1e-5), ("pre", 2e-5)])
def test_what_transformers_has_no_place_for_is_refused(tmp_path, order, eps):
    ours = save(tmp_path / "ours", adapted(order, eps))
    with pytest.raises(CheckpointError, match=r"with adapter_dim 5 norm_order must be 'pre' and layer_norm_eps 1e-05"):
        convert(ours, tmp_path / "theirs", to="transformers")
