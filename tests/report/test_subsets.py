import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from alchemist_core.report.content import ReportContent, VersionChange
from alchemist_core.report.page import render_report, saturation_note
from alchemist_core.selection.curves import SelectionCurve


def subset_article(subset):
    return render_report(ReportContent("Report", datetime(2026, 3, 2, tzinfo=UTC), subsets=[subset]))


def words(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_members_that_left_and_joined_since_the_version_before_are_printed_and_add_up(content):
    article = words(subset_article(content.subsets[1]))
    assert "Since version 1" in article
    assert "270 samples (90%) were in version 1 too; 30 of its 300 left, 30 joined." in article
    for row in (
        "other samples came first in the other version Samples that left 18 Samples that joined 0",
        "total Samples that left 30 Samples that joined 30",
    ):
        assert row in article


def test_the_first_version_has_no_change_to_tell(content):
    assert "Since version" not in subset_article(content.subsets[0])


def test_the_largest_reason_comes_first_and_the_total_last(content):
    change = VersionChange(1, 10, 4, {"better key": 5, "held": 1}, {"new pair": 3})
    table = words(subset_article(replace(content.subsets[1], change=change)))
    places = [
        table.index(word)
        for word in ("other samples came first", "new since the other version", "held", "total Samples")
    ]
    assert places == sorted(places)


def curve(target, expected, kept):
    pool = np.full(len(target), 100)
    return SelectionCurve(pool, np.array(kept), np.array(target), np.array(expected))


def test_a_saturated_selection_is_reported_in_a_sentence_with_its_figures():
    note = saturation_note(curve([0.1, 1.9, 0.5, 0.5], [0.3, 0.9, 0.6, 0.6], [30, 92, 60, 61]))
    assert (
        "Between ranks 25% and 50% the strategy wants 1.9 times as many samples as are eligible; 92% of them are selected"
        in note
    )


@pytest.mark.parametrize("gap", [0.0, 0.04])
def test_a_draw_that_follows_what_was_asked_for_needs_no_sentence(gap):
    assert saturation_note(curve([0.2, 0.3], [0.2 + gap, 0.3], [20, 30])) is None
