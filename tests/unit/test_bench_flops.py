"""The arithmetic of a model, by hand and against torch's own counter."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective import build_objective

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from benchmarks.cases import CASES, noise
from benchmarks.flops import forward_flops, step_flops

ODD = ModelConfig(  # another kernel parity, other strides, one norm only
    conv_dims=(6, 10), conv_kernels=(7, 4), conv_strides=(5, 3), dim=12, num_layers=3, num_heads=3, ffn_dim=20,
    pos_conv_kernel=5, pos_conv_groups=2, layer_drop=0.0,
)  # fmt: skip

CHEAPER = [
    (ModelConfig(preset="tiny_cpu", front_end="mel"), 40_001),
    (ModelConfig(preset="tiny_cpu", context_stride=2), 40_001),
    (ModelConfig(preset="tiny_cpu", front_end="mel", block_conv_kernel=9), 40_001),
    (ODD.model_copy(update={"context_stride": 3, "feature_norm": "layer"}), 3_001),
]


def count_in_place(_: object, a: tuple[int, ...], b: tuple[int, ...], **_kwargs: object) -> int:
    return 2 * a[0] * a[1] * a[2] * b[2]  # (N, T, C) by (N, C, T)


def counted(work) -> int:
    in_place = {torch.ops.aten.baddbmm_: count_in_place}  # torch's counter knows its other form alone
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        work()
    return counter.get_total_flops()


def test_one_layer_by_hand():
    model = ModelConfig(
        conv_dims=(3,), conv_kernels=(4,), conv_strides=(2,), dim=8, num_layers=1, num_heads=2, ffn_dim=5,
        pos_conv_kernel=2, pos_conv_groups=4,
    )  # fmt: skip
    flops = forward_flops(model, 22)  # 10 frames
    assert flops.convs == (2 * 10 * 3 * 4,)  # 10 frames of 3 channels, each a sum over 4 samples
    assert flops.projection == 2 * 10 * 3 * 8
    assert flops.positional == 2 * 11 * 8 * 2 * 2  # 11 frames (even kernel) of 8 channels, each over 2 channels x 2
    assert flops.attention == 4 * (2 * 10 * 8 * 8) + 2 * (2 * 10 * 10 * 8)
    assert flops.feed_forward == 2 * (2 * 10 * 8 * 5)
    assert flops.total == 240 + 480 + 704 + 5120 + 3200 + 1600


def test_cheaper_parts_by_hand():
    model = ModelConfig(
        front_end="mel", mel_bands=3, mel_window_ms=4, mel_hop_ms=2, mel_stack=2, context_stride=4, dim=8, num_layers=1,
        num_heads=2, ffn_dim=5, pos_conv_kernel=2, pos_conv_groups=4, block_conv_kernel=3,
    )  # fmt: skip
    flops = forward_flops(model, 680)  # windows of 64 samples every 32: 20, so 10 frames, which are 3 in fours
    assert flops.convs == ()
    assert flops.filterbank == 2 * 20 * 33 * 3  # 20 windows of 3 bands, each a sum over 64 / 2 + 1 bins
    assert flops.projection == 2 * 10 * 6 * 8
    assert flops.positional == 2 * 3 * 8 * 2 * 2
    assert flops.attention == 4 * (2 * 3 * 8 * 8) + 2 * (2 * 3 * 3 * 8)
    assert flops.feed_forward == 2 * (2 * 3 * 8 * 5)
    assert flops.upsample == 2 * 3 * 8 * 32
    assert flops.local_conv == 2 * 3 * 8 * 16 + 2 * 3 * 8 * 3 + 2 * 3 * 8 * 8  # to twice the width, 3 frames, back
    assert flops.total == 3960 + 960 + 192 + 1536 + 288 + 480 + 1536 + 1296
    # two products more for each of forward's, but nothing of the filterbank learns
    assert step_flops(model, Wav2Vec2Config(mask_prob=0.0), 680) == 3960 + 3 * (flops.total - 3960)


@pytest.mark.parametrize(
    ("model", "num_samples"), [(CASES["base"].model, 16_000), (CASES["tiny_cpu"].model, 40_000), (ODD, 3_001), *CHEAPER]
)
def test_forward_is_what_torch_counts(model, num_samples):
    encoder, batch = build_encoder(model).eval(), noise(1, num_samples)  # gradients on: attention in plain products
    found = counted(lambda: encoder(batch.waveforms, batch.num_samples))
    assert forward_flops(model, num_samples).total == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tiny_cpu", {}),
        ("smoke", {}),
        ("smoke", {"num_masks": 3}),
        ("tiny_cpu", {"front_end": "mel"}),
        ("tiny_cpu", {"front_end": "mel", "random_projection_weight": 1.0}),
        ("tiny_cpu", {"context_stride": 2}),
        # one group for the reason below
        ("tiny_cpu", {"encode": "visible", "num_masks": 2, "decoder_dim": 96, "decoder_groups": 1}),
        ("smoke", {"encode": "visible", "decoder_dim": 64, "decoder_groups": 1, "decoder_kernel": 4}),
    ],
)
def test_a_step_is_what_torch_counts(name, changes):
    case = CASES[name]
    of_model = {key: changes[key] for key in changes if key in ModelConfig.model_fields}
    settings = case.objective.model_copy(update={key: changes[key] for key in changes if key not in of_model})
    # torch counts the weight gradient of a grouped convolution as that of one without groups
    model = case.model.model_copy(update={"pos_conv_groups": 1, **of_model})
    encoder = build_encoder(model).train()
    objective = build_objective(settings, latent_dim=encoder.latent_dim, dim=encoder.dim).train()
    batch = noise(1, 40_000)

    def step():
        objective(encoder, batch, update=0, generator=torch.Generator().manual_seed(0)).loss_sum.backward()

    assert step_flops(model, settings, 40_000) == pytest.approx(counted(step), rel=0.02)
