"""Fine-tuning: what is frozen stays, what is masked changes, and the loss is torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from audio_ssl.config import CTCConfig, ModelConfig
from audio_ssl.errors import ConfigError
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.tensors import Batch
from audio_ssl.train.ctc_module import FinetuneModule, summarize
from audio_ssl.train.learning import learning_groups, learning_remarks, require_blocks
from audio_ssl.train.precision import autocast
from audio_ssl.train.transcripts import Transcripts

LABELS = (torch.tensor([1, 2, 3]), torch.tensor([4, 4]), torch.tensor([2]))
TRANSCRIPTS = Transcripts(("abc", "dd", "b"), LABELS, {}, np.zeros(3, dtype=np.int64))
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
    told = config.get("intermediate_layers", ()) if config.get("self_conditioned") else ()
    model = CTCModel(build_encoder(shape), 5, final_dropout=config.get("final_dropout", 0.0), conditioned_after=told)
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("config", "update", "learns"),
    [
        ({"freeze_feature_encoder": True}, 0, {"head", "context", "projection"}),
        ({"freeze_feature_encoder": False}, 0, {"head", "context", "projection", "conv"}),
        ({"freeze_encoder_updates": 7}, 6, {"head"}),
        ({"freeze_encoder_updates": 7, "freeze_feature_encoder": False}, 7, {"head", "context", "projection", "conv"}),
        ({"freeze_feature_encoder": 7}, 6, {"head", "context", "projection"}),
        ({"freeze_feature_encoder": 7}, 7, {"head", "context", "projection", "conv"}),
        ({"freeze_feature_encoder": 7, "freeze_encoder_updates": 9}, 8, {"head"}),
        ({"freeze_bottom_blocks": 1, "freeze_feature_encoder": False}, 0, {"head", "top"}),
        ({"freeze_bottom_blocks": 2, "freeze_feature_encoder": False}, 0, {"head"}),
        ({"intermediate_layers": [1], "self_conditioned": True}, 0, {"head", "context", "projection", "told"}),
        ({"intermediate_layers": [1], "self_conditioned": True, "freeze_encoder_updates": 7}, 6, {"head"}),
    ],
)
def test_only_what_is_not_frozen_gets_a_gradient(config, update, learns, precision):
    module = make(**UNMASKED, **config).train()
    with autocast(precision, BATCH.waveforms.device):
        loss_sum = run(module, update=update).loss_sum
    loss_sum.backward()
    parts = {
        "head": module.head.weight,
        "context": module.encoder.context_network.blocks[0].attention.query.weight,
        "projection": module.encoder.feature_projection.projection.weight,
        "conv": module.encoder.feature_encoder.layers[0].conv.weight,
        "top": module.encoder.context_network.blocks[1].attention.query.weight,
    }
    if module.condition is not None:
        parts["told"] = module.condition.weight
    learns = learns | ({"top"} if "context" in learns else set())
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


@pytest.mark.parametrize("is_told", [False, True])
def test_intermediate_losses_are_those_of_the_same_head_on_frames_in_between(is_told):
    weight = 0.3
    module = make(**UNMASKED, intermediate_layers=[1], intermediate_weight=weight, self_conditioned=is_told).eval()
    terms, plain = run(module), run(make(**UNMASKED).eval())
    output = module.encoder(BATCH.waveforms, BATCH.num_samples, return_layers=True)
    frames = module.encoder.context_network.norm(output.layers[1])  # tiny_cpu is pre-norm
    labels = torch.cat([LABELS[row] for row in BATCH.rows])
    in_between = F.ctc_loss(
        F.log_softmax(module.head(frames), dim=-1).transpose(0, 1), labels, output.num_frames,
        torch.tensor([len(LABELS[row]) for row in BATCH.rows]), reduction="sum",
    )  # fmt: skip
    # A recogniser that is told of its scores begins as one that is not.
    expected = (1 - weight) * plain.loss_sum + weight * in_between
    torch.testing.assert_close(terms.loss_sum, expected)
    figures = summarize(terms.sums)
    assert figures["loss"] == pytest.approx(plain.loss_sum.item() / 6, rel=1e-5)
    assert figures["intermediate_loss"] == pytest.approx(in_between.item() / 6, rel=1e-5)
    assert "intermediate_loss" not in summarize(plain.sums)


def test_intermediate_losses_of_several_blocks_are_averaged():
    both, first = (make(**UNMASKED, intermediate_layers=n, intermediate_weight=0.5).eval() for n in ([1, 2], [1]))
    sums, of_first = run(both).sums, run(first).sums
    # The exit after the last block of this network of two is the network's own end.
    expected = (of_first["intermediate_ctc"] + of_first["ctc"]) / 2
    torch.testing.assert_close(sums["intermediate_ctc"], expected)


def test_rates_fall_by_the_same_factor_from_each_block_to_the_one_below():
    module = make(layer_lr_decay=0.5, head_lr_scale=5.0, freeze_feature_encoder=False)
    config = CTCConfig(layer_lr_decay=0.5, head_lr_scale=5.0)
    scale = {p: rate for params, rate in learning_groups(module.encoder, module.beyond_encoder, config) for p in params}
    assert len(scale) == len(list(module.parameters()))
    named = {name: scale[parameter] for name, parameter in module.named_parameters()}
    by_hand = {
        "head.weight": 5.0, "head.bias": 5.0,
        "encoder.context_network.norm.weight": 1.0,  # above the blocks in a pre-norm network
        "encoder.context_network.blocks.1.attention.query.weight": 0.5,
        "encoder.context_network.blocks.0.feed_forward_norm.bias": 0.25,
        "encoder.context_network.positional.conv.bias": 0.125,
        "encoder.feature_projection.projection.weight": 0.125,
        "encoder.feature_encoder.layers.0.conv.weight": 0.125,
        "encoder.mask_embedding": 0.125,
    }  # fmt: skip
    assert named.items() >= by_hand.items()


def test_without_decay_the_encoder_is_one_group_and_frozen_weights_are_in_none():
    module = make(freeze_bottom_blocks=1)
    (encoder, rate), (head, of_head) = learning_groups(module.encoder, module.beyond_encoder, CTCConfig())
    top = {*module.encoder.context_network.blocks[1].parameters(), *module.encoder.context_network.norm.parameters()}
    assert (set(encoder), rate, set(head), of_head) == (top, 1.0, set(module.head.parameters()), 1.0)
    said = learning_remarks(module.encoder, module.beyond_encoder, CTCConfig(freeze_encoder_updates=100))
    num_learning, num_all = sum(p.numel() for p in (*top, *head)), sum(p.numel() for p in module.parameters())
    assert said[0] == f"{num_learning / 1e6:.2f} M of {num_all / 1e6:.2f} M parameters learn"
    assert "until update 100 only the head learns" in said[1]
    late = learning_remarks(module.encoder, module.beyond_encoder, CTCConfig(freeze_feature_encoder=7))
    assert late[1:] == ["the front end learns from update 7 on"]


def test_what_thaws_is_known_beforehand():
    assert CTCConfig().thaws_at == ()
    assert CTCConfig(freeze_encoder_updates=10).thaws_at == (10,)
    assert CTCConfig(freeze_encoder_updates=10, freeze_feature_encoder=40).thaws_at == (10, 40)
    assert CTCConfig(freeze_feature_encoder=False).feature_encoder_thaws_at == 0


def test_blocks_that_are_not_there_are_named_together():
    with pytest.raises(ConfigError, match=r"(?s)4 transformer blocks.*freeze_bottom_blocks.*got 5.*below 4.*\[4\]"):
        require_blocks(CTCConfig(freeze_bottom_blocks=5, intermediate_layers=[4]), 4)
    require_blocks(CTCConfig(freeze_bottom_blocks=4, intermediate_layers=[3]), 4)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"intermediate_layers": [3, 1]}, "must rise"),
        ({"intermediate_layers": [2, 2]}, "must rise"),
        ({"self_conditioned": True}, "must name blocks where self_conditioned"),
        ({"intermediate_weight": 0.5}, "intermediate_weight must be left out without intermediate_layers"),
        ({"layer_lr_decay": 0.0}, "greater than 0"),
        ({"freeze_feature_encoder": -1}, "freeze_feature_encoder"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, fault):
    with pytest.raises(ValidationError, match=fault):
        CTCConfig(**settings)
