"""Maps: principal components as scikit-learn's, groups told by colour and shape, and no group lost."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.decomposition import PCA

from audio_ssl.probe.pictures import maps
from audio_ssl.probe.pictures.maps import Plane, embedding_map, plane, principal


def test_components_are_those_of_scikit_learn_but_for_the_sign():
    vectors = np.random.default_rng(0).normal(size=(23, 7)) @ np.diag([5, 3, 2, 1, 1, 1, 1])
    places, shares = principal(vectors, num=4)
    theirs = PCA(4).fit(vectors)
    assert np.abs(places) == pytest.approx(np.abs(theirs.transform(vectors)))
    assert shares == pytest.approx(theirs.explained_variance_ratio_)
    assert (places[np.abs(places).argmax(0), range(4)] > 0).all()


@pytest.mark.parametrize("num", [1, 2, 3])
def test_few_utterances_or_equal_ones_have_a_plane_too(num):
    for vectors in (np.ones((num, 3)), np.eye(3)[:num], np.ones((num, 1))):
        found = plane(vectors, method="tsne")
        assert found.points.shape == (num, 2)
        assert np.isfinite(found.points).all()
        ElementTree.fromstring(embedding_map("x", found, ["a"] * num, by="speaker"))


def test_neighbours_stay_together_and_the_map_is_the_same_each_time():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 15)
    vectors = rng.normal(size=(60, 20)) + 10 * rng.normal(size=(4, 20))[groups]
    first, again = (plane(vectors, method="tsne") for _ in range(2))
    assert (first.points == again.points).all()
    apart = np.linalg.norm(first.points[:, None] - first.points[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (groups[apart.argmin(1)] == groups).mean() > 0.95
    assert "t-SNE, perplexity 19.7" in first.told


def test_points_lie_where_they_belong():
    found = Plane(np.array([[0.0, 0.0], [4.0, 2.0], [2.0, 1.0]]), np.arange(3), 3, "by hand")
    html = embedding_map("x", found, ["a", "b", "a"], by="digit")
    assert f'<path class="m0" d="M30 970{maps.SHAPES[0]}M500 500{maps.SHAPES[0]}"><title>a</title>' in html
    assert f'<path class="m1" d="M970 30{maps.SHAPES[1]}"><title>b</title>' in html


def test_many_points_are_taken_evenly_and_it_is_said(monkeypatch):
    monkeypatch.setattr(maps, "MAX_POINTS", 5)
    found = plane(np.random.default_rng(0).normal(size=(41, 3)), method="pca")
    assert found.rows.tolist() == [0, 10, 20, 30, 40]
    assert "5 of 41 utterances" in embedding_map("x", found, [str(i) for i in range(41)], by="speaker")


def test_groups_beyond_what_can_be_told_apart_are_others_and_counted():
    names = [f"speaker {i:02d} <x>" for i in range(20) for _ in range(1 + (i % 3 == 0))]
    found = plane(np.random.default_rng(0).normal(size=(len(names), 3)), method="pca")
    html = embedding_map('of "all"', found, names, by="speaker")
    root = ElementTree.fromstring(html)
    paths = root.findall(".//div/svg/path")
    assert len(paths) == 13
    assert sum(path.get("d").count("M") for path in paths) == len(names)
    looks = {(path.get("class"), re.search(r"M\d+ \d+(m[^M]*)", path.get("d"))[1]) for path in paths[1:]}
    assert len(looks) == 12
    assert "speaker 18 &lt;x&gt; (2)" in html  # the most frequent are named
    assert "8 others (8)" in html
