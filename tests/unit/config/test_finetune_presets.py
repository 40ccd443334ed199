"""The shipped recipes of fine-tuning beside the numbers that fairseq published for the same amounts of labels."""

import pytest

from audio_ssl.config import FinetuneConfig, find_config, load_config, shipped_configs

# examples/wav2vec/config/finetuning/*.yaml: lr, max_update, freeze_finetune_updates, mask_prob, mask_channel_prob,
# layerdrop, max_tokens, distributed_world_size, update_freq.
FAIRSEQ = {
    "base_10min": (5e-5, 13_000, 10_000, 0.65, 0.25, 0.1, 3_200_000, 2, 4),
    "base_1h": (5e-5, 13_000, 10_000, 0.65, 0.25, 0.1, 3_200_000, 2, 4),
    "base_10h": (5e-5, 20_000, 10_000, 0.65, 0.5, 0.05, 3_200_000, 2, 4),
    "base_100h": (3e-5, 80_000, 0, 0.65, 0.5, 0.1, 3_200_000, 2, 4),
    "base_960h": (1e-4, 320_000, 0, 0.5, 0.1, 0.1, 3_200_000, 8, 1),
    "vox_10min": (1e-4, 13_000, 10_000, 0.65, 0.25, 0.1, 1_280_000, 4, 5),
    "vox_1h": (3e-4, 13_000, 10_000, 0.75, 0.25, 0.1, 1_280_000, 4, 5),
    "vox_10h": (1e-4, 20_000, 10_000, 0.75, 0.25, 0.1, 1_280_000, 4, 5),
    "vox_100h": (3e-5, 80_000, 10_000, 0.5, 0.5, 0.1, 1_280_000, 4, 5),
    "vox_960h": (3e-5, 320_000, 10_000, 0.5, 0.25, 0.1, 1_280_000, 24, 1),
}
RATE_HZ = 16_000


@pytest.mark.parametrize("name", sorted(FAIRSEQ))
def test_a_preset_has_the_published_numbers(name):
    config = load_config(FinetuneConfig, find_config(f"finetune/{name}"))
    lr, num_updates, freeze, mask, channel_mask, layer_drop, max_tokens, gpus, accumulation = FAIRSEQ[name]
    ctc, optim, data, drops = config.ctc, config.optim, config.data, config.dropouts
    assert (optim.lr, config.run.num_updates) == (lr, num_updates)
    assert (ctc.freeze_feature_encoder, ctc.freeze_encoder_updates) == (True, freeze)  # feature_grad_mult: 0
    assert (ctc.mask_prob, ctc.mask_span_frames) == (mask, 10)
    assert (ctc.channel_mask_prob, ctc.channel_mask_span) == (channel_mask, 64)
    assert (drops.layer_drop, drops.activation_dropout) == (layer_drop, 0.1)
    assert (drops.dropout, drops.attention_dropout, drops.feature_dropout, ctc.final_dropout) == (0, 0, 0, 0)
    assert data.micro_batch_s * RATE_HZ == max_tokens
    assert data.batch_s * RATE_HZ == max_tokens * gpus * accumulation
    assert (optim.optimizer, optim.betas, optim.eps, optim.weight_decay) == ("adamw", (0.9, 0.98), 1e-8, 0.0)
    assert (optim.schedule, optim.warmup_share, optim.hold_share, optim.final_scale) == ("tri_stage", 0.1, 0.4, 0.05)
    assert (ctc.layer_lr_decay, ctc.intermediate_layers, ctc.head_lr_scale) == (1.0, (), 1.0)  # nothing of our own


def test_every_recipe_of_a_published_size_is_compared():
    shipped = {name.removeprefix("finetune/") for name in shipped_configs() if name.startswith("finetune/")}
    assert {name for name in shipped if name.startswith(("base_", "vox_"))} == set(FAIRSEQ)


def test_a_setting_of_the_optimizer_alone_keeps_the_others_of_fine_tuning():
    base = {"model": {"preset": "tiny_cpu"}, "data": {"train": ["a.arrow"]}, "run": {"dir": "x"}}
    plain, faster = (FinetuneConfig(**base, **more).optim for more in ({}, {"optim": {"lr": 1e-3}}))
    assert faster == plain.model_copy(update={"lr": 1e-3})
    assert (plain.schedule, plain.eps, plain.weight_decay) == ("tri_stage", 1e-8, 0.0)
    wsd = FinetuneConfig(**base, optim={"schedule": "wsd", "decay_share": 0.3}).optim
    assert (wsd.schedule, wsd.hold_share, wsd.eps) == ("wsd", 0.0, 1e-8)
