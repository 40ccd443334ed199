"""The pictures of a probe in a browser, at the width of a desk and of a phone, light and dark."""

import numpy as np
import pytest
from matplotlib.image import imread

from audio_ssl.evaluate.intervals import Interval
from audio_ssl.evaluate.report.skeleton import whole
from audio_ssl.probe.pictures import style
from audio_ssl.probe.pictures.codes import code_heatmap
from audio_ssl.probe.pictures.layers import Baseline, Curve, Reading, layer_curves
from audio_ssl.probe.pictures.maps import embedding_map, plane
from audio_ssl.probe.pictures.neighbours import neighbour_list
from audio_ssl.probe.retrieve import Neighbour, Query
from tests.e2e.browser import CHROMIUM, NO_CHROMIUM, browse, measured
from tests.unit.probe.listed import listed_items

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
PHONES = ("SIL", "AH", "IH", "T", "N", "S", "L", "a label of too many letters")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page of every picture, with more models, speakers and codes than are told apart at a glance."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    curves = [
        Curve(f"a model of a rather long name {i}", [Reading(v, Interval(v - 0.04, v + 0.05)) for v in values])
        for i, values in enumerate(rng.uniform(0.3, 0.9, size=(4, 7)).tolist())
    ]
    baselines = [
        Baseline(name, Reading(v, Interval(v - 0.03, v + 0.02)))
        for name, v in (("log-mel", 0.5), ("log-mel, 140 ms", 0.6), ("MFCC", 0.45), ("random weights", 0.35))
    ]
    speakers = [f"speaker {i % 17:02d}" for i in range(600)]
    vectors = rng.normal(size=(600, 16)) + 3 * rng.normal(size=(17, 16))[[i % 17 for i in range(600)]]
    counts = rng.gamma(0.3, size=(100, len(PHONES))) * 100
    items = listed_items([f"digit {i % 4}" for i in range(8)], [f"a-speaker-of-a-long-name-{i}" for i in range(8)])
    queries = [Query(i, tuple(Neighbour(j, 0.9 - j / 10, j % 2 == i % 2) for j in range(2, 7))) for i in range(2)]
    silent = "data:audio/flac;base64,"
    sections = [
        ("layers", "By layer", layer_curves("Digits", curves, baselines, metric="accuracy", higher_is_better=True)),
        ("maps", "Maps", '<div class="pair">' + "".join(
            embedding_map("Utterances", plane(vectors, method=method), speakers, by="speaker")
            for method in ("pca", "tsne")
        ) + "</div>"),
        ("codes", "Codes", code_heatmap("Codes and phones", counts, PHONES)),
        ("near", "Neighbours", neighbour_list("Nearest", queries, items, {2: silent, 3: silent})),
    ]  # fmt: skip
    page = whole("pictures", sections, header="<header><h1>Pictures</h1></header>", footer="", own_style=style())
    (folder / "page.html").write_text(page, encoding="utf-8")
    return folder


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_pictures_fit_their_window(folder, width):
    found = measured(folder / "page.html", folder, width)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["smallest"] >= 11
    assert found["narrowest"] >= 220
    assert found["lowest"] >= 100
    assert found["pictures"] == 1


@needs_chromium
def test_both_themes_are_drawn(folder):
    means = []
    for dark in (False, True):
        shot = folder / f"{dark}.png"
        seen = browse(folder / "page.html", width=600, profile=folder / "profile", screenshot=shot, dark=dark)
        assert not seen.console
        picture = imread(shot)[..., :3]
        assert picture.std() > 0.02  # something is drawn
        means.append(float(np.median(picture)))
    assert means[0] > 0.9
    assert means[1] < 0.2
