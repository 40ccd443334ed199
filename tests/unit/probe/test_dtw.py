"""Distances of stretches: by hand, against a search of all paths, and what must not matter."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.probe import dtw
from audio_ssl.probe.dtw import directions, distances
from tests.unit.probe.listed import at_degrees


def distance(one, other) -> float:
    return float(distances([directions(np.asarray(x, dtype=np.float32)) for x in (one, other)], np.array([[0, 1]]))[0])


def paths(num_rows: int, num_columns: int):
    """Every path from the first pair of frames to the last."""
    if (num_rows, num_columns) == (1, 1):
        yield ((0, 0),)
        return
    for t, u in ((1, 0), (0, 1), (1, 1)):
        if num_rows > t and num_columns > u:
            for path in paths(num_rows - t, num_columns - u):
                yield (*path, (num_rows - 1, num_columns - 1))


def by_all_paths(one, other) -> float:
    """The definition: the least sum over all paths, of equal ones the shortest, by its number of pairs."""

    def angle(x, y) -> float:
        cosine = sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
        return math.acos(max(-1.0, min(1.0, cosine))) / math.pi

    table = [[angle(x, y) for y in other.tolist()] for x in one.tolist()]
    total, length = min(
        (round(sum(table[t][u] for t, u in path), 9), len(path)) for path in paths(len(one), len(other))
    )
    return total / length


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((30,), (30,), 0.0),
        ((0,), (180,), 1.0),
        ((0, 90), (0,), 0.25),  # both frames with the one: 0 and 1/2, mean of two
        ((0, 90), (0, 90), 0.0),
        ((0, 0, 0, 90), (0, 90, 90), 0.0),  # said slower: nothing
        ((0, 90, 0), (0, 36, 0), 0.1),  # 0, 54/180, 0: mean of three
        ((0, 90), (90, 0), 0.5),  # straight: 1/2 and 1/2; a way round costs 1.0 over three
    ],
)
def test_distances_by_hand(one, other, expected):
    # the last: (0,0) 1/2, (1,0) 0, (1,1) 1/2 sums to 1 as the straight one does, and is longer
    assert distance(at_degrees(*one)[0], at_degrees(*other)[0]) == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10_000))
def test_the_path_is_the_best_of_all(num_rows, num_columns, seed):
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(num_rows, 3)), rng.normal(size=(num_columns, 3))
    assert distance(one, other) == pytest.approx(by_all_paths(one, other), abs=2e-6)
    assert distance(one, other) == pytest.approx(distance(other, one), abs=2e-6)


def test_many_at_once_are_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(1)
    stretches = [directions(rng.normal(size=(n, 5)).astype(np.float32)) for n in (3, 1, 7, 2, 11, 5)]
    pairs = np.array([[i, j] for i in range(6) for j in range(6)])[rng.permutation(36)]
    whole = distances(stretches, pairs)
    alone = [distances([stretches[i], stretches[j]], np.array([[0, 1]]))[0] for i, j in pairs]
    assert whole == pytest.approx(alone, abs=1e-6)
    monkeypatch.setattr(dtw, "MAX_ANGLES", 20)
    assert distances(stretches, pairs) == pytest.approx(whole, abs=1e-6)


def test_a_frame_of_zeros_is_at_a_right_angle_and_one_that_is_not_finite_is_seen():
    assert distance([[0.0, 0.0]], [[1.0, 0.0]]) == pytest.approx(0.5, abs=1e-6)
    for place in range(3):
        broken = np.ones((3, 2))
        broken[place, 1] = np.nan
        assert math.isnan(distance(broken, np.ones((4, 2))))
        assert math.isnan(distance(np.ones((4, 2)), broken))


def test_of_two_ways_of_equal_cost_the_shorter_counts_whichever_side_it_comes_from():
    # 1 + 1 + 0 + 1 down the diagonal, four pairs; 1 + 0 + 1 + 0 + 1 along the upper edge, five
    angles = np.array([[1, 0, 1, 9], [9, 1, 9, 0], [9, 9, 0, 1]], dtype=np.float32)
    for table in (angles, np.ascontiguousarray(angles.T)):
        means, width = np.empty(1), table.shape[1]
        edges = np.array([0, width])
        dtw.path_means(table, edges, np.empty((2, width)), np.empty((2, width), dtype=np.int64), means)
        assert means.tolist() == [0.75]
