import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.report.charts import histogram_chart, nice_ticks, selection_chart, selection_legend
from alchemist_core.report.content import Histogram
from alchemist_core.selection.curves import selection_curve
from alchemist_core.selection.draw import draw_members
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.strategies import ShiftGsample


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_enclose_their_range_evenly_and_are_few(low, span):
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 8
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def heights(svg, kind):
    return [float(height) for height in re.findall(rf'height="([\d.]+)" class="{kind}"', svg)]


def test_a_bar_is_as_high_as_its_count():
    chart = histogram_chart(Histogram((0.0, 1.0, 2.0, 3.0), (50, 100, 0)), "scores")
    assert heights(chart, "kept") == [50.0, 100.0, 0.0]
    assert "<title>0 to 1: 50 pairs</title>" in chart


@pytest.mark.parametrize("scores", [[1.0], [2.0, 2.0], [-3.0, 9.0]])
def test_scores_without_spread_can_be_drawn(scores):
    histogram = Histogram.of(np.array(scores))
    assert sum(heights(histogram_chart(histogram, "scores"), "kept")) > 0


def curve(k):
    rank_N = (np.arange(4_000) + 0.5) / 4_000
    member_K = draw_members(rank_N, np.arange(4_000), k=k, strategy=ShiftGsample(), noise=Noise(0))
    return selection_curve(rank_N, member_K, strategy=ShiftGsample())


def test_nothing_is_kept_above_the_head_cut_and_the_chart_says_how_many_of_each_rank_were():
    drawn = curve(400)
    chart = selection_chart(drawn, "ranks")
    assert heights(chart, "kept")[:10] == [0.0] * 10
    assert heights(chart, "pool") == [100.0] * 40
    assert f"rank 0.600 to 0.625: {drawn.n_kept[24]} of 100 kept" in chart


def test_only_a_saturated_draw_shows_what_was_to_be_expected_instead():
    assert 'class="expected"' not in selection_chart(curve(400), "ranks")
    assert "expected without replacement" not in selection_legend(curve(400))
    assert 'class="expected"' in selection_chart(curve(2_000), "ranks")
    assert "expected without replacement" in selection_legend(curve(2_000))


def test_what_is_wanted_beyond_the_pool_stands_above_its_bars():
    saturated = curve(2_000)
    chart = selection_chart(saturated, "ranks")
    most = float(saturated.target.max())
    assert most > 1
    (line,) = re.findall(r'd="M0 ([^"]+)" class="target"', chart)
    highest = min(float(number) for number in re.findall(r"(?:^|V)([\d.]+)", line))
    assert 0 <= highest < 100 - max(heights(chart, "pool"))


def test_a_chart_is_described_to_who_cannot_see_it():
    assert 'role="img" aria-label="ranks of it"' in selection_chart(curve(400), "ranks of it")
