"""The comparison of optimizers: how a learning rate is chosen, and what is told of the seeds, by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import optimizers

from experiment.corpora import Prepared


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (1e-3, [5e-4, 1e-3, 2e-3]),  # inside of the first three
        (5e-4, [2.5e-4, 5e-4, 1e-3, 2e-3]),
        (4e-3, [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]),
        (1e-9, [6.25e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3]),  # it gives up
    ],
)
def test_rates_are_tried_until_the_best_lies_between_others(best, tried):
    errors = optimizers.search(lambda lr: max(lr / best, best / lr))
    assert sorted(errors) == pytest.approx(tried)


def test_a_rate_that_collapses_once_is_neither_chosen_nor_tried_again(tmp_path, monkeypatch):
    asked = []

    def end_of(self, name, optimizer, lr, *, seed, split, budget):
        asked.append((lr, seed, split, budget.amount))
        is_collapsed = lr == 1e-3 and seed == 1000
        return {"accuracy": 0.9 if is_collapsed else lr, "code_perplexity": 79.0 if is_collapsed else 80.0}

    monkeypatch.setattr(optimizers.Comparison, "end_of", end_of)
    comparison = optimizers.Comparison(Prepared(tmp_path), tmp_path, "pretrain/conv_tiny", audio_hours=2.0)
    monkeypatch.setattr(optimizers, "MOST_RATES", 4)
    assert comparison.tune("muon") == 4e-3
    assert [lr for lr, *_ in asked] == [5e-4, 5e-4, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3]
    assert {(seed, split, hours) for _, seed, split, hours in asked} == {(1000, "valid", 2), (1001, "valid", 2)}


def test_equal_time_is_what_adamw_took_and_each_has_its_own_rate(tmp_path, monkeypatch):
    asked = {}

    def end_of(self, name, optimizer, lr, *, seed, split, budget):
        asked[name] = (optimizer, lr, seed, split, budget.amount, budget.unit)
        return {"elapsed_s": 90.0}

    monkeypatch.setattr(optimizers.Comparison, "end_of", end_of)
    comparison = optimizers.Comparison(Prepared(tmp_path), tmp_path, "pretrain/conv_tiny", audio_hours=2.0)
    ends = optimizers.measure(comparison, {"adamw": 1e-3, "muon": 5e-4}, num_seeds=2)
    assert asked == {
        "adamw_0.001_seed1": ("adamw", 1e-3, 1, "test", 2.0, "audio hours"),
        "muon_0.0005_seed1": ("muon", 5e-4, 1, "test", 2.0, "audio hours"),
        "adamw_0.001_seed2": ("adamw", 1e-3, 2, "test", 2.0, "audio hours"),
        "muon_0.0005_seed2": ("muon", 5e-4, 2, "test", 2.0, "audio hours"),
        "muon_time_0.0005_seed1": ("muon", 5e-4, 1, "test", 1.5, "minutes"),
        "muon_time_0.0005_seed2": ("muon", 5e-4, 2, "test", 1.5, "minutes"),
    }
    assert list(ends) == [1, 2]
    assert all(set(points) == {"adamw", "muon", "muon_time"} for points in ends.values())


def test_differences_are_of_pairs():
    def point(loss):
        return {"contrastive_loss": loss, "accuracy": 0.5, "code_perplexity": 200.0}

    losses = {1: (4.0, 3.5, 3.9), 2: (5.0, 4.3, 5.0), 3: (6.0, 5.4, 6.1)}
    ends = {seed: dict(zip(("adamw", "muon", "muon_time"), map(point, of), strict=True)) for seed, of in losses.items()}
    rows = {(row["comparison"], row["figure"]): row for row in optimizers.summary(ends)}
    row = rows["equal updates", "contrastive_loss"]
    assert (row["adamw"], row["muon"], row["seeds"]) == (5.0, pytest.approx(4.4), 3)
    # -0.5, -0.7, -0.6: mean -0.6, deviation 0.1; t of two degrees of freedom at 97.5 % is 4.303.
    half = 4.302653 * 0.1 / 3**0.5
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((-0.6, -0.6 - half, -0.6 + half))
    assert rows["equal processor time", "contrastive_loss"]["difference"] == pytest.approx(0.0)
    assert rows["equal processor time", "accuracy"]["difference"] == 0.0
