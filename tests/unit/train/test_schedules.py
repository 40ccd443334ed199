"""Schedules against values worked out by hand, and against transformers' where it has them."""

import math

import pytest
import torch

from audio_ssl.config import OptimConfig
from audio_ssl.train.schedules import learning_rate

SCHEDULES = ("constant", "linear", "cosine", "polynomial", "inverse_sqrt", "tri_stage", "wsd")


def rates(num_updates: int, schedule: str, **settings) -> list[float]:
    config = OptimConfig(lr=1.0, schedule=schedule, **settings)
    return [learning_rate(u, config=config, num_updates=num_updates) for u in range(num_updates)]


def test_constant_stays_at_the_peak():
    assert rates(5, "constant", warmup_share=0.4) == [0.5, 1, 1, 1, 1]


def test_linear_rises_to_the_peak_and_falls_in_a_straight_line():
    found = rates(10, "linear", warmup_share=0.4)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0])


def test_linear_holds_where_it_is_told_to():
    found = rates(10, "linear", warmup_share=0.2, hold_share=0.4, final_scale=0.2)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_polynomial_of_power_1_is_the_line_to_the_last_bit():
    settings = {"warmup_share": 0.08, "hold_share": 0.1, "final_scale": 0.05}
    assert rates(997, "polynomial", **settings) == rates(997, "linear", **settings)


def test_polynomial_falls_as_a_power():
    found = rates(5, "polynomial", warmup_share=0.2, power=2, final_scale=0.2)
    assert found == pytest.approx([1, 0.2 + 0.8 * 9 / 16, 0.2 + 0.8 / 4, 0.2 + 0.8 / 16, 0.2])


def test_tri_stage_holds_then_decays_exponentially():
    found = rates(10, "tri_stage", warmup_share=0.2, hold_share=0.4, final_scale=0.0625)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.5, 0.25, 0.125, 0.0625])


def test_cosine_passes_the_middle_at_half():
    found = rates(5, "cosine", warmup_share=0.2)
    assert found == pytest.approx([1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2, 0])


def test_inverse_sqrt_halves_at_four_times_the_warmup_and_ends_nowhere():
    found = rates(16, "inverse_sqrt", warmup_share=0.25)
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, math.sqrt(4 / 5)])
    assert found[8] == pytest.approx(2 / 3)
    assert found[15] == pytest.approx(0.5)


def test_wsd_is_stable_until_its_last_share():
    found = rates(10, "wsd", warmup_share=0.2, decay_share=0.4, final_scale=0.1)
    tail = [0.1 + 0.9 * (1 - math.sqrt(p)) for p in (0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, *tail])


def test_wsd_of_shares_that_meet_warms_up_to_the_end_of_its_warmup():
    found = rates(7, "wsd", warmup_share=0.5, decay_share=0.5)  # 3.5 updates each, which round up
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1 - math.sqrt(1 / 3), 1 - math.sqrt(2 / 3), 0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_any_length_rises_to_the_peak_and_stays_at_or_under_it(schedule):
    for num_updates in (1, 2, 3, 7, 100):
        found = rates(num_updates, schedule, warmup_share=0.3)
        assert max(found) == 1.0
        assert min(found) >= 0.0
        assert found[max(1, round(0.3 * num_updates)) - 1] == 1.0


def test_a_run_that_goes_past_its_length_keeps_the_last_rate():
    for schedule in ("linear", "cosine", "polynomial", "tri_stage", "wsd"):
        config = OptimConfig(lr=1.0, schedule=schedule, final_scale=0.25)
        assert learning_rate(500, config=config, num_updates=100) == pytest.approx(0.25)


N, WARMUP = 40, 8
THEIRS = {
    "constant": lambda o, s: o.get_constant_schedule_with_warmup(s, WARMUP),
    "linear": lambda o, s: o.get_linear_schedule_with_warmup(s, WARMUP, N),
    "cosine": lambda o, s: o.get_cosine_with_min_lr_schedule_with_warmup(s, WARMUP, N, min_lr_rate=0.3),
    "polynomial": lambda o, s: o.get_polynomial_decay_schedule_with_warmup(s, WARMUP, N, lr_end=0.3, power=1.7),
    "inverse_sqrt": lambda o, s: o.get_inverse_sqrt_schedule(s, WARMUP),
    "wsd": lambda o, s: o.get_wsd_schedule(s, WARMUP, 10, N, decay_type="1-sqrt"),
}
SETTINGS = {
    "cosine": {"final_scale": 0.3},
    "polynomial": {"final_scale": 0.3, "power": 1.7},
    "wsd": {"decay_share": 0.25},  # their warm-up starts at the final rate
}


@pytest.mark.parametrize("schedule", sorted(THEIRS))
def test_transformers_has_the_same_rates(schedule):
    """Their step counts from 1 where our update counts from 0."""
    optimization = pytest.importorskip("transformers.optimization")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    shape = THEIRS[schedule](optimization, optimizer).lr_lambdas[0]
    found = rates(N, schedule, warmup_share=WARMUP / N, **SETTINGS.get(schedule, {}))
    assert found == pytest.approx([shape(u + 1) for u in range(N)], abs=1e-12)
