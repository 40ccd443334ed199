"""Laws of the whole encoder and of the recogniser on it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from small_models import small_config, small_encoder

from audio_ssl.config import ModelConfig
from audio_ssl.model.ctc import CTCModel, ctc_loss_sum
from audio_ssl.model.encoder import build_encoder


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (ModelConfig(), 94_371_712),
        (ModelConfig(preset="wav2vec2_large"), 315_438_720),
        (ModelConfig(preset="wav2vec2_large", feature_norm="group", conv_bias=False), 315_428_992),
    ],
)
def test_parameter_counts_are_the_published_ones(config, count):
    with torch.device("meta"):
        encoder = build_encoder(config)
        assert sum(p.numel() for p in encoder.parameters()) == count
        if count == 94_371_712:
            assert sum(p.numel() for p in CTCModel(encoder, 32).parameters()) == 94_396_320


def test_the_model_needs_torch_alone():
    code = (
        "import sys, audio_ssl.model.encoder, audio_ssl.model.ctc;"
        "print([m for m in ('librosa','torchaudio','soundfile','pyarrow','fairseq2','transformers','scipy')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_what_others_read_off_an_encoder():
    encoder = small_encoder("large", normalize_waveform=True, sample_rate_hz=8000)
    assert (encoder.dim, encoder.latent_dim, encoder.num_layers) == (24, 13, 3)
    assert (encoder.sample_rate_hz, encoder.normalize_waveform) == (8000, True)
    assert encoder.geometry == small_config("large").geometry
    assert encoder.mask_embedding.shape == (24,)


def test_quantizer_sees_the_normed_latents():
    projection = small_encoder().feature_projection
    features, normed = projection(torch.randn(3, 7, 13))
    assert torch.equal(projection.projection(normed), features)
    assert normed.shape == (3, 7, 13)


def test_ctc_scores_are_normalised_float32_under_autocast():
    model = CTCModel(small_encoder("large"), 5, final_dropout=0.1).eval()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, num_frames = model(torch.randn(2, 2000), torch.tensor([2000, 1000]))
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 6))
    assert num_frames.tolist() == [6, 2]


def test_ctc_loss_by_hand():
    # two frames, symbols blank/a/b, label "a": paths aa, a-, -a
    probs = torch.tensor([[[0.5, 0.3, 0.2], [0.4, 0.5, 0.1]]])
    expected = -torch.log(torch.tensor(0.3 * 0.5 + 0.3 * 0.4 + 0.5 * 0.5))
    one = ctc_loss_sum(probs.log(), torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1]))
    torch.testing.assert_close(one, expected)
    # a sum over rows; the second row's label cannot fit its single frame and counts as zero
    labels = torch.tensor([[1, 0], [1, 2]])
    both = ctc_loss_sum(probs.log().repeat(2, 1, 1), torch.tensor([2, 1]), labels, torch.tensor([1, 2]))
    torch.testing.assert_close(both, expected)
