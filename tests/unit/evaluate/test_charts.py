"""Charts: places worked out by hand, and no spike lost where there are many points."""

import re

import pytest

from audio_ssl.evaluate.report.charts import Frame, Line, bars, brief, frame_of, legend, plot, shown, thinned, ticks


def test_ticks_are_round_numbers_inside():
    assert ticks(0, 3000) == [0, 1000, 2000, 3000]
    assert ticks(3.97, 4.66) == pytest.approx([4.0, 4.2, 4.4, 4.6])
    assert ticks(-0.5, 0.52) == pytest.approx([-0.5, 0, 0.5])
    assert ticks(2, 2) == [2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0004, "4e-4"), (4.43549, "4.435"), (12345.6, "12.35k"), (-0.18, "-0.18"), (2.5e7, "2.5e7")],
)
def test_numbers_in_few_letters(value, text):
    assert shown(value) == text


def test_bounds_have_three_digits():
    assert brief(54.94) == "54.9"
    assert brief(0.46150) == "0.462"


def test_a_frame_places_by_share_or_by_power():
    frame = Frame((0, 200), (1, 100), is_log=True)
    assert (frame.across(50), frame.up(10)) == (0.25, pytest.approx(0.5))
    assert (frame.up(1e9), frame.up(0)) == (1.0, 0.0)
    assert Frame((0, 1), (2, 2)).up(2) == 0.5


def test_a_frame_holds_all_points_and_what_is_asked_for():
    frame = frame_of([Line("a", [(10, 2.0), (40, 3.0)], "train")], include=[1.0])
    assert frame.x == (0, 40)
    assert frame.y == (pytest.approx(1 - 0.12), pytest.approx(3 + 0.12))
    assert frame_of([Line("a", [(1, 0.0), (2, 5.0)], "train")]).y[0] == 0  # a share has nothing below 0
    assert frame_of([]).y == (0, 1)
    assert frame_of([Line("a", [(1, 0.0), (2, 10.0)], "train")], is_log=True).y[0] > 0


def test_a_plot_draws_points_band_and_level_where_they_belong():
    frame = Frame((0, 100), (0, 10))
    line = Line("training", [(0, 10), (50, 5), (100, 0)], "train", is_dotted=True)
    html = plot([line], frame, label='a "b" <c>', band=(2.5, 20), level=7.5, x_label="update")
    assert (
        '<g class="train"><path d="M0 0L500 500L1000 1000"/><path class="dot" d="M0 0h0M500 500h0M1000 1000h0"/>'
        in html
    )
    assert '<path class="band" d="M0 0H1000V750H0Z"/>' in html  # cut at the window's upper end
    assert '<path class="level" d="M0 250H1000"/>' in html
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in html
    assert re.findall(r'bottom:([\d.]+)%">([^<]+)<', html) == [("0.0", "0"), ("50.0", "5"), ("100.0", "10")]
    assert re.findall(r'left:([\d.]+)%">([^<]+)<', html) == [("0.0", "0"), ("50.0", "50"), ("100.0", "100")]


def test_a_single_point_is_seen():
    assert 'class="dot" d="M1000' in plot([Line("a", [(7, 1.0)], "train")], Frame((0, 7), (0, 2)), label="", x_label="")


def test_bars_stand_beside_one_another():
    html = bars([3.0, 1.0], label="x", level=2.0, x_label="entries")
    top, low = 1000 * (1 - 3 / 3.18), 1000 * (1 - 1 / 3.18)
    assert f"M0 1000V{top:.1f}H500V{low:.1f}H1000V1000Z" in html


def test_a_spike_among_many_points_is_kept_and_order_too():
    points = [(float(i), 1.0) for i in range(100_000)]
    points[54_321] = (54_321.0, 99.0)
    points[77_777] = (77_777.0, -5.0)
    found = thinned(points)
    assert len(found) <= 802
    assert {(54_321.0, 99.0), (77_777.0, -5.0), points[0], points[-1]} <= set(found)
    assert found == sorted(found)
    assert thinned(points[:500]) == points[:500]


def test_a_legend_tells_labels_and_values_as_text():
    html = legend([Line("a<b", [], "g1")], ["4 <"])
    assert "a&lt;b <b>4 &lt;</b>" in html
