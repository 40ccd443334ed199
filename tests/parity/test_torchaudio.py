"""Parity with torchaudio: frames, layers, gradients, the recogniser, and state dicts both ways."""

from __future__ import annotations

import tomllib

import pytest
import torch
from peers import (
    OBJECTIVE,
    SEEDS,
    SYMBOLS,
    assert_same_frames,
    assert_same_gradients,
    batches,
    gradients,
    prefixed,
    probe,
    random_config,
    random_encoder,
    random_objective,
)

from audio_ssl.interop.torchaudio import export_torchaudio, import_torchaudio, to_torchaudio, torchaudio_arguments
from audio_ssl.model import files
from audio_ssl.model.ctc import CTCModel

models = pytest.importorskip("torchaudio.models", reason="torchaudio is not installed")


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_layers_and_gradients(seed):
    config = random_config(seed)
    encoder = random_encoder(config)
    theirs = models.wav2vec2_model(**torchaudio_arguments(config, num_symbols=None)).eval()
    theirs.load_state_dict(to_torchaudio(prefixed("encoder", encoder.state_dict())), strict=True)
    for waveforms, num_samples in batches(config):
        encoder.zero_grad()
        theirs.zero_grad()
        output = encoder(waveforms, num_samples, return_layers=True)
        layers, num_frames = theirs.extract_features(waveforms, num_samples)
        assert torch.equal(num_frames, output.num_frames)
        # Its last layers[-1] is ours before the network's norm, and so is each block's output.
        for ours, layer in zip(output.layers[1:], layers, strict=True):
            assert_same_frames(ours, layer, is_valid=output.is_valid)
        frames, _ = theirs(waveforms, num_samples)
        assert_same_frames(output.frames, frames, is_valid=output.is_valid)
        probe(output.frames, output.is_valid).backward()
        probe(frames, output.is_valid).backward()
        assert_same_gradients(to_torchaudio(prefixed("encoder", gradients(encoder))), gradients(theirs))


@pytest.mark.parametrize("seed", [0, 3])
def test_recogniser_goes_there_and_back(tmp_path, seed):
    config = random_config(seed)
    model = CTCModel(random_encoder(config), len(SYMBOLS)).eval()
    document = files.ctc_document(config, symbols=SYMBOLS, lowercase=True)
    files.save_model_dir(tmp_path / "ours", document, {"encoder": model.encoder, "head": model.head})
    result = export_torchaudio(tmp_path / "ours", tmp_path / "out.pt")
    assert result.dropped == ("encoder.mask_embedding",)
    arguments = tomllib.loads((tmp_path / "out.toml").read_text())["torchaudio"]
    theirs = models.wav2vec2_model(**arguments).eval()
    theirs.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True), strict=True)
    waveforms, num_samples = batches(config)[0]
    log_probs, num_frames = model(waveforms, num_samples)
    is_valid = torch.arange(log_probs.shape[1]) < num_frames[:, None]
    assert_same_frames(log_probs, theirs(waveforms, num_samples)[0].log_softmax(-1), is_valid=is_valid)
    result = import_torchaudio(tmp_path / "out.pt", tmp_path / "back")
    assert result.filled == ("encoder.mask_embedding",)
    back, document = files.load_ctc(tmp_path / "back")
    assert torch.equal(back(waveforms, num_samples)[0], log_probs)
    assert document["ctc"]["symbols"] == list(SYMBOLS)


def test_what_has_no_place_there_is_named(tmp_path):
    config = random_config(1)
    modules = {"encoder": random_encoder(config), "objective": random_objective(config)}
    files.save_model_dir(tmp_path / "ours", files.pretraining_document(config, OBJECTIVE), modules)
    dropped = export_torchaudio(tmp_path / "ours", tmp_path / "out.pt").dropped
    assert set(dropped) == {"encoder.mask_embedding", *prefixed("objective", modules["objective"].state_dict())}
