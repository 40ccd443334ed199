"""How long a run is, said once; settings of a schedule that do nothing are refused; an override replaces its like."""

import tomllib

import pytest

from audio_ssl.cli.training import overrides
from audio_ssl.config import PretrainConfig, dump_config, load_config, validate_config
from audio_ssl.errors import ConfigError


def written(tmp_path, run="", optim=""):
    path = tmp_path / "c.toml"
    path.write_text(f"[data]\ntrain = ['a']\n[run]\ndir = 'x'\n{run}\n[optim]\n{optim}\n")
    return path


def length(config: PretrainConfig):
    return config.run.num_updates, config.run.audio_hours, config.run.budget


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", (400_000, None, None)),
        ("num_updates = 7", (7, None, None)),
        ("audio_hours = 2.5", (400_000, 2.5, None)),
        ("budget = '1d12h'", (400_000, None, "1d12h")),
    ],
)
def test_a_length_is_said_in_one_way_and_can_be_written_and_read_again(tmp_path, line, expected):
    config = load_config(PretrainConfig, written(tmp_path, line))
    assert length(config) == expected
    text = dump_config(config)
    assert ("num_updates" in text) == (expected[1:] == (None, None))
    assert validate_config(PretrainConfig, tomllib.loads(text), source="written") == config


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("num_updates = 7\nbudget = '2h'", []),
        ("audio_hours = 3\nbudget = '2h'", []),
        ("", ["run.num_updates=7", "run.budget=2h"]),
        ("num_updates = 8", ["run.num_updates=7", "run.audio_hours=3"]),
    ],
)
def test_two_lengths_are_refused_by_their_dotted_names(tmp_path, line, words):
    said = "exactly one of run.num_updates, run.audio_hours, run.budget must say how long the run is, got run."
    with pytest.raises(ConfigError, match=said):
        load_config(PretrainConfig, written(tmp_path, line), words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run.budget=2h"], (400_000, None, "2h")),
        (["run.audio_hours=3"], (400_000, 3.0, None)),
        (["run.num_updates=9"], (9, None, None)),
        (["run.seed=2"], (7, None, None)),
        (overrides(["run.seed=2"], "90m"), (400_000, None, "90m")),
        (overrides(None, None), (7, None, None)),
    ],
)
def test_a_length_on_the_command_line_takes_the_place_of_the_files(tmp_path, words, expected):
    assert length(load_config(PretrainConfig, written(tmp_path, "num_updates = 7"), words)) == expected


def test_a_budget_must_be_a_length_of_time(tmp_path):
    with pytest.raises(ConfigError, match=r"`run.budget` must be a length of time such as 2h, 90m or 1d12h, got 7200"):
        load_config(PretrainConfig, written(tmp_path), ["run.budget=7200"])


@pytest.mark.parametrize(
    ("optim", "said"),
    [
        (
            "warmup_share = 0.8\nhold_share = 0.8",
            r"optim.warmup_share \+ optim.hold_share must be <= 1, got 0.8 \+ 0.8",
        ),
        (
            "schedule = 'wsd'\nwarmup_share = 0.5\ndecay_share = 0.6",
            r"optim.warmup_share \+ optim.decay_share must be <= 1, got 0.5 \+ 0.6",
        ),
        ("schedule = 'wsd'\nhold_share = 0.1", "optim.hold_share must be left out where optim.schedule is 'wsd'"),
        ("schedule = 'constant'\nfinal_scale = 0.1", "optim.final_scale must be left out .* 'constant'"),
        ("schedule = 'inverse_sqrt'\nhold_share = 0.1", "optim.hold_share must be left out .* 'inverse_sqrt'"),
        ("schedule = 'cosine'\npower = 2", "optim.power must be left out .* 'cosine', .* got 2.0"),
        ("schedule = 'linear'\ndecay_share = 0.5", "optim.decay_share must be left out .* 'linear'"),
        ("schedule = 'polynomial'\npower = 0", "`optim.power` must be greater than 0"),
        ("optimizer = 'lion'", "`optim.optimizer` must be 'adamw' or 'muon'"),
    ],
)
def test_settings_that_do_not_fit_their_schedule_are_refused(tmp_path, optim, said):
    with pytest.raises(ConfigError, match=said):
        load_config(PretrainConfig, written(tmp_path, optim=optim))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "tri_stage", "wsd"])
def test_every_schedule_can_be_written_and_read_again(tmp_path, schedule):
    config = load_config(PretrainConfig, written(tmp_path, optim=f"schedule = '{schedule}'"))
    assert config.optim.schedule == schedule
    assert validate_config(PretrainConfig, tomllib.loads(dump_config(config)), source="written") == config
