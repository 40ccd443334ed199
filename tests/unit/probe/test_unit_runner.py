"""What units tell of labels: by hand, by scikit-learn, by drawing speakers one by one, and on units that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from audio_ssl.config.probe import ProbeData, ProbeLabels, ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.probe.items import Segment
from audio_ssl.probe.joint import Meetings
from audio_ssl.probe.scores import Draws
from audio_ssl.probe.units import choose_layer, run, score_all
from audio_ssl.rng import numpy_generator
from tests.unit.probe.in_memory import InMemory, fold_of, items_of

ONCE = np.ones((1, 1), dtype=np.int64)


def task_of(clusters=4):
    return ProbeTask(
        kind="units", title="units", data=ProbeData(root="x"), labels=ProbeLabels(ctm="phones.ctm"), clusters=clusters
    )


def table_of(*columns, names=("ann",), num_units=9):
    """A table of (speaker, labels, units)."""
    met = Meetings()
    for speaker, labels, units in columns:
        met.add(speaker, 0, labels=labels, units=np.array(units))
    return met.table(names, num_units=num_units)


def test_purities_and_information_by_hand():
    """
    Of 8 frames      unit 0  unit 3  unit 5
              a           3       1       0
              b           1       1       2
    label purity (3 + 1 + 2) / 8, cluster purity (3 + 2) / 8, I = H(y) + H(z) - H(y, z).
    """
    labels = ["a"] * 4 + ["b"] * 4
    table = table_of(("ann", labels, [0, 0, 0, 3, 0, 3, 5, 5]))
    assert table.matrix(6).tolist() == [[3, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 2]]
    found = {name: float(value[0]) for name, value in table.measures(ONCE).items()}
    joint = [3 / 8, 1 / 8, 1 / 8, 1 / 8, 2 / 8]
    entropy = [-sum(p * math.log(p) for p in shares) for shares in ([1 / 2, 1 / 2], [4 / 8, 2 / 8, 2 / 8], joint)]
    assert found == pytest.approx(
        {"label_purity": 6 / 8, "cluster_purity": 5 / 8, "pnmi": (entropy[0] + entropy[1] - entropy[2]) / entropy[0]}
    )


def test_information_is_scikit_learns():
    rng = numpy_generator(1, "test information")
    units = rng.integers(0, 9, 400)
    labels = [f"L{(unit // 2 + int(rng.integers(0, 2))) % 4}" for unit in units]
    found = float(table_of(("ann", labels, units)).measures(ONCE)["pnmi"][0])
    assert found == pytest.approx(mutual_info_score(labels, units) / mutual_info_score(labels, labels))


def test_draws_are_those_of_frames_said_as_often_as_their_speaker_is_drawn():
    rng = numpy_generator(1, "test draws")
    columns = [
        (name, [f"L{x}" for x in rng.integers(0, 3, count)], rng.integers(0, 4, count))
        for name, count in (("ann", 7), ("bob", 13), ("cy", 11), ("ann", 5))
    ]
    names = ("ann", "bob", "cy", "dee")  # dee says nothing
    table = table_of(*columns, names=names)
    weights = np.array([[1, 1, 1, 1], [3, 0, 1, 0], [0, 2, 2, 0], [0, 0, 0, 4], [0, 4, 0, 0]])
    found = table.measures(weights)
    for number, row in enumerate(weights):
        said = [
            pair
            for name, labels, units in columns
            for pair in list(zip(labels, units, strict=True)) * row[names.index(name)]
        ]
        if not said:
            assert np.isnan(found["pnmi"][number])
            continue
        alone = table_of(("ann", *zip(*said, strict=True))).measures(ONCE)
        assert {name: own[number] for name, own in found.items()} == pytest.approx(
            {name: own[0] for name, own in alone.items()}
        )


def test_units_of_two_folds_are_different_units():
    met = Meetings()
    met.add("ann", 0, labels=["a", "b"], units=np.array([0, 1]))
    met.add("bob", 1, labels=["a", "b"], units=np.array([1, 0]))
    table = met.table(("ann", "bob"), num_units=2)
    assert table.unit_of.tolist() == [0, 3, 1, 2]
    assert float(table.measures(np.ones((1, 2), dtype=np.int64))["pnmi"][0]) == pytest.approx(1)


def test_the_interval_lies_around_the_value():
    rng = numpy_generator(1, "test interval")
    names = tuple(f"s{i}" for i in range(12))
    tables = {}
    for seed in (1, 2):
        columns = []
        for name in names:
            labels = rng.integers(0, 5, 40)
            units = np.where(rng.random(40) < 0.6, labels, rng.integers(0, 9, 40))
            columns.append((name, [f"L{x}" for x in labels], units))
        tables[seed] = table_of(*columns, names=names)
    score = score_all(tables, draws=Draws.of(names, 2))["pnmi"]
    interval = score.interval()
    assert interval.low < score.value < interval.high
    assert np.mean(score.resamples) == pytest.approx(score.value, abs=2e-3)
    assert score.value == pytest.approx(np.mean(list(score.of_seed.values())))


def talk(count, *, spread, told=(0,), num_layers=1):
    """Labels of five frames each, told by some layers, whose frames are ``spread`` wide around one point a label."""
    rng = numpy_generator(1, "test talk", count, num_layers)
    places = 4 * np.eye(4)
    clips, segments = [], []
    for _ in range(count):
        labels = rng.integers(0, 4, 10)
        frames = rng.normal(0, 1, (num_layers, 50, 4))
        for layer in told:
            frames[layer] = places[np.repeat(labels, 5)] + rng.normal(0, spread, (50, 4))
        clips.append(frames)
        segments.append(tuple(Segment(0.1 * i, 0.1 * (i + 1), f"L{label}") for i, label in enumerate(labels)))
    return InMemory(clips), items_of(["x"] * count, [f"s{i % 6}" for i in range(count)], segments=tuple(segments))


def test_units_that_are_the_labels_tell_all_and_noise_tells_what_chance_does():
    frames, items = talk(36, spread=0.05)
    fold = fold_of(range(18), range(18, 36))
    (result,) = run(frames, items, [fold], task=task_of(), seeds=(1, 2), heads=())
    assert (result.head, result.layer, result.layer_weights) == ("k-means", None, None)
    assert result.score.value == pytest.approx(1)
    assert set(result.others) == {"label_purity", "cluster_purity", "pnmi_of_chance"}
    assert [result.others[name].value for name in ("label_purity", "cluster_purity")] == pytest.approx([1, 1])
    chance = result.others["pnmi_of_chance"]
    assert chance.value < 0.2
    assert result.notes == (
        "split, test: 0 of 900 frames are in no segment and are left out; 0 of 180 segments hold no centre of a frame",
    )
    frames, items = talk(36, spread=0.05, told=())
    (result,) = run(frames, items, [fold], task=task_of(), seeds=(1, 2), heads=())
    chance = result.others["pnmi_of_chance"]
    assert result.score.value < 0.05
    assert abs(result.score.value - chance.value) < 0.02


def test_the_layer_is_chosen_by_valid_and_not_by_test():
    """Valid speakers are told by layer 1, test speakers by layer 2, training speakers by layer 0."""
    parts = [talk(12, spread=0.05, told=(layer,), num_layers=3) for layer in (0, 1, 2)]
    frames = InMemory([own.of(i) for own, _ in parts for i in range(12)])
    segments = tuple(found for _, items in parts for found in items.segments)
    items = items_of(["x"] * 36, [f"s{i}" for i in range(36)], segments=segments)
    # All layers are fitted on frames of all parts' kinds, so that only the judging part differs.
    fold = fold_of([*range(6), *range(12, 18), *range(24, 30)], range(30, 36), valid=range(18, 24))
    (result,) = run(frames, items, [fold], task=task_of(8), seeds=(1,), heads=())
    assert result.layer == 1
    assert result.score.value < 0.5
    fold = fold_of(range(6), range(30, 36))
    assert choose_layer(frames, items, [fold], clusters=4, seed=1) == 0
    # Where valid has one label, or none, train chooses; where train has no more, nothing does.
    for segment in ((Segment(0, 1, "sil"),), ()):
        mute = items_of(["x"] * 36, items.speakers, segments=segments[:18] + (segment,) * 6 + segments[24:])
        with pytest.raises(ConfigError, match="neither valid nor train of fold 'split' have two labels"):
            choose_layer(frames, mute, [fold_of(range(18, 24), range(30, 36))], clusters=4, seed=1)
    fold = fold_of(range(6), range(30, 36), valid=[18, 19])
    segments = (*segments[:18], (Segment(0, 1, "sil"),), (), *segments[20:])
    assert choose_layer(frames, replace(items, segments=segments), [fold], clusters=4, seed=1) == 0


def test_too_many_clusters_and_no_labels_are_refused():
    frames, items = talk(4, spread=0.1)
    with pytest.raises(ConfigError, match=r"2 frames to learn from for each, got 80 clusters and 100 frames of 2 utt"):
        run(frames, items, [fold_of([0, 1], [2, 3])], task=task_of(80), seeds=(1,), heads=())
    silent = items_of(["x"] * 4, items.speakers, segments=((), (), (), ()))
    with pytest.raises(ConfigError, match="inside segments to measure on, none has"):
        run(frames, silent, [fold_of([0, 1], [2, 3])], task=task_of(), seeds=(1,), heads=())
    alike = items_of(["x"] * 4, items.speakers, segments=((Segment(0, 1, "a"),),) * 4)
    with pytest.raises(ConfigError, match="at least two labels"):
        run(frames, alike, [fold_of([0, 1], [2, 3])], task=task_of(), seeds=(1,), heads=())
