"""Fine-tuning: what is frozen stays, what is masked changes, and the loss is torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audio_ssl.config import CTCConfig, ModelConfig
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.tensors import Batch
from audio_ssl.train.finetune import FinetuneModule, summarize
from audio_ssl.train.transcripts import Transcripts

LABELS = (torch.tensor([1, 2, 3]), torch.tensor([4, 4]), torch.tensor([2]))
TRANSCRIPTS = Transcripts(("abc", "dd", "b"), LABELS, {}, (), np.zeros(3, dtype=np.int64))
BATCH = Batch(
    torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000, 7000, 5003]), (2, 0, 1)
)
UNMASKED = {"mask_prob": 0.0, "channel_mask_prob": 0.0}


def make(**config) -> FinetuneModule:
    torch.manual_seed(3)
    shape = ModelConfig(
        preset="tiny_cpu", conv_dims=(8,) * 7, dim=24, num_heads=3, num_layers=2, ffn_dim=31, pos_conv_groups=4,
        pos_conv_kernel=4,
    )  # fmt: skip
    model = CTCModel(build_encoder(shape), 5, final_dropout=config.get("final_dropout", 0.0))
    return FinetuneModule(model, transcripts=TRANSCRIPTS, config=CTCConfig(**config))


def run(module: FinetuneModule, *, update: int = 0, seed: int = 1):
    return module(BATCH, update=update, generator=torch.Generator().manual_seed(seed))


def test_without_masks_the_loss_is_torchs_ctc_row_by_row():
    module = make(**UNMASKED).eval()
    terms = run(module)
    expected = 0.0
    for i, row in enumerate(BATCH.rows):
        waveform = BATCH.waveforms[i : i + 1, : BATCH.num_samples[i]]
        output = module.encoder(waveform, BATCH.num_samples[i : i + 1])
        log_probs = F.log_softmax(module.head(output.frames), dim=-1).transpose(0, 1)
        label = LABELS[row][None]
        expected += F.ctc_loss(log_probs, label, output.num_frames, torch.tensor([label.numel()]), reduction="sum")
    torch.testing.assert_close(terms.loss_sum, expected, rtol=1e-4, atol=1e-4)
    assert terms.num_targets == 3
    figures = summarize(terms.sums)
    assert figures["loss"] == pytest.approx(expected.item() / 6, rel=1e-4)  # six labels in all
    assert 0 <= figures["blank_share"] <= 1


@pytest.mark.parametrize(
    ("config", "update", "learns"),
    [
        ({"freeze_feature_encoder": True}, 0, {"head", "context", "projection"}),
        ({"freeze_feature_encoder": False}, 0, {"head", "context", "projection", "conv"}),
        ({"freeze_encoder_updates": 7}, 6, {"head"}),
        ({"freeze_encoder_updates": 7, "freeze_feature_encoder": False}, 7, {"head", "context", "projection", "conv"}),
    ],
)
def test_only_what_is_not_frozen_gets_a_gradient(config, update, learns):
    module = make(**UNMASKED, **config).train()
    run(module, update=update).loss_sum.backward()
    parts = {
        "head": module.head.weight,
        "context": module.encoder.context_network.blocks[0].attention.query.weight,
        "projection": module.encoder.feature_projection.projection.weight,
        "conv": module.encoder.feature_encoder.layers[0].conv.weight,
    }
    assert {name for name, p in parts.items() if p.grad is not None and p.grad.any()} == learns


@pytest.mark.parametrize("mask", [{"mask_prob": 0.65}, {"channel_mask_prob": 0.5, "channel_mask_span": 5}])
def test_masks_change_the_loss_and_follow_the_generator(mask):
    module = make(**{**UNMASKED, **mask}).eval()
    plain = make(**UNMASKED).eval()
    assert torch.equal(run(module, seed=1).loss_sum, run(module, seed=1).loss_sum)
    assert not torch.equal(run(module, seed=1).loss_sum, run(module, seed=2).loss_sum)
    assert not torch.equal(run(module, seed=1).loss_sum, run(plain, seed=1).loss_sum)


def test_tensor_names_are_those_of_a_recogniser_directory():
    names = {name.split(".")[0] for name in make().state_dict()}
    assert names == {"encoder", "head"}


def test_the_final_dropout_rests_in_validation():
    module = make(**UNMASKED, final_dropout=0.5).eval()
    assert torch.equal(run(module).loss_sum, run(module).loss_sum)
