"""ABX: by hand, against loops over all triples, at chance and at none, and nothing chosen by what is measured."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch

from audio_ssl.errors import ConfigError
from audio_ssl.probe import abx, abx_triples
from audio_ssl.probe.abx_tokens import tokens_of, vectors_of
from audio_ssl.probe.abx_triples import draw_triples
from audio_ssl.probe.dtw import distances
from audio_ssl.probe.items import Segment, as_rows
from audio_ssl.probe.scores import Draws
from tests.unit.probe.listed import ListedFrames, at_degrees, fold_of, listed_items, task_of

TASK = task_of("abx")


def measured(frames, items, *folds, task=TASK):
    return abx.run(frames, items, folds or [fold_of(range(len(items)))], task=task, seeds=(0, 1), heads=())[0]


def noise(num: int, *, dim: int = 5, seed: int = 0, layers: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(layers, 2 + i % 3, dim, generator=generator) for i in range(num)]


def by_loops(frames, items, *, is_within: bool) -> float:
    """The mean over all triples: of each cell, then of each ordered pair of labels, then of pairs."""
    unit = [frames.of(i)[0].numpy() for i in range(len(items))]
    unit = [u / np.linalg.norm(u, axis=1, keepdims=True) for u in unit]
    numbers = range(len(items))
    table = distances(unit, np.array(list(product(numbers, numbers)))).reshape(len(items), -1)
    cells = defaultdict(list)
    for a, b, x in product(numbers, numbers, numbers):
        (la, lb, lx), (sa, sb, sx) = ([of[i] for i in (a, b, x)] for of in (items.labels, items.speakers))
        if la == lx != lb and sa == sb and (sa == sx and a != x if is_within else sa != sx):
            cells[la, lb, sa, sx].append((table[x, a] > table[x, b]) + (table[x, a] == table[x, b]) / 2)
    pairs = defaultdict(list)
    for (la, lb, *_), wrong in cells.items():
        pairs[la, lb].append(np.mean(wrong))
    return float(np.mean([np.mean(errors) for errors in pairs.values()]))


def test_an_error_by_hand():
    # X of s with A, B of r: a at 60 is nearer to r's b (30 away) than to r's a (60 away): wrong; the other three right
    items = listed_items(["a", "b", "a", "b"], ["r", "r", "s", "s"])
    result = measured(ListedFrames([at_degrees(d) for d in (0, 90, 60, 100)]), items)
    score = result.score
    assert (result.head, score.metric, score.value, score.higher_is_better) == ("dtw", "error_rate", 0.25, False)
    assert score.of_block == {"r": 0.0, "s": 0.5}
    assert score.of_seed == {0: 0.25}
    draws = Draws.of(("r", "s"), 1)
    is_both = (draws.blocks == 1).all(1)
    assert (score.resamples[is_both] == 0.25).all()
    assert np.isnan(score.resamples[~is_both]).all()  # one speaker twice: nobody is across
    assert result.others == {}  # nobody has a label twice
    assert result.layer is None


def test_ties_are_half_an_error():
    items = listed_items(["a", "b", "a", "b"], ["r", "r", "s", "s"])
    assert measured(ListedFrames([at_degrees(30)] * 4), items).score.value == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_means_are_those_of_loops_over_all_triples(seed):
    rng = np.random.default_rng(seed)
    labels, speakers = rng.choice(list("aaabbc"), 23).tolist(), rng.choice(list("rrrstt"), 23).tolist()
    items = listed_items(labels, speakers)
    frames = ListedFrames(noise(23, seed=seed))
    result = measured(frames, items)
    assert result.score.value == pytest.approx(by_loops(frames, items, is_within=False), abs=1e-9)
    assert result.others["within"].value == pytest.approx(by_loops(frames, items, is_within=True), abs=1e-9)


def test_a_mean_of_drawn_triples_is_near_that_of_all(monkeypatch):
    labels = ["a"] * 18 + ["b"] * 9 + ["c"] * 9
    speakers = list("rst" * 12)
    frames = noise(36, seed=4)
    for i, label in enumerate(labels):
        frames[i] += 1.2 * torch.eye(5)["abc".index(label)] + torch.eye(5)["rst".index(speakers[i])]
    items, listed = listed_items(labels, speakers), ListedFrames(frames)
    whole = by_loops(listed, items, is_within=False)
    assert 0.2 < whole < 0.45
    monkeypatch.setattr(abx, "MAX_TRIPLES", 300)
    drawn = [
        abx.run(listed, items, [fold_of(range(36))], task=TASK, seeds=(seed,), heads=())[0].score.value
        for seed in range(20)
    ]
    assert np.mean(drawn) == pytest.approx(whole, abs=0.02)
    assert np.std(drawn) > 0  # they were drawn


def test_noise_is_at_chance_within_its_interval_and_a_feature_that_is_the_label_makes_no_error():
    rng = np.random.default_rng(0)
    labels, speakers = rng.choice(list("abcd"), 120).tolist(), [f"s{i % 6}" for i in range(120)]
    items = listed_items(labels, speakers)
    interval = measured(ListedFrames(noise(120)), items).score.interval()
    assert interval is not None
    assert interval.low < 0.5 < interval.high
    known = [torch.eye(4)["abcd".index(label)].expand(1, 2, 4) for label in labels]
    assert measured(ListedFrames(known), items).score.value == 0.0
    of_speaker = [torch.eye(6)[i % 6].expand(1, 2, 6) for i in range(120)]
    assert measured(ListedFrames(of_speaker), items).score.value == 0.5  # A and B are alike, X is another


def test_drawn_triples_keep_to_the_rule(monkeypatch):
    monkeypatch.setattr(abx_triples, "MAX_TOKENS", 10)
    rng = np.random.default_rng(3)
    labels, speakers = rng.choice(list("abcdefgh"), 900).tolist(), rng.choice(list("rstuvwxyz"), 900).tolist()
    tokens = tokens_of(listed_items(labels, speakers), as_rows(range(900)), task=TASK)
    for is_within in (False, True):
        triples = draw_triples(tokens, np.random.default_rng(0), max_triples=5000, is_within=is_within)
        a, b, x = triples.tokens.T
        assert len(triples) == 5000
        assert (tokens.voices[a] == tokens.voices[b]).all()
        assert ((tokens.voices[a] == tokens.voices[x]) == is_within).all()
        assert (tokens.labels[a] == tokens.labels[x]).all()
        assert (tokens.labels[a] != tokens.labels[b]).all()
        assert (a != x).all()
        assert len(np.unique(triples.tokens, axis=0)) == len(triples)
        assert (triples.labels[triples.cells] == np.stack([tokens.labels[a], tokens.labels[b]], 1)).all()
        assert (triples.voices[triples.cells] == np.stack([tokens.voices[a], tokens.voices[x]], 1)).all()
        assert len({(v, w) for v, w in zip(tokens.voices[a], tokens.labels[a], strict=True)}) == 72  # all have a say
        assert np.ptp(np.bincount(triples.cells)) <= 1
        per_group = defaultdict(set)
        for token in triples.tokens.ravel().tolist():
            per_group[tokens.voices[token], tokens.labels[token]].add(token)
        assert max(map(len, per_group.values())) <= 10


def test_a_bound_below_the_number_of_groups_holds():
    tokens = tokens_of(listed_items(list("abc") * 30, list("rrrsssttt") * 10), as_rows(range(90)), task=TASK)
    assert len(draw_triples(tokens, np.random.default_rng(0), max_triples=4)) == 4


def test_all_within_triples_are_met_where_they_are_few():
    tokens = tokens_of(listed_items(["a", "a", "a", "b"], ["r"] * 4), as_rows(range(4)), task=TASK)
    triples = draw_triples(tokens, np.random.default_rng(0), max_triples=100, is_within=True)
    assert sorted(map(tuple, triples.tokens.tolist())) == [
        (0, 3, 1), (0, 3, 2), (1, 3, 0), (1, 3, 2), (2, 3, 0), (2, 3, 1),
    ]  # fmt: skip


def test_a_resample_counts_pairs_of_speakers():
    cells = abx.Cells(
        np.array([[0, 1], [0, 1], [1, 0], [0, 1]]), np.array([[0, 1], [1, 0], [1, 2], [2, 2]]),
        np.array([0.1, 0.4, 0.8, 0.6]),
    )  # fmt: skip
    blocks = np.array([[1, 1, 1], [2, 1, 0], [0, 2, 1], [0, 0, 3], [3, 0, 0]])
    found = abx._resampled(cells, blocks)
    first = (0.1 + 0.4 + 0.6) / 3
    assert found[:4] == pytest.approx([(first + 0.8) / 2, 0.25, (0.6 + 0.8) / 2, 0.6])
    assert np.isnan(found[4])
    within = abx.Cells(np.array([[0, 1], [0, 1]]), np.array([[0, 0], [1, 1]]), np.array([0.1, 0.4]))
    assert abx._resampled(within, np.array([[2, 1]])) == pytest.approx(
        [(2 * 0.1 + 0.4) / 3]
    )  # once a draw, not squared


def test_the_layer_is_chosen_without_the_test_items():
    labels, speakers = list("abab") * 15, [f"s{i // 4 % 5}" for i in range(60)]
    known = [torch.eye(5)["ab".index(label)].expand(1, 2, 5) for label in labels]
    other = noise(60)
    # layer 1 knows the label of valid (20 to 39), layer 0 that of all others
    frames = [
        torch.cat((o[:, :2], k) if 20 <= i < 40 else (k, o[:, :2]))
        for i, (k, o) in enumerate(zip(known, other, strict=True))
    ]
    items = listed_items(labels, speakers)
    fold = fold_of(range(40, 60), train=range(20), valid=range(20, 40))
    result = measured(ListedFrames(frames), items, fold)
    assert result.layer == 1
    assert result.score.value > 0.2
    by_train = measured(ListedFrames(frames), items, fold_of(range(40, 60), train=range(20)))
    assert (by_train.layer, by_train.score.value) == (0, 0.0)
    with pytest.raises(ConfigError, match="2 layers, one of which must be chosen"):
        measured(ListedFrames(frames), items, fold_of(range(40, 60)))


def test_frames_that_do_not_fit_are_compared_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    items = listed_items(rng.choice(list("abc"), 23).tolist(), rng.choice(list("rs"), 23).tolist())
    frames = ListedFrames(noise(23))
    whole = measured(frames, items).score.value
    monkeypatch.setattr(abx, "MAX_NUMBERS", 1000)  # an item counts as 50 frames of 5 numbers
    held = []
    monkeypatch.setattr(abx, "vectors_of", lambda f, t, used: held.append(len(used)) or vectors_of(f, t, used))
    assert measured(frames, items).score.value == whole
    assert max(held) <= 4


def test_segments_are_tokens_by_the_centres_of_frames():
    segments = [[Segment(0.02, 0.06, "a"), Segment(0.06, 0.5, "b")], [Segment(0.021, 0.025, "c")]]
    items = listed_items(["", ""], ["r", "s"], segments=segments)
    frames = ListedFrames([at_degrees(0, 10, 20, 30, 40)] * 2)
    tokens = tokens_of(items, as_rows([0, 1]), task=TASK)
    got = vectors_of(frames, tokens, as_rows([0, 1, 2]))
    degrees = [np.degrees(np.arctan2(g[:, 1], g[:, 0])).round().tolist() for g in got]
    assert degrees == [[10, 20], [30, 40], [10]]  # the last is shorter than a frame: the one in its middle


def test_languages_are_others_where_they_are_compared():
    items = listed_items(["a", "b"] * 3, list("rrsstt"), languages=["en", "en", "en", "en", "de", "de"])
    frames = ListedFrames([at_degrees(d) for d in (0, 90, 80, 10, 5, 85)])  # s says it the other way round
    of_speakers = measured(frames, items).score.value
    of_languages = measured(frames, items, task=task_of("abx", across="language")).score.value
    assert of_speakers == pytest.approx(4 / 6)  # r-t and t-r are right
    assert of_languages == pytest.approx(0.5)  # r-t, t-r right; s-t, t-s wrong


@pytest.mark.parametrize(
    ("labels", "speakers", "across", "said"),
    [
        (["a", "b", "a"], ["r", "r", "r"], "speaker", "at least two speakers of the test part must share a label"),
        (["a", "a"], ["r", "s"], "speaker", "at least two speakers"),
        ([("a", "b"), ("c",)], ["r", "s"], "speaker", "got 2 symbols for"),
        (["a", "b"], ["r", "s"], "language", "needs the language of every row, but .*u0"),
    ],
)
def test_tasks_that_cannot_be_measured_are_refused(labels, speakers, across, said):
    frames = ListedFrames([at_degrees(0)] * len(labels))
    with pytest.raises(ConfigError, match=said):
        measured(frames, listed_items(labels, speakers), task=task_of("abx", across=across))


def test_frames_that_are_not_finite_are_refused():
    items = listed_items(["a", "b", "a", "b"], ["r", "r", "s", "s"])
    with pytest.raises(ConfigError, match="frames of listed must be finite"):
        measured(ListedFrames([at_degrees(0), at_degrees(float("nan")), at_degrees(1), at_degrees(2)]), items)


def test_folds_are_joined_and_one_without_triples_does_not_choose_a_layer():
    items = listed_items(["a", "b"] * 4, list("rrssttuu"))
    frames = ListedFrames([at_degrees(d) for d in (0, 90, 60, 100, 0, 90, 0, 90)])
    joined = measured(frames, items, fold_of([0, 1, 2, 3]), fold_of([4, 5, 6, 7]), fold_of([]))
    assert joined.score.value == pytest.approx((0.25 * 4 + 0) / 8)
    assert joined.score.num_blocks == 4
