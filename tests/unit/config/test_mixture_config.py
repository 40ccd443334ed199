"""The section [data.mixture]: off by default, one rule, names of sources as keys."""

import pytest

from audio_ssl.config import DataConfig, MixtureConfig, PretrainConfig, dump_config, load_config
from audio_ssl.errors import ConfigError

TEXT = '[data]\ntrain = ["en/train.arrow", "sv.arrow"]\n{}\n[run]\ndir = "x"\n'


def loaded(tmp_path, section: str = "", overrides: tuple[str, ...] = ()) -> PretrainConfig:
    path = tmp_path / "c.toml"
    path.write_text(TEXT.format(section), encoding="utf-8")
    return load_config(PretrainConfig, path, overrides)


def test_it_is_off_by_default(tmp_path):
    assert DataConfig(train=("a.arrow",)).mixture is None
    assert "mixture" not in dump_config(loaded(tmp_path))


def test_weights_are_read_set_and_dumped(tmp_path):
    section = '[data.mixture]\nby = "language"\nweights = { "en/train" = 2, sv = 0.5 }'
    config = loaded(tmp_path, section)
    assert config.data.mixture == MixtureConfig(by="language", weights={"en/train": 2.0, "sv": 0.5})
    (tmp_path / "again.toml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(PretrainConfig, tmp_path / "again.toml") == config
    overrides = ('data.mixture.weights={ "en/train" = 2, sv = 0.5 }', "data.mixture.by=language")
    assert loaded(tmp_path, "", overrides) == config
    assert loaded(tmp_path, "", ("data.mixture.temperature=2",)).data.mixture == MixtureConfig(temperature=2)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("", r"`data\.mixture`: one of weights and temperature must be given, neither is"),
        ("temperature = 2\nweights = { sv = 1 }", "must be given, both are"),
        ("temperature = 0.5", r"temperature must be >= 1, got 0\.5: .* give 1 / alpha = 2"),
        ("temperature = inf", r"`data\.mixture\.temperature` must be a finite number"),
        ("weights = { sv = 0 }", r"`data\.mixture\.weights\.sv` must be greater than 0, got 0"),
        ("weights = { sv = 'much' }", r"`data\.mixture\.weights\.sv` must be a valid number"),
        ("weights = 3", r"`data\.mixture\.weights` must be"),
        ("temperature = 2\nby = 'speaker'", r"`data\.mixture\.by` must be 'manifest' or 'language', got 'speaker'"),
        ("temprature = 2", r"`data\.mixture\.temprature` is not a setting \(did you mean `data\.mixture\.temperature`"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, section, said):
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, f"[data.mixture]\n{section}")
