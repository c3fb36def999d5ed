"""Curves of a training: every step counts, a value can be read at each place, and a table has the same numbers."""

import html

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.curves import MOST_POINTS, training_curves
from tests.explorer.conftest import Admits
from tests.explorer.enriched import history
from tests.given import insert_rows

pytestmark = pytest.mark.db


def test_a_point_is_the_mean_of_its_steps() -> None:
    loss, size, spread = training_curves(history(400))
    assert [curve.title for curve in (loss, size, spread)][1].startswith("Effective sample size")
    strips = [mark for mark in loss.chart.marks if mark.attributes.get("class") == "strip"]
    assert len(strips) == MOST_POINTS
    assert sum(float(mark.attributes["width"]) for mark in strips) == pytest.approx(100, abs=0.2)
    mean = sum(8 - step / 100 for step in range(4)) / 4
    assert size.rows[0] == (2, [pytest.approx(mean)])
    assert size.chart.marks[-MOST_POINTS].title == f"step 2: effective sample size {mean:.4g}"
    assert "on held-out validation samples not measured" in strips[0].title
    assert len(loss.chart.legend) == 4
    assert {one for _, values in loss.rows for one in values} > {None}


@pytest.mark.parametrize(
    "steps",
    [[], [{}], history(1), [{"step": 1}, {"step": 2}], [{"step": i, "cost_spread": float("nan")} for i in range(9)]],
)
def test_a_history_without_two_values_has_no_chart(steps: list[dict[str, float]]) -> None:
    assert training_curves(steps) == []


def test_the_page_of_a_rater_shows_them(own_store: Engine) -> None:
    with own_store.begin() as connection:
        insert_rows(
            connection, {"raters": [{"rater_id": 7, "name": "r2", "acceptance_report": {"history": history(60)}}]}
        )
    page = TestClient(make_app(Admits())).get("/raters/r2").text
    assert "Did it learn?" in page
    assert 'class="strip"' in page
    assert 'style="' not in page
    assert 'stroke="#0072b2"' in page
    assert "Values" in html.unescape(page)
