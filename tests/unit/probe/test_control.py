"""The control: permuted labels give chance, labels that come another way are found, chance is known by hand."""

from collections import Counter

import numpy as np
import pytest

from audio_ssl.config.probe import ProbeTask
from audio_ssl.probe import classify
from audio_ssl.probe.control import chance, controlled, leaks, luck
from audio_ssl.probe.items import Fold, Segment, as_rows
from audio_ssl.probe.scores import Draws, share_score

from .held import fold, items_of, one_out, vectors

TASK = ProbeTask.model_validate(
    {"kind": "classify", "title": "t", "data": {"root": "x"}, "labels": {"column": "speaker"}}
)


def telling(num=240, speakers="abcdef"):
    """A feature that holds the label, and speakers who each say all labels."""
    labels = [f"l{i % 4}" for i in range(num)]
    values = 5 * np.eye(4)[np.arange(num) % 4] + 0.3 * np.random.default_rng(1).normal(size=(num, 4))
    return vectors(values), items_of(labels, [speakers[i // 4 % len(speakers)] for i in range(num)])


def score(frames, items, folds):
    (result,) = classify.run(frames, items, folds, task=TASK, seeds=(1,), heads=("linear",))
    return result.score


def test_labels_that_changed_places_teach_nothing():
    frames, items = telling()
    folds = one_out(items.speakers)
    assert score(frames, items, folds).value == 1
    found = score(*controlled(frames, items, folds))
    assert found.value < 0.45
    by_chance = chance(items, folds)
    assert not leaks(found, by_chance, luck(items, folds, by_chance))


def test_only_labels_of_the_training_items_change_places():
    frames, items = telling(40)
    folds = [fold(range(20), range(30, 40), range(20, 30)), fold(range(30, 40), range(10))]
    lent, more, changed = controlled(frames, items, folds)
    assert len(more) == len(more.manifest) == 40 + 20 + 10
    assert more.labels[:40] == items.labels
    for own, other in zip(folds, changed, strict=True):
        assert other.test is own.test
        assert other.valid is own.valid
        before, after = ([i.labels[row] for row in f.train] for i, f in ((items, own), (more, other)))
        assert before != after
        assert Counter(before) == Counter(after)
        for row, twin in zip(own.train, other.train, strict=True):
            assert lent.of(twin) is frames.of(row)
            assert lent.pooled()[twin].equal(frames.pooled()[row])
            assert more.speakers[twin] == items.speakers[row]
            assert more.manifest[int(twin)].id == items.manifest[int(row)].id
    assert lent.layer(0).of(45).equal(frames.of(5))
    assert (lent.name, lent.dim, lent.num_layers, lent.hop_s) == (frames.name, 4, 1, 0.02)
    again = controlled(frames, items, folds)[1]
    assert again.labels == more.labels
    assert controlled(frames, items, folds, seed=2)[1].labels != more.labels


def test_labels_that_come_another_way_are_found():
    frames, items = telling()
    folds = [fold(range(120), range(120, 240))]
    lent, more, (changed,) = controlled(frames, items, folds)
    cheat = Fold("split", np.concatenate((changed.train, changed.test)), as_rows([]), changed.test)
    found = score(lent, more, [cheat])
    by_chance = chance(items, folds)
    assert leaks(found, by_chance, luck(items, folds, by_chance))


def test_segments_change_places_over_all_training_items():
    cuts = tuple(tuple(Segment(j, j + 1, f"p{i}{j}") for j in range(3)) for i in range(4))
    items = items_of(["x"] * 4, list("aabb"), segments=cuts)
    _, more, (changed,) = controlled(vectors(np.eye(4)), items, [fold([0, 1], [2, 3])])
    assert more.segments[:4] == cuts
    names = [segment.label for row in changed.train for segment in more.segments[row]]
    assert sorted(names) == ["p00", "p01", "p02", "p10", "p11", "p12"]
    assert names != sorted(names)
    assert [(s.start_s, s.end_s) for s in more.segments[4]] == [(0, 1), (1, 2), (2, 3)]


def test_chance_by_hand():
    labels = ["a", "a", "a", "b", "a", "b", "b", "b"]
    items = items_of(labels, list("stuvwxyz"))
    # a is three quarters of train: always a is right once in four, by frequency 3/4 * 1/4 + 1/4 * 3/4 = 3/8
    assert chance(items, [fold(range(4), range(4, 8))]) == pytest.approx(3 / 8)
    # the commonest label of what is learned is right three times in four
    assert chance(items, [fold(range(4, 8), [3, 5, 6, 0])]) == pytest.approx(3 / 4)
    # over folds items count alike: 3/4 * 1 (of one item) and 3/8 of four; always the commonest 1 and 1 of 4
    folds = [fold(range(4), [0]), fold(range(4), range(4, 8))]
    assert chance(items, folds) == pytest.approx(max((3 / 4 + 4 * 3 / 8) / 5, 2 / 5))


def test_chance_of_segments_is_of_their_seconds():
    cuts = ((Segment(0, 3, "p"), Segment(3, 4, "q")), (Segment(0, 1, "p"), Segment(1, 3, "q"), Segment(3, 4, "r")))
    items = items_of(["x", "x"], ["s", "t"], segments=cuts)
    assert chance(items, [fold([0], [1])]) == pytest.approx(max(1 / 4, (3 / 4 * 1 + 1 / 4 * 2) / 4))


def test_a_control_a_little_above_chance_is_no_leak():
    labels = ["a", "b"] * 60
    items = items_of(labels, [f"s{i // 4}" for i in range(120)])
    frames = vectors(np.random.default_rng(3).normal(size=(120, 3)))
    found = score(frames, items, [fold(range(60), range(60, 120))])
    interval = found.interval()
    lower = found.value - interval.low
    assert not leaks(found, interval.low - 0.5 * lower, 0.0)
    assert leaks(found, found.value - 2.1 * lower, 0.0)
    assert not leaks(found, found.value - 2.1 * lower, 2.2 * lower)
    assert not leaks(found, found.value, 0.0)


def test_luck_by_hand():
    items = items_of([*"abcde", *"abcdeeeeee"], list("stuvwxyzstuvwxy"))
    # labels of equal weight: a guess is right once in five, and five guesses deviate by sqrt(0.16 / 5)
    assert luck(items, [fold(range(5), range(5))], 0.2) == pytest.approx(3 * (0.16 / 5) ** 0.5)
    assert luck(items, [fold(range(5), range(5))] * 4, 0.2) == pytest.approx(3 * (0.16 / 20) ** 0.5)
    # of ten items six are one label: its guess weighs 0.6
    assert luck(items, [fold(range(5), range(5, 15))], 0.2) == pytest.approx(3 * (0.16 * (0.36 + 4 * 0.01)) ** 0.5)


@pytest.mark.parametrize("num_speakers", [1, 2, 8])
@pytest.mark.parametrize("is_telling", [False, True])
def test_honest_controls_are_not_called_leaks_however_few_the_speakers(num_speakers, is_telling):
    # five labels, sixty items a speaker; a head gives every item a name by lot, or one name to all items of a label
    rng, names = np.random.default_rng(4), [f"s{n}" for n in range(num_speakers)]
    labels = np.tile(np.arange(5), 12 * num_speakers)
    items = items_of([*"abcde", *(f"{'abcde'[label]}" for label in labels)], ["t"] * 5 + names * 60)
    folds = [fold(range(5), range(5, len(items)))]
    by_luck = luck(items, folds, chance(items, folds))

    def of(hits):
        counts = {name: (float(hits[n::num_speakers].sum()), 60.0) for n, name in enumerate(names)}
        return share_score("accuracy", {1: counts}, draws=Draws.of(names, 1, num_resamples=200), higher_is_better=True)

    def named():
        return rng.integers(5, size=5)[labels] if is_telling else rng.integers(5, size=len(labels))

    assert sum(leaks(of(labels == named()), 0.2, by_luck) for _ in range(200)) <= 3
    assert leaks(of(labels >= 0), 0.2, by_luck)
