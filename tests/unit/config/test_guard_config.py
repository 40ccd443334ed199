"""Settings of the guards."""

import pytest

from audio_ssl.config import GuardConfig, PretrainConfig, find_config, load_config
from audio_ssl.errors import ConfigError

COUNTS = (
    "chance_warn_updates", "chance_stop_updates", "blank_warn_share", "blank_stop_share", "max_accuracy", "min_codes",
    "nonfinite_in_a_row", "nonfinite_budget", "max_dumps", "skip_grad_factor", "spike_mads", "max_rollbacks",
    "max_data_wait_share",
)  # fmt: skip


@pytest.mark.parametrize("key", COUNTS)
def test_every_guard_can_be_switched_off_by_0(key):
    settings = ["data.train=['a.tsv']", "run.dir=r", f"guard.{key}=0"]
    assert getattr(load_config(PretrainConfig, find_config("pretrain/conv_tiny"), settings).guard, key) == 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("guard.skip_grad_factor=0.9", "skip_grad_factor must be > 1, or 0 for none, got 0.9"),
        ("guard.chance_stop_updates=100", "chance_warn_updates must be <= chance_stop_updates, got 2000 and 100"),
        ("guard.blank_stop_share=0.1", "blank_warn_share must be <= blank_stop_share, got 0.2 and 0.1"),
        ("guard.max_acuracy=1", r"guard.max_acuracy` is not a setting \(did you mean `guard.max_accuracy`\?\)"),
        ("run.patience=0", "run.patience"),
        ("run.patience=3", r"data\.valid must be given with it, got run\.patience = 3"),
    ],
)
def test_limits_that_cannot_be_meant_are_told(setting, said):
    with pytest.raises(ConfigError, match=said):
        load_config(PretrainConfig, find_config("pretrain/conv_tiny"), ["data.train=['a.tsv']", setting])


def test_without_a_stop_the_warning_may_come_at_any_time():
    assert GuardConfig(chance_stop_updates=0).chance_warn_updates == 2000
