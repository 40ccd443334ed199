"""Retrieval: by hand, against scikit-learn, chance against all orders, and nothing chosen by what is measured."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from audio_ssl.errors import ConfigError
from audio_ssl.probe import retrieve
from audio_ssl.probe.items import as_rows
from tests.unit.probe.listed import ListedFrames, at_degrees, fold_of, listed_items, task_of

TASK = task_of("retrieve")


def measured(frames, items, *folds, task=TASK):
    return retrieve.run(frames, items, folds or [fold_of(range(len(items)))], task=task, seeds=(0, 1), heads=())[0]


def of_vectors(vectors) -> ListedFrames:
    """Frames whose mean is the vector."""
    return ListedFrames([torch.as_tensor(v, dtype=torch.float32).reshape(1, 1, -1).expand(1, 3, -1) for v in vectors])


def test_figures_by_hand():
    # r's a at 0 sees s: a at 50 and b at 20: second place, 1/2. r's b at 30: b at 10 away: 1.
    # s's a at 50 sees r: a 50 away, b 20 away: second, 1/2. s's b at 20 sees b 10 away: 1.
    items = listed_items(["a", "b", "a", "b"], ["r", "r", "s", "s"])
    result = measured(ListedFrames([at_degrees(d) for d in (0, 30, 50, 20)]), items)
    assert (result.head, result.layer, result.score.metric) == ("cosine", None, "precision_at_1")
    assert result.score.value == 0.5
    assert result.score.of_block == {"r": 0.5, "s": 0.5}
    assert {name: score.value for name, score in result.others.items()} == pytest.approx(
        {"mean_average_precision": 0.75, "chance": 0.5, "chance_mean_average_precision": 0.75}
    )


@pytest.mark.parametrize("across", ["speaker", "language"])
def test_figures_are_those_of_scikit_learn(across):
    rng = np.random.default_rng(5)
    num = 61
    labels, speakers = rng.choice(list("aabc"), num).tolist(), rng.choice(list("rstu"), num).tolist()
    languages = rng.choice(["en", "de", "fr"], num).tolist()
    vectors = rng.normal(size=(num, 7)).astype(np.float32)
    items = listed_items(labels, speakers, languages=languages)
    result = measured(of_vectors(vectors), items, task=task_of("retrieve", across=across))
    sides = speakers if across == "speaker" else languages
    first, precision = [], []
    for i in range(num):
        others = [j for j in range(num) if sides[j] != sides[i]]
        cosines = [vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j]) for j in others]
        is_right = [labels[j] == labels[i] for j in others]
        first.append(is_right[int(np.argmax(cosines))])
        precision.append(average_precision_score(is_right, cosines))
    assert result.score.value == pytest.approx(np.mean(first))
    assert result.others["mean_average_precision"].value == pytest.approx(np.mean(precision))


@pytest.mark.parametrize(("num_right", "num"), [(1, 1), (1, 4), (2, 5), (5, 5)])
def test_chance_is_the_mean_over_all_orders(num_right, num):
    orders = set(permutations([True] * num_right + [False] * (num - num_right)))
    first = np.mean([order[0] for order in orders])
    precision = np.mean([
        np.mean([sum(order[: k + 1]) / (k + 1) for k in range(num) if order[k]]) for order in orders
    ])  # fmt: skip
    items = listed_items(["a"] + ["a"] * num_right + ["b"] * (num - num_right), ["r"] + ["s"] * num)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(num + 1, 3))
    found = retrieve.search(
        vectors / np.linalg.norm(vectors, axis=1)[:, None], items, as_rows(range(num + 1)), task=TASK
    )
    assert found.chance_first[0] == pytest.approx(first)
    assert found.chance_precision[0] == pytest.approx(precision)


def test_noise_is_at_chance_and_a_feature_that_is_the_label_finds_all():
    is_inside, above = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = rng.choice(list("abcde"), 160).tolist()
        items = listed_items(labels, [f"s{i % 8}" for i in range(160)])
        result = measured(of_vectors(rng.normal(size=(160, 6))), items)
        interval = result.score.interval()
        assert interval is not None
        is_inside.append(interval.low < result.others["chance"].value < interval.high)
        above.append(
            result.others["mean_average_precision"].value - result.others["chance_mean_average_precision"].value
        )
    assert np.mean(is_inside) > 0.85
    assert np.mean(above) == pytest.approx(0, abs=0.003)
    known = measured(of_vectors(np.eye(5)[["abcde".index(label) for label in labels]]), items)
    assert (known.score.value, known.others["mean_average_precision"].value) == (1.0, 1.0)


def test_utterances_that_are_all_alike_are_at_chance_in_whatever_order_they_stand():
    labels = ["a"] * 60 + ["b"] * 60
    result = measured(of_vectors(np.ones((120, 3))), listed_items(labels, ["r", "s", "t"] * 40))
    assert result.score.value == pytest.approx(0.5, abs=0.15)
    assert result.others["mean_average_precision"].value == pytest.approx(0.5, abs=0.06)


def test_what_all_share_does_not_matter_and_only_train_tells_it():
    rng = np.random.default_rng(2)
    num = 80
    labels = rng.choice(list("abc"), num).tolist()
    vectors = 0.5 * rng.normal(size=(num, 3)) + np.eye(3)[["abc".index(label) for label in labels]]
    items = listed_items(labels, [f"s{i % 4}" for i in range(num)])
    fold = fold_of(range(40, num), train=range(40))
    plain = measured(of_vectors(vectors), items, fold).score.value
    assert measured(of_vectors(vectors + 100.0), items, fold).score.value == plain
    moved = vectors.copy()
    moved[-1] += 50.0  # one test item: the others must not see it
    ours, theirs = (retrieve.vectors_of(of_vectors(v), fold, 0)[:-1] for v in (vectors, moved))
    assert (ours == theirs).all()


def test_the_layer_is_chosen_without_the_test_items():
    labels, speakers = list("abcd") * 15, [f"s{i // 4 % 5}" for i in range(60)]
    known = torch.eye(4).repeat(15, 1)
    other = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    frames = ListedFrames([
        torch.stack([o, k] if 20 <= i < 40 else [k, o])[:, None]
        for i, (k, o) in enumerate(zip(known, other, strict=True))
    ])  # fmt: skip
    items = listed_items(labels, speakers)
    result = measured(frames, items, fold_of(range(40, 60), train=range(20), valid=range(20, 40)))
    assert result.layer == 1
    assert result.score.value < 0.9
    by_train = measured(frames, items, fold_of(range(40, 60), train=range(20)))
    assert (by_train.layer, by_train.score.value) == (0, 1.0)
    with pytest.raises(ConfigError, match="2 layers, one of which must be chosen"):
        measured(frames, items, fold_of(range(40, 60)))


def test_the_layer_is_chosen_by_labels_that_are_still_said_by_two(monkeypatch):
    """Every third item would be of speaker r alone; s says each label once, and r says it five times."""
    monkeypatch.setattr(retrieve, "MAX_CHOOSING", 16)
    labels = [label for label in "abcdefgh" for _ in range(6)]
    known = torch.eye(8).repeat_interleave(6, dim=0)
    other = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    frames = ListedFrames([torch.stack([o, k])[:, None] for k, o in zip(known, other, strict=True)])
    items = listed_items(labels, ["r", "r", "r", "r", "r", "s"] * 8)
    assert measured(frames, items, fold_of(range(48), train=range(48))).layer == 1


def test_queries_that_have_nothing_to_find_are_counted():
    items = listed_items(["a", "b", "a", "c"], ["r", "r", "s", "t"])
    result = measured(ListedFrames([at_degrees(d) for d in (0, 30, 10, 20)]), items)
    assert result.others["answerable"].value == 0.5
    assert result.score.of_block.keys() == {"r", "s"}
    assert result.score.of_block == {"r": 1.0, "s": 1.0}


@pytest.mark.parametrize(
    ("labels", "across", "said"),
    [
        (["a", "b", "c"], "speaker", "none of 3 is"),
        (["a", "a", "a"], "language", "needs the language of every row, but .*u0"),
    ],
)
def test_tasks_that_cannot_be_measured_are_refused(labels, across, said):
    items = listed_items(labels, ["r", "s", "t"])
    with pytest.raises(ConfigError, match=said):
        measured(ListedFrames([at_degrees(0)] * 3), items, task=task_of("retrieve", across=across))


def test_frames_that_are_not_finite_are_refused():
    items = listed_items(["a", "a"], ["r", "s"])
    with pytest.raises(ConfigError, match="must be finite"):
        measured(ListedFrames([at_degrees(0), at_degrees(0) * float("nan")]), items)


def test_neighbours_are_the_nearest_of_others():
    items = listed_items(["a", "b", "a", "b", "a"], ["r", "r", "s", "s", "t"])
    frames = ListedFrames([at_degrees(d) for d in (0, 30, 50, 20, 3)])
    found = retrieve.neighbours(frames, items, fold_of(range(5)), task=TASK, num_queries=3, num=2)
    assert [query.item for query in found] == [0, 2, 4]
    first = found[0]
    assert [(n.item, n.is_right) for n in first.neighbours] == [(4, True), (3, False)]
    assert [n.cosine for n in first.neighbours] == pytest.approx(np.cos(np.radians([3, 20])))
    assert [n.item for n in found[1].neighbours] == [1, 4]
