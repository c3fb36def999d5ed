"""The report shows metrics of generated images beside the losses, subset against random, and a positive gain is always better."""

from datetime import UTC, datetime

import pytest

from alchemist_core.report.comparison import summarize_metrics
from alchemist_core.report.content import ArmRun, MetricRun, ReportContent
from alchemist_core.report.page import render_report


def runs(metric: str, **values: list[float]) -> list[MetricRun]:
    return [
        MetricRun("s v1", "offline", metric, arm, seed, value)
        for arm, found in values.items()
        for seed, value in enumerate(found)
    ]


def metrics_table(found: list[MetricRun]) -> str:
    """Cut the table of metrics out of a report."""
    arms = [ArmRun("s v1", 0.2, "subset", 0, 1, 1, 2.0)]
    page = render_report(ReportContent("Report", datetime(2026, 3, 2, tzinfo=UTC), arms=arms, metrics=found))
    return page.partition('<table class="metrics"')[2].partition("</table>")[0]


def test_a_gain_is_paired_by_seed_and_positive_when_better() -> None:
    (score,) = summarize_metrics(runs("geneval_scenes", subset=[0.4, 0.6], random=[0.3, 0.4, 0.9]))
    assert score.gain is not None
    assert score.gain.mean == pytest.approx(0.15)
    assert score.arms["random"].mean == pytest.approx(1.6 / 3)
    (distance,) = summarize_metrics(runs("kid_efficientnet_lite0", subset=[0.2], random=[0.3]))
    assert distance.gain is not None
    assert distance.gain.mean == pytest.approx(0.1)


def test_without_a_control_there_is_no_gain() -> None:
    (one,) = summarize_metrics(runs("fid", subset=[3.0]))
    assert one.gain is None


def test_a_filled_oracle_comes_behind_the_oracle() -> None:
    found = [MetricRun("s v1", "c", "fid", arm, 0, 1.0) for arm in ("full", "planted+plain", "subset", "planted")]
    page = metrics_table(found)
    assert page.index(">subset<") < page.index(">oracle<") < page.index(">oracle+plain<") < page.index(">full<")


def test_every_metric_has_a_row_that_shows_which_direction_is_better() -> None:
    found = runs("kid_efficientnet_lite0", full=[0.01], subset=[0.002]) + runs("geneval_scenes", subset=[0.5])
    page = metrics_table(found)
    assert page.count("<tr") == 3
    assert "kid_efficientnet_lite0 ↓" in page
    assert "geneval_scenes ↑" in page
    assert page.index(">subset<") < page.index(">full<")
    assert "0.00200" in page
