"""Codes and labels: the picture's columns by hand, and nothing left out in silence."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from audio_ssl.probe.pictures import codes
from audio_ssl.probe.pictures.codes import code_heatmap


def picture(html: str) -> np.ndarray:
    ElementTree.fromstring(html)
    (data,) = re.findall(r'href="data:image/png;base64,([^"]+)"', html)
    return imread(io.BytesIO(base64.b64decode(data)), format="png")[..., :3]


def test_columns_are_shares_of_a_code_in_the_order_of_labels():
    # code 0: always b; 1: never; 2: 3 of 4 a; 3: always a
    counts = np.array([[0, 6], [0, 0], [3, 1], [8, 0]])
    html = code_heatmap("codes <x>", counts, ["a", "b&"])
    found = picture(html)
    assert found.shape == (2, 3, 3)
    dark, bright = found.sum(-1).min(), found.sum(-1).max()
    level = (found.sum(-1) - dark) / (bright - dark)
    assert level[0] == pytest.approx([1, level[0, 1], 0], abs=0.02)  # a: codes 3, 2, 0
    assert level[1] == pytest.approx([0, level[1, 1], 1], abs=0.02)
    assert 0 < level[1, 1] < level[0, 1] < 1
    assert re.findall(r'bottom:([\d.]+)%">([^<]+)<', html) == [("75.00", "a"), ("25.00", "b&amp;")]
    assert "3 of 4 codes are used, for 2 labels." in html
    assert "right at 94% of the frames" in html  # (6 + 3 + 8) / 18


def test_labels_beyond_a_page_are_joined_and_long_ones_cut(monkeypatch):
    monkeypatch.setattr(codes, "MAX_LABELS", 3)
    html = code_heatmap("x", np.diag([1, 9, 5, 3, 0]), ["rare", "a name of many letters", "b", "c", "never"])
    assert re.findall(r'%">([^<]+)<', html) == ["a name of m…", "b", "2 others"]
    assert picture(html).shape == (3, 4, 3)


def test_without_a_code_in_use_there_is_no_figure():
    assert code_heatmap("x", np.zeros((3, 2)), ["a", "b"]) == ""
