"""Models of other systems, once they are read, are as indifferent to batches as our own; see tests/property."""

from __future__ import annotations

import pytest
import torch
from models import FORMATS, write_all

from audio_ssl.inference.models import open_encoder
from audio_ssl.interop.source import load_encoder


@pytest.mark.parametrize("seed", [0, 3])  # group norm and post-LN; layer norm and pre-LN
def test_an_utterance_is_the_same_in_any_batch_whoever_wrote_the_model(tmp_path, seed):
    torch.manual_seed(1)
    models, lengths = write_all(tmp_path, "pretraining", seed=seed), (5003, 3001, 400, 5003)
    waveforms = torch.randn(4, 5003)
    waveforms[1] = 0.9 + 1e-4 * waveforms[1]
    for row, length in enumerate(lengths):
        waveforms[row, length:] = 0.0
    for system in FORMATS:
        for read in (load_encoder, open_encoder):
            encoder = read(models[system])
            with torch.inference_mode():
                together = encoder(waveforms, torch.tensor(lengths), return_layers=True)
                for row, length in enumerate(lengths):
                    alone = encoder(waveforms[row : row + 1, :length], torch.tensor([length]), return_layers=True)
                    count = int(alone.num_frames)
                    pairs = zip((*alone.layers, alone.frames), (*together.layers, together.frames), strict=True)
                    for expected, found in pairs:
                        difference = (found[row, :count] - expected[0]).abs().max() / expected.abs().max()
                        assert difference <= 1e-5, (system, row)
