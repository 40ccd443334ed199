"""Curves by layer: places by hand, words for those who do not see them, and nothing where there is nothing."""

import re
from xml.etree import ElementTree

from audio_ssl.evaluate.intervals import Interval
from audio_ssl.probe.pictures.layers import Baseline, Curve, Reading, layer_curves

CURVE = Curve("mine <1>", [Reading(0.2, Interval(0.1, 0.3)), Reading(0.6, Interval(0.5, 0.7)), Reading(0.4)])
MEL = Baseline("log-mel", Reading(0.3, Interval(0.25, 0.4)))


def drawn(*curves, baselines=(MEL,), higher_is_better=True, **more) -> str:
    html = layer_curves(
        'digits & "more"', curves or (CURVE,), baselines, metric="accuracy", higher_is_better=higher_is_better, **more
    )
    ElementTree.fromstring(html)
    return html


def test_points_intervals_and_baselines_are_where_they_belong():
    html = drawn()

    # the window: 10 % to 70 % with 6 % of 60 on each end, 6.4 to 73.6
    def down(percent: float) -> str:
        return f"{1000 * (73.6 - percent) / 67.2:.1f}".removesuffix(".0")

    assert f'<path d="M0 {down(20)}L500 {down(60)}L1000 {down(40)}"/>' in html
    ribbon = f"M0 {down(30)}L500 {down(70)}L1000 {down(40)}L1000 {down(40)}L500 {down(50)}L0 {down(10)}Z"
    assert f'<g class="g0"><path class="ribbon" d="{ribbon}"/></g>' in html
    assert f'<path class="ribbon" d="M0 {down(40)}H1000V{down(25)}H0Z"/><path d="M0 {down(30)}H1000"/>' in html
    assert re.findall(r'left:([\d.]+)%">([^<]+)<', html) == [("0.0", "0"), ("50.0", "1"), ("100.0", "2")]


def test_it_is_told_in_words_with_the_best_layer():
    html = drawn()
    assert "mine &lt;1&gt;: layer 0 20 %, layer 1 60 %, layer 2 40 %; log-mel: 30 %." in html
    assert "<b>best 60 % at 1</b>" in html
    assert "<b>best 20 % at 0</b>" in drawn(higher_is_better=False)
    assert "lower is better" in drawn(higher_is_better=False)
    assert "layer 1 0.6," in drawn(is_share=False)


def test_curves_and_baselines_are_told_apart_by_their_strokes():
    html = drawn(CURVE, Curve("other", CURVE.readings), baselines=(MEL, Baseline("MFCC", Reading(0.1))))
    assert [html.count(f'<svg class="{style}"') for style in ("g0", "g1", "b0", "b1")] == [1, 1, 1, 1]


def test_ticks_are_whole_layers():
    many = Curve("deep", [Reading(n / 25) for n in range(25)])
    ticks = re.findall(r'left:[\d.]+%">([^<]+)<', drawn(many))
    assert ticks == ["0", "10", "20"]
    assert re.findall(r'left:([\d.]+)%">', drawn(Curve("flat", [Reading(0.5)]))) == ["50.0"]


def test_without_layers_there_is_no_figure():
    assert layer_curves("x", [Curve("mine", [])], [MEL], metric="accuracy", higher_is_better=True) == ""
