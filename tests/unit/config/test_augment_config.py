"""[augment]: off by default, and every fault of it has a message."""

import tomllib
from pathlib import Path

import pytest

from audio_ssl.config import AugmentConfig, FinetuneConfig, PretrainConfig, dump_config, load_config, validate_config
from audio_ssl.errors import ConfigError

NEEDED = {"data": {"train": ["a.tsv"]}, "run": {"dir": "x"}}
EVERYTHING = """
[data]
train = ["a.tsv"]
[run]
dir = "x"
[augment]
speed = [0.9, 1, 1.1]
reverb = ["rooms.tsv"]
reverb_prob = 0.3
mix_prob = 0.2
mix_snr_db = [0, 10]
noise = ["a.tsv", "b.arrow"]
noise_prob = 0.5
noise_snr_db = [5, 20]
gain_db = [-6, 6]
band_limit_hz = [3400]
band_limit_prob = 0.1
codecs = ["ulaw", "gsm"]
codec_prob = 0.1
"""


def test_nothing_is_on_by_default():
    config = validate_config(PretrainConfig, NEEDED, source="c.toml")
    assert not config.augment.is_on
    assert not AugmentConfig(noise=(Path("a"),), band_limit_hz=(300,), codecs=("gsm",)).is_on


@pytest.mark.parametrize(
    "on",
    [
        {"speed": (1.1,)}, {"reverb": ("a",), "reverb_prob": 0.1}, {"mix_prob": 0.1}, {"gain_db": (0, 1)},
        {"noise": ("a",), "noise_prob": 0.1}, {"band_limit_hz": (300,), "band_limit_prob": 0.1},
        {"codecs": ("gsm",), "codec_prob": 0.1},
    ],
)  # fmt: skip
def test_each_kind_switches_it_on(on):
    assert validate_config(AugmentConfig, on, source="c.toml").is_on


@pytest.mark.parametrize("schema", [PretrainConfig, FinetuneConfig])
def test_both_configurations_have_it_and_write_it_back(tmp_path, schema):
    path = tmp_path / "c.toml"
    path.write_text(EVERYTHING)
    config = load_config(schema, path, ["init_from=m"] if schema is FinetuneConfig else [])
    assert config.augment.speed == (0.9, 1.0, 1.1)
    assert config.augment.noise == (Path("a.tsv"), Path("b.arrow"))
    path.write_text(dump_config(config))
    assert load_config(schema, path) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gain_db": (3, -3)}, r"gain_db must be \(lowest, highest\), got 3 and -3"),
        ({"noise_snr_db": (9, 8)}, r"noise_snr_db must be \(lowest, highest\), got 9 and 8"),
        ({"mix_snr_db": (1, 0)}, r"mix_snr_db must be \(lowest, highest\), got 1 and 0"),
        ({"reverb_prob": 0.1}, "reverb must list manifests of impulse responses where reverb_prob is > 0, got none"),
        ({"noise_prob": 0.1}, "noise must list manifests of noise where noise_prob is > 0, got none"),
        ({"band_limit_prob": 0.1}, "band_limit_hz must list cut-off frequencies where band_limit_prob is > 0"),
        ({"codec_prob": 0.1}, "codecs must list codecs where codec_prob is > 0, got none"),
        ({"speed": (0.9, 0.4, 2.1)}, "speed must hold factors from 0.5 to 2 in hundredths, got 0.4, 2.1"),
        ({"speed": (0.955,)}, "in hundredths, got 0.955"),
        ({"gain_db": (3, -3), "codec_prob": 1}, "gain_db must be .*; codecs must list"),
        ({"codecs": ("mp3",)}, "`codecs.0` must be 'ulaw', 'alaw', 'gsm' or 'opus', got 'mp3'"),
        ({"band_limit_hz": (99,)}, "`band_limit_hz.0` must be greater than or equal to 100, got 99"),
        ({"noise_prob": 1.1}, "`noise_prob` must be less than or equal to 1"),
        ({"gain_db": (1, 2, 3)}, "`gain_db`"),
        ({"noise_prb": 1}, r"`noise_prb` is not a setting \(did you mean `noise_prob`\?\)"),
    ],
)
def test_every_fault_has_a_message(settings, said):
    with pytest.raises(ConfigError, match=said):
        validate_config(AugmentConfig, settings, source="c.toml")


def test_a_transcript_is_that_of_the_louder_speaker():
    values = {**NEEDED, "init_from": "m", "augment": {"mix_prob": 0.2}}
    with pytest.raises(ConfigError, match=r"augment\.mix_snr_db must start at 0 or above in fine-tuning, got -5"):
        validate_config(FinetuneConfig, values, source="c.toml")
    values["augment"]["mix_snr_db"] = [0, 5]
    validate_config(FinetuneConfig, values, source="c.toml")


def test_the_example_in_the_documents_is_valid_and_names_every_setting():
    text = (Path(__file__).parents[3] / "docs" / "augmentation.md").read_text(encoding="utf-8")
    example = tomllib.loads(text.split("```toml\n")[1].split("```")[0])
    config = validate_config(FinetuneConfig, {**NEEDED, "init_from": "m", **example}, source="docs")
    assert config.augment.is_on
    assert set(example["augment"]) == set(AugmentConfig.model_fields)
