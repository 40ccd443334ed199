"""Verification: error rates by hand and by scikit-learn, draws of speakers trial by trial, trials from files."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_curve

from audio_ssl.config.probe import ProbeTask
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe import eer, verify
from audio_ssl.probe.eer import Rates, Trials, drawn_rates, rates
from audio_ssl.probe.items import Fold, as_rows

from .held import fold, items_of, vectors


def task_of(trials=None):
    return ProbeTask.model_validate(
        {
            "kind": "verify", "title": "t", "data": {"root": "x"}, "labels": {"column": "speaker"},
            "trials": None if trials is None else str(trials),
        }
    )  # fmt: skip


def run(frames, items, folds, trials=None):
    (result,) = verify.run(frames, items, folds, task=task_of(trials), seeds=(4, 5), heads=())
    return result


def trials_of(scores, is_target, blocks=None):
    scores = np.asarray(scores, dtype=np.float64)
    blocks = np.zeros((len(scores), 2), dtype=np.int64) if blocks is None else np.asarray(blocks)
    return Trials(scores, np.asarray(is_target, dtype=bool), blocks)


def eer_of(*args):
    return float(rates(trials_of(*args)).eer()[0])


def test_equal_error_rates_by_hand():
    assert eer_of([3, 2, 1, 0], [1, 1, 0, 0]) == 0
    assert eer_of([0, 1, 2, 3], [1, 1, 0, 0]) == 1
    assert eer_of([3, 2, 1, 0], [1, 0, 1, 0]) == 0.5
    assert eer_of([1, 1, 1], [1, 0, 0]) == 0.5  # one score tells nothing
    # targets 9 8 7 3, others 6 5 4 2 1: from 7 to 4, misses stay at 1/4 and false alarms go to 1/5, 2/5, ...
    assert eer_of([9, 8, 7, 3, 6, 5, 4, 2, 1], [1] * 4 + [0] * 5) == pytest.approx(1 / 4)


def test_equal_error_rates_are_those_of_scikit_learns_curve():
    rng = np.random.default_rng(2)
    for num, step in ((7, 0.5), (50, 0.3), (400, 1e-9)):
        is_target = np.arange(num) % 3 == 0
        scores = np.round((rng.normal(size=num) + is_target) / step) * step  # with ties, but for the last
        alarms, hits, _ = roc_curve(is_target, scores, drop_intermediate=False)
        expected = brentq(lambda x, a=alarms, h=hits: 1 - x - np.interp(x, a, h), 0, 1)
        assert eer_of(scores, is_target) == pytest.approx(expected, abs=1e-6)


def test_two_normal_laws_have_their_known_rate():
    rng = np.random.default_rng(3)
    scores = np.concatenate((rng.normal(size=40_000) + 2, rng.normal(size=40_000)))
    is_target = np.arange(80_000) < 40_000
    assert eer_of(scores, is_target) == pytest.approx(norm.cdf(-1), abs=0.004)


def test_the_detection_cost_by_hand():
    # after 9 8: no false alarm, half of the targets missed; after 9 8 7 6: one of four others, none missed
    found = rates(trials_of([9, 8, 6, 6, 7, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]))
    assert found.min_dcf(0.05)[0] == pytest.approx(0.5)  # 0.05 * 0.5 / 0.05
    assert found.min_dcf(0.5)[0] == pytest.approx(0.25)  # 0.5 * 0.25 / 0.5
    assert rates(trials_of([0, 1], [1, 0])).min_dcf()[0] == 1  # nobody has to accept anything


@pytest.mark.parametrize("most", [500, 9])
def test_draws_repeat_the_trials_of_who_is_drawn(monkeypatch, most):
    monkeypatch.setattr(eer, "_MOST_STEPS", most)
    monkeypatch.setattr(eer, "_LEAST_STEPS", most)
    monkeypatch.setattr(eer, "_HELD", 50)  # several portions
    rng = np.random.default_rng(4)
    who = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    pairs = np.array(list(itertools.combinations(range(12), 2)))
    blocks, scores = who[pairs], rng.normal(size=len(pairs))
    is_target = blocks[:, 0] == blocks[:, 1]
    scores += is_target
    draws = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 0, 1], [0, 0, 4, 0]])
    found = drawn_rates(trials_of(scores, is_target, blocks), draws)
    for row, drawn in enumerate(draws):
        times = [drawn[a] * (1 if a == b else drawn[b]) for a, b in blocks]
        repeated = np.repeat(np.arange(len(pairs)), times)
        if row == 3:  # one speaker alone has no others
            assert np.isnan(found.eer()[row])
            continue
        expected = rates(trials_of(scores[repeated], is_target[repeated]))
        exact = most == 500
        assert found.eer()[row] == pytest.approx(expected.eer()[0], abs=1e-12 if exact else 0.1)
        assert found.min_dcf()[row] == pytest.approx(expected.min_dcf()[0], abs=1e-12 if exact else 0.3)


def test_a_voice_in_the_features_is_verified_and_noise_is_not():
    speakers = [f"s{i % 8}" for i in range(64)]
    voices = np.random.default_rng(5).normal(size=(8, 6))[np.arange(64) % 8]
    items, told = items_of(speakers, speakers), fold(range(32), range(32, 64))
    result = run(vectors(voices), items, [told])
    assert (result.head, result.score.metric, result.score.value) == ("cosine", "eer", 0)
    assert result.score.of_seed == {4: 0.0}
    assert not result.score.higher_is_better
    noise = run(vectors(np.random.default_rng(6).normal(size=(64, 6))), items, [told])
    assert noise.score.interval().low < 0.5 < noise.score.interval().high
    assert noise.score.num_blocks == 8
    assert noise.layer is None
    assert list(noise.others) == ["minDCF 0.05"]
    assert noise.score.value == pytest.approx(np.nanmedian(noise.score.resamples), abs=0.05)


def test_what_all_utterances_share_is_taken_off():
    speakers = ["a", "b"] * 8
    values = np.zeros((16, 3))
    values[:, 0] = np.tile([1.0, -1.0], 8)
    values[:, 1] = 1000  # without centring every cosine is 1
    values[:, 2] = np.random.default_rng(1).normal(size=16) * 0.1
    assert run(vectors(values), items_of(speakers, speakers), [fold(range(8), range(8, 16))]).score.value == 0


def layered(num=32):
    """Layer 0 tells speakers of the test items alone, layer 1 those of valid alone, layer 2 those of train alone."""
    speakers = [f"s{i % 4}" for i in range(num)]
    voices = np.random.default_rng(8).normal(size=(4, 5))[np.arange(num) % 4]
    values = np.random.default_rng(9).normal(size=(num, 3, 5))
    part = num // 4
    values[:part, 2] = voices[:part]
    values[part : 2 * part, 1] = voices[part : 2 * part]
    values[2 * part :, 0] = voices[2 * part :]
    return vectors(values), items_of(speakers, speakers), part


def test_the_layer_is_chosen_without_the_test_items():
    frames, items, part = layered()
    by_valid = run(frames, items, [fold(range(part), range(2 * part, 32), range(part, 2 * part))])
    assert by_valid.layer == 1
    assert by_valid.score.value > 0.2
    by_train = run(frames, items, [fold(range(part), range(2 * part, 32))])
    assert by_train.layer == 2
    one_voice = run(frames, items, [fold(range(part), range(2 * part, 32), [part, part + 4])])
    assert one_voice.layer == 2  # one speaker alone chooses nothing
    assert run(frames.layer(0), items, [fold(range(part), range(2 * part, 32))]).score.value == 0
    with pytest.raises(ManifestError, match="must be chosen without the test items"):
        run(frames, items, [fold([0, 4], range(2 * part, 32))])


def test_the_layer_is_chosen_among_many_voices_with_two_utterances_each(monkeypatch):
    """Every second utterance of them would be one of each voice, and of that no pair."""
    monkeypatch.setattr(verify, "MOST_TO_CHOOSE_BY", 20)
    speakers = [f"s{i // 2}" for i in range(64)]
    values = np.random.default_rng(9).normal(size=(64, 2, 5))
    values[:, 1] = np.random.default_rng(8).normal(size=(32, 5))[np.arange(64) // 2]
    items = items_of(speakers, speakers)
    assert run(vectors(values), items, [fold([], range(52, 64), range(52))]).layer == 1


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_trials_come_from_a_file_by_id_or_name(tmp_path):
    items = items_of(["a", "a", "b", "b"], ["a", "a", "b", "b"])
    path = write(tmp_path / "trials", "1 u0 u1", "0 a/1.wav 2.wav", "", "0 u0 b/3.wav")
    assert verify.read_trials(path, items).tolist() == [[0, 1], [1, 2], [0, 3]]
    values = np.array([[1.0, 0], [1, 0.1], [0, 1], [-1, 0]])
    everything = Fold("split", as_rows([]), as_rows([]), as_rows([0, 1, 2, 3]))
    found = run(vectors(values), items, [everything], trials=path)
    assert found.score.value == 0  # the pair of b is no trial
    assert found.score.num_blocks == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2 u0 u1", r"trials:2 must read `1 a b` or `0 a b`, got '2 u0 u1'"),
        ("1 u0", "trials:2 must read"),
        ("1 u0 u9", "trials:2 must name items by id or by file name, but 'u9' is none of the task"),
        ("1 u0 same.wav", "'same.wav' names several"),
        ("1 u0 u2", "trials:2 must agree with the labels, got 1, but u0 is of a and u2 of b"),
    ],
)
def test_a_trial_that_is_none_is_named(tmp_path, line, told):
    items = items_of(["a", "a", "b", "b"], ["a", "a", "b", "b"])
    rows = [replace(row, path=f"{i}/same.wav") for i, row in enumerate(items.manifest)]
    items = replace(items, manifest=Manifest.from_rows(rows, root=tmp_path))
    with pytest.raises(ManifestError, match=told):
        verify.read_trials(write(tmp_path / "trials", "1 u0 u1", line), items)


def test_trials_that_measure_nothing_are_refused(tmp_path):
    items = items_of(["a", "a", "b", "b"], ["a", "a", "b", "b"])
    frames = vectors(np.eye(4))
    with pytest.raises(ManifestError, match="got 1 of one and 0 of two"):
        run(frames, items, [fold([2, 3], [0, 1])])
    path = write(tmp_path / "trials", "1 u0 u1", "0 u0 u2")
    with pytest.raises(ManifestError, match="1 of 2 are not, such as u0 and u2"):
        run(frames, items, [fold([2, 3], [0, 1])], trials=path)
    with pytest.raises(ManifestError, match="it has none"):
        verify.read_trials(write(tmp_path / "empty", ""), items)
    with pytest.raises(ManifestError, match="must be a readable file"):
        verify.read_trials(tmp_path / "missing", items)
    with pytest.raises(ConfigError, match="one name each"):
        run(frames, items_of([("a",), "a", "b", "b"], list("aabb")), [fold([2, 3], [0, 1])])


def test_rates_without_targets_are_not_known():
    found = Rates(np.array([[np.nan, np.nan], [1, 0]]), np.array([[0, 1.0], [np.nan, np.nan]]))
    assert np.isnan(found.eer()).all()
