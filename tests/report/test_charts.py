import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.report.charts import (
    COLOURS,
    Axis,
    Line,
    Point,
    histogram_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    selection_chart,
)
from alchemist_core.report.content import Histogram
from alchemist_core.report.page import render_chart
from alchemist_core.selection.curves import selection_curve
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.sampler import sample_members
from alchemist_core.selection.strategies import ShiftGsample
from alchemist_core.statistics import Estimate


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_enclose_their_range_evenly_and_are_few(low, span):
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 8
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def heights(chart, kind):
    return [float(mark.attributes["height"]) for mark in chart.marks if mark.attributes["class"] == kind]


def classes(chart):
    return {mark.attributes["class"] for mark in chart.marks}


def legend(chart):
    return [entry.text for entry in chart.legend]


def test_a_bar_is_as_high_as_its_count():
    chart = histogram_chart(Histogram((0.0, 1.0, 2.0, 3.0), (50, 100, 0)), "scores")
    assert heights(chart, "kept") == [50.0, 100.0, 0.0]
    assert chart.marks[0].title == "0 to 1: 50 samples"


@pytest.mark.parametrize("scores", [[1.0], [2.0, 2.0], [-3.0, 9.0]])
def test_scores_without_spread_can_be_drawn(scores):
    histogram = Histogram.of(np.array(scores))
    assert sum(heights(histogram_chart(histogram, "scores"), "kept")) > 0


def curve(k):
    rank_N = (np.arange(4_000) + 0.5) / 4_000
    member_K = sample_members(rank_N, np.arange(4_000), k=k, strategy=ShiftGsample(), noise=Noise(0))
    return selection_curve(rank_N, member_K, strategy=ShiftGsample())


def test_nothing_is_kept_above_the_drop_top_ratio_and_the_chart_shows_the_numbers_by_rank():
    drawn = curve(400)
    chart = selection_chart(drawn, "ranks")
    assert heights(chart, "kept")[:10] == [0.0] * 10
    assert heights(chart, "pool") == [100.0] * 40
    assert f"rank 0.600 to 0.625: {drawn.n_kept[24]} of 100 selected" in {mark.title for mark in chart.marks}


def test_only_a_saturated_selection_shows_what_to_expect_instead_of_its_target():
    assert "expected" not in classes(selection_chart(curve(400), "ranks"))
    assert "expected without replacement" not in legend(selection_chart(curve(400), "ranks"))
    assert "expected" in classes(selection_chart(curve(2_000), "ranks"))
    assert "expected without replacement" in legend(selection_chart(curve(2_000), "ranks"))


def test_requests_beyond_the_corpus_are_plotted_above_its_bars():
    saturated = curve(2_000)
    chart = selection_chart(saturated, "ranks")
    most = float(saturated.target.max())
    assert most > 1
    (line,) = [mark.attributes["d"] for mark in chart.marks if mark.attributes["class"] == "target"]
    highest = min(float(number) for number in re.findall(r"(?:^M0 |V)([\d.]+)", line))
    assert 0 <= highest < 100 - max(heights(chart, "pool"))


def test_a_chart_is_described_to_a_screen_reader():
    assert 'role="img" aria-label="ranks of it"' in render_chart(selection_chart(curve(400), "ranks of it"))


def test_a_line_is_drawn_with_its_whiskers_or_as_a_band():
    points = [Point(float(x), Estimate(x, x - 1.0, x + 1.0, 3), f"at {x}") for x in (1, 2)]
    axis = Axis(1.0, 2.0, [(1.0, "one"), (2.0, "two")])
    drawn = line_chart([Line("a", points), Line("b", points, "none", is_dashed=True)], "t", axis)
    # The axis from 0 to 3 puts 1 at a third of the height, its whisker from the bottom to two thirds.
    assert [mark.tag for mark in drawn.marks] == ["path", "line", "path", "line", "path", "path"]
    assert drawn.marks[0].attributes["d"] == "M0.000 66.667L100.000 33.333"
    assert [drawn.marks[1].attributes[end] for end in ("x1", "y1", "y2")] == ["0.000", "100.000", "33.333"]
    assert [(entry.text, entry.colour) for entry in drawn.legend] == [("a", COLOURS[0]), ("b", "#808080")]
    (band, line) = line_chart([Line("a", points, "band")], "t", axis).marks
    assert band.attributes["d"] == "M0.000 100.000L100.000 66.667L100.000 0.000L0.000 33.333Z"
    assert line.attributes["d"] == drawn.marks[0].attributes["d"]


@given(name=st.text(), title=st.text())
def test_a_chart_is_well_formed_whatever_its_names_are(name, title):
    chart = interval_chart([(name, Estimate(1.0, 0.5, 1.5, 3)), ("b", Estimate(2.0, None, None, 1))], title, "x")
    texts = [element.text for element in ET.fromstring(render_chart(chart)).iter() if element.tag.endswith("text")]
    assert "b" in texts


def test_long_names_in_the_legend_of_a_file_stand_below_one_another():
    points = [Point(float(x), Estimate(x, None, None, 1)) for x in (1, 2)]
    axis = Axis(1.0, 2.0, [(1.0, "one"), (2.0, "two")])

    def places(*names):
        root = ET.fromstring(render_chart(line_chart([Line(name, points, "none") for name in names], "t", axis)))
        found = {one.text: (one.get("x"), one.get("y")) for one in root.iter() if one.tag.endswith("text")}
        return [found[name] for name in names], float(root.get("viewBox").split()[3])

    short, height = places("a", "b")
    assert short[0][1] == short[1][1]
    long, taller = places("learnability+trained_critic, 20%", "b")
    assert long[0][0] == long[1][0]
    assert taller == height + 18
