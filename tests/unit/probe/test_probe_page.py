"""The page of a probe: its sections, and nothing from data that a browser would take for its own."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np

from audio_ssl.config.probe import ProbeData, ProbeLabels, ProbeTask
from audio_ssl.probe.items import Segment
from audio_ssl.probe.looks import codes, layer_figure, maps, measured_rows
from audio_ssl.probe.outcome import Outcome
from audio_ssl.probe.page import build_probe_page
from audio_ssl.probe.run import Asked
from tests.unit.probe.in_memory import InMemory, fold_of, items_of
from tests.unit.probe.outcomes import CANDIDATES, FakeFrames, asked, candidate, outcome

HITS = {"log-mel": (5, 5, 5), "log-mel, 140 ms": (6, 6, 6), "random weights, a": (4, 4, 4), "first": (8, 7, 9)}
LAYERS = {"first": [(5, 5, 6), (8, 8, 9), (7, 7, 6)], "random weights, a": [(4, 4, 5)] * 3}


def page(**changed):
    found = outcome(HITS, layers=LAYERS, warnings=("few speakers",), notes=("3 rows lost",), **changed)
    when = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    return build_probe_page(Outcome((found,), CANDIDATES, (1, 2, 3), 9.0), {"letters": "<p>a map</p>"}, now=when)


def test_the_page_holds_every_section():
    html = page()
    for key in ("doubts", "task-letters", "measured", "notes"):
        assert f'<section id="{key}"' in html
    assert "few speakers" in html
    assert "3 rows lost" in html
    assert "2026-01-02 03:04 UTC" in html
    assert "<p>a map</p>" in html
    assert "http:" not in html
    assert "https:" not in html
    assert "<script" not in html


def test_each_figure_is_also_in_letters():
    html = page()
    assert '<td class="number">80.0</td>' in html
    assert "+40.0 (" in html
    assert "letters by layer" not in html  # the title of a table of text stands as a heading of the page
    assert "<h3>By layer</h3>" in html


def test_names_are_escaped():
    evil = candidate("<b>x</b>\"'", num_layers=3)
    found = outcome(
        {"log-mel": (5, 5, 5), evil.name: (8, 8, 8)}, candidates=(CANDIDATES[0], evil), warnings=("<i>",),
        name="a<b", notes=("</p><img src=x>",),
    )  # fmt: skip
    html = build_probe_page(Outcome((found,), (CANDIDATES[0], evil), (1,), 0.0), {})
    assert "<b>x</b>" not in html
    assert "<img" not in html
    assert "<i>" not in html
    assert 'id="task-a_b"' in html


def test_a_page_without_figures_by_layer_or_doubts_leaves_them_out():
    found = outcome(HITS)
    html = build_probe_page(Outcome((found,), CANDIDATES, (1,), 0.0), {})
    assert "By layer" not in html
    assert 'id="doubts"' not in html


def test_maps_show_the_test_items_by_label_and_by_speaker(tmp_path):
    one = asked(tmp_path)
    rows = measured_rows([*one.folds, one.folds[0]])
    assert rows.tolist() == [4, 5]
    html = maps("first, layer 1", FakeFrames("first", 3), one.items, rows=rows, layer=1)
    whole = ElementTree.fromstring(f"<div>{html}</div>")
    by = [span.text for span in whole.iter("span") if span.get("class") == "unit"]
    assert by == ["by label", "by speaker", "by label", "by speaker"]
    assert "2 utterances" in html


def test_layers_are_curves_and_features_without_layers_are_bands():
    html = layer_figure(outcome(HITS, layers=LAYERS))
    assert "best 83.3 % at 1" in html
    assert "log-mel, 140 ms" in html
    assert layer_figure(outcome(HITS)) == ""


def test_units_are_shown_beside_the_labels_that_they_stand_for():
    """Layer 1 holds the label, layer 0 nothing."""
    clip = np.zeros((2, 40, 2), dtype=np.float32)
    clip[1, 20:] = 5.0
    segments = ((Segment(0.0, 0.4, "aa"), Segment(0.4, 0.8, "sh")),) * 4
    task = ProbeTask(
        kind="units", title="units", data=ProbeData(root="x"), labels=ProbeLabels(ctm="phones.ctm"), clusters=2
    )
    items = items_of(("",) * 4, ("ann", "ann", "bob", "bob"), segments=segments)
    html = codes("first", InMemory([clip] * 4), Asked("units", task, items, [fold_of([0, 1], [2, 3])]), layer=1)
    assert "a code is right at 100% of the frames" in html
    assert html.index(">aa<") < html.index(">sh<")
