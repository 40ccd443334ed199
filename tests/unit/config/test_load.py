"""Configuration: every fault at once, by dotted name; overrides; shipped files."""

from pathlib import Path

import pytest

from audio_ssl.config import (
    PRESETS,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    ProbeTask,
    dump_config,
    find_config,
    load_config,
    shipped_configs,
    validate_config,
)
from audio_ssl.errors import ConfigError

GOOD = """
[model]
preset = "tiny_cpu"
[data]
train = ["a.arrow"]
[run]
dir = "runs/x"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_fault_is_told_at_once_with_name_value_and_suggestion(tmp_path):
    text = GOOD + "sed = 3\nnum_updates = 0\n[optim]\nlrr = 1.0\nlr = 'much'\n[data2]\n"
    with pytest.raises(ConfigError) as caught:
        load_config(PretrainConfig, write(tmp_path, text))
    message = str(caught.value)
    assert "5 settings must be mended" in message
    assert "`run.sed` is not a setting (did you mean `run.seed`?)" in message
    assert "`run.num_updates` must be greater than or equal to 1, got 0" in message
    assert "`optim.lrr` is not a setting (did you mean `optim.lr`?)" in message
    assert "`optim.lr` must be a valid number" in message
    assert "got 'much'" in message
    assert "`data2` is not a setting" in message
    assert "c.toml" in message


def test_missing_keys_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"`data.train` must be given(.|\n)*`run.dir` must be given"):
        load_config(PretrainConfig, write(tmp_path, "[data]\n[run]\n"))


def test_cross_checks_name_both_values(tmp_path):
    text = GOOD.replace('"tiny_cpu"', '"tiny_cpu"\ndim = 100\nnum_heads = 3')
    with pytest.raises(ConfigError, match="dim must be a multiple of num_heads, got 100 and 3"):
        load_config(PretrainConfig, write(tmp_path, text))


def test_the_longest_row_must_fit_a_pass_as_it_counts():
    from audio_ssl.config import DataConfig

    assert DataConfig(train=("a.tsv",), max_s=20, micro_batch_s=40, quadratic_s=20).quadratic_s == 20
    with pytest.raises(ValueError, match=r"max_s must be <= micro_batch_s, got 20.0, which counts as 60 \("):
        DataConfig(train=("a.tsv",), max_s=20, micro_batch_s=59, quadratic_s=10)


def test_decoder_widths_are_multiples_of_its_groups(tmp_path):
    text = GOOD.replace('"tiny_cpu"', '"tiny_cpu"\ndim = 108')  # 4 heads, no 16 groups
    text = text.replace("[data]", "pos_conv_groups = 4\n[objective]\ndecoder_dim = 384\n[data]")
    load_config(PretrainConfig, write(tmp_path, text))  # encodes all frames: there is no decoder
    with pytest.raises(
        ConfigError, match=r"model\.dim must be a multiple of objective\.decoder_groups, got 108 and 16"
    ):
        load_config(PretrainConfig, write(tmp_path, text), ["objective.encode=visible"])
    with pytest.raises(ConfigError, match="decoder_dim must be a multiple of decoder_groups, got 90 and 16"):
        load_config(PretrainConfig, write(tmp_path, text), ["objective.decoder_dim=90"])
    with pytest.raises(ConfigError, match=r"`objective\.encode` must be 'all' or 'visible'"):
        load_config(PretrainConfig, write(tmp_path, text), ["objective.encode=masked"])
    with pytest.raises(ConfigError, match=r"`objective\.num_masks` must be greater than or equal to 1"):
        load_config(PretrainConfig, write(tmp_path, text), ["objective.num_masks=0"])


def test_set_overrides_file_values_by_type(tmp_path):
    config = load_config(
        PretrainConfig,
        write(tmp_path, GOOD),
        ["optim.lr=0.25", "data.train=['b.tsv','c.tsv']", "run.dir=runs/y z", "run.tensorboard=true"],
    )
    assert config.optim.lr == 0.25
    assert config.data.train == (Path("b.tsv"), Path("c.tsv"))
    assert config.run.dir == Path("runs/y z")
    assert config.run.tensorboard is True


@pytest.mark.parametrize("override", ["optim.lr", "=3", "run.dir.deeper=3"])
def test_malformed_override_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="--set"):
        load_config(PretrainConfig, write(tmp_path, GOOD), [override])


def test_not_toml_is_refused_with_the_place(tmp_path):
    with pytest.raises(ConfigError, match=r"c\.toml must be a readable TOML file.*line 1"):
        load_config(PretrainConfig, write(tmp_path, "a = = 3"))


def test_unknown_name_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="pretrain/conv_tiny"):
        find_config("pretrain/no_such")


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_shipped_configs_are_valid(name):
    schema = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeTask}[name.split("/")[0]]
    overrides = [] if schema is ProbeTask else ["data.train=['a.arrow']", "run.dir=runs/x"]
    if schema is FinetuneConfig and "model" not in find_config(name).read_text():
        overrides.append("init_from=runs/pretrained")
    load_config(schema, find_config(name), overrides)


@pytest.mark.parametrize("preset", PRESETS)
def test_dumped_config_reads_back_equal(tmp_path, preset):
    text = GOOD.replace("tiny_cpu", preset)
    config = load_config(PretrainConfig, write(tmp_path, text))
    assert load_config(PretrainConfig, write(tmp_path, dump_config(config))) == config


def test_preset_fills_what_is_not_given_and_yields_to_what_is():
    model = ModelConfig(preset="wav2vec2_large", num_layers=3)
    assert (model.dim, model.num_layers, model.norm_order, model.feature_norm) == (1024, 3, "pre", "layer")


def test_base_preset_is_the_papers():
    model = ModelConfig(preset="wav2vec2_base")
    assert (model.dim, model.num_layers, model.num_heads, model.ffn_dim) == (768, 12, 12, 3072)
    assert model.geometry.hop_samples == 320
    assert model.geometry.receptive_field_samples == 400


def test_fine_tuning_needs_an_encoder():
    values = {"data": {"train": ["a"]}, "run": {"dir": "x"}}
    with pytest.raises(ConfigError, match=r"one of init_from .* and model .* must be given, neither is"):
        validate_config(FinetuneConfig, values, source="c.toml")
    with pytest.raises(ConfigError, match="both are"):
        validate_config(FinetuneConfig, {**values, "init_from": "m", "model": {"preset": "small"}}, source="c.toml")


def test_the_models_preset_fills_the_objective_too():
    values = {"data": {"train": ["a"]}, "run": {"dir": "x"}, "model": {"preset": "small"}}
    config = validate_config(PretrainConfig, {**values, "objective": {"num_groups": 4}}, source="c.toml")
    assert (config.objective.feature_penalty_weight, config.objective.diversity_weight) == (0.0, 1.0)
    assert config.objective.num_groups == 4
    base = validate_config(PretrainConfig, {**values, "model": {}}, source="c.toml")
    assert (base.objective.feature_penalty_weight, base.objective.diversity_weight) == (10.0, 0.1)


def test_a_mel_front_end_has_no_latents_to_hold_small():
    values = {"data": {"train": ["a"]}, "run": {"dir": "x"}, "model": {"front_end": "mel"}}
    assert validate_config(PretrainConfig, values, source="c.toml").objective.feature_penalty_weight == 0
    with pytest.raises(
        ConfigError, match=r"objective.feature_penalty_weight must be 0 where model.front_end is 'mel', got 3"
    ):
        validate_config(PretrainConfig, {**values, "objective": {"feature_penalty_weight": 3}}, source="c.toml")


def test_codes_of_latents_that_learn_are_refused():
    values = {"data": {"train": ["a"]}, "run": {"dir": "x"}, "objective": {"random_projection_weight": 2}}
    mel = validate_config(PretrainConfig, {**values, "model": {"front_end": "mel"}}, source="c.toml")
    assert mel.objective.random_projection_weight == 2
    with pytest.raises(
        ConfigError, match=r"objective.random_projection_weight must be 0 where model.front_end is 'conv', got 2"
    ):
        validate_config(PretrainConfig, values, source="c.toml")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"front_end": "mel", "conv_bias": True, "feature_norm": "layer"}, "conv_bias, feature_norm must not be given"),
        ({"mel_bands": 40}, "mel_bands must not be given where front_end is 'conv'"),
        ({"front_end": "mell"}, "must be 'conv' or 'mel', got 'mell'"),
        ({"front_end": ["mel"]}, "must be 'conv' or 'mel'"),
        ({"front_end": "mel", "mel_hop_ms": 30}, r"mel_hop_ms must be <= mel_window_ms \(25\), got 30"),
        ({"front_end": "mel", "sample_rate_hz": 8000}, r"sample_rate_hz / 2 must hold, got 0, 8000 and 4000"),
        ({"front_end": "mel", "mel_min_hz": 8000}, r"mel_min_hz < mel_max_hz"),
        # 4 ms are 64 samples: bins of 250 Hz, of which each of the low bands, 44 Hz wide, has none
        (
            {"front_end": "mel", "mel_window_ms": 4, "mel_hop_ms": 4},
            r"few enough .*: \d+ of 80 lie between two bins of 250",
        ),
        ({"front_end": "mel", "sample_rate_hz": 100, "mel_max_hz": 50, "mel_hop_ms": 1}, "must span samples"),
        ({"context_stride": 0}, "greater than or equal to 1, got 0"),
        ({"block_conv_kernel": 8}, "block_conv_kernel must be odd.* or 0 for none, got 8"),
        ({"block_conv_kernel": -1}, "block_conv_kernel.*greater than or equal to 0, got -1"),
    ],
)
def test_settings_of_front_ends_that_make_no_sense(settings, said):
    with pytest.raises(ConfigError, match=said):
        validate_config(ModelConfig, settings, source="c.toml")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"context_stride": 2}, r"context_stride must be 1 where objective\.encode is 'visible', got 2"),
        ({"block_conv_kernel": 5}, r"block_conv_kernel must be 0 where objective\.encode is 'visible', got 5: .*neig"),
    ],
)
def test_parts_that_need_every_frame_and_visible_frames_are_refused_together(settings, said):
    with pytest.raises(ValueError, match=said):
        PretrainConfig(
            model={"preset": "tiny_cpu", **settings}, objective={"encode": "visible"},
            data={"train": ["a.tsv"]}, run={"dir": "x"},
        )  # fmt: skip
