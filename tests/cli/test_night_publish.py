"""A night is published only in the state in which it was checked."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from alchemist_core.cli.check import CheckConfig
from alchemist_core.cli.check import run as check
from alchemist_core.cli.drift import DriftConfig, check_drift
from alchemist_core.cli.held_nights import ReleaseNightConfig, release
from alchemist_core.cli.night import AnnounceConfig, announce
from alchemist_core.errors import CheckFailedError
from alchemist_core.quality import gate
from alchemist_core.quality.validation import CheckOutcome, validate
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_night, add_rater

pytestmark = pytest.mark.db

NIGHT = "2026-01-01"
SCORES = np.random.default_rng(0).normal(size=20).tolist()


@pytest.fixture
def checked(engine: Engine) -> Engine:
    """A night of one shard, whose scores were checked."""
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
    add_night(engine, NIGHT, {"a.tar": SCORES})
    check(CheckConfig.model_validate({"suite": "scores", "dataset": "web", "crawl_date": NIGHT}))
    return engine


@pytest.mark.parametrize("crawl_date", [NIGHT, None])
def test_scores_that_came_after_the_check_are_checked_first(checked: Engine, crawl_date: str | None) -> None:
    add_night(checked, NIGHT, {"b.tar": SCORES})
    with pytest.raises(
        CheckFailedError, match=r"web 2026-01-01 r1 has grown since its scores were checked. Run alchemist check"
    ):
        publish_night(PublishNightConfig(dataset="web"))
    check(CheckConfig.model_validate({"suite": "scores", "dataset": "web", "crawl_date": crawl_date}))
    assert publish_night(PublishNightConfig(dataset="web")).n_nights == 1


@pytest.mark.parametrize("crawl_date", [NIGHT, None])
def test_scores_that_come_while_a_check_runs_are_checked_first(
    checked: Engine, monkeypatch: pytest.MonkeyPatch, crawl_date: str | None
) -> None:
    late = [{"b.tar": SCORES}]

    def validate_beside_a_late_shard(*arguments: Any) -> list[CheckOutcome]:
        # The check has read its rows: what comes now is not among them.
        while late:
            add_night(checked, NIGHT, late.pop())
        return validate(*arguments)

    monkeypatch.setattr(gate, "validate", validate_beside_a_late_shard)
    check(CheckConfig.model_validate({"suite": "scores", "dataset": "web", "crawl_date": crawl_date}))
    with pytest.raises(CheckFailedError, match=r"web 2026-01-01 r1 has grown since its scores were checked"):
        publish_night(PublishNightConfig(dataset="web"))


def test_drift_is_measured_again_before_a_night_that_has_grown_is_published(checked: Engine) -> None:
    def scores(mean: float) -> list[float]:
        return np.random.default_rng(int(mean)).normal(mean, size=600).tolist()

    night = {"dataset": "web", "crawl_date": "2026-01-02"}
    add_night(checked, "2025-12-31", {"a.tar": scores(0)}, state="selectable")
    add_night(checked, "2026-01-02", {"a.tar": scores(0)})
    check(CheckConfig.model_validate({"suite": "scores", **night}))
    assert check_drift(DriftConfig.model_validate(night)).nights[0]["verdict"] == "steady"
    add_night(checked, "2026-01-02", {"b.tar": scores(4)})
    check(CheckConfig.model_validate({"suite": "scores", **night}))
    told = r"has grown since its scores were checked. Run alchemist night check-drift --dataset web --crawl-date 2026-01-02, then publish"
    with pytest.raises(CheckFailedError, match=told):
        publish_night(PublishNightConfig.model_validate(night))
    assert check_drift(DriftConfig.model_validate(night)).n_held == 1


def test_a_night_whose_distribution_is_the_same_after_it_has_grown_is_published(checked: Engine) -> None:
    """All samples of the late shard were scored before, so measuring again finds the same distribution."""
    check_drift(DriftConfig(dataset="web"))
    with checked.begin() as connection:
        connection.exec_driver_sql("UPDATE alchemist.shard_scores SET scored_at = clock_timestamp()")
    check(CheckConfig.model_validate({"suite": "scores", "dataset": "web", "crawl_date": NIGHT}))
    with pytest.raises(CheckFailedError, match="has grown since"):
        publish_night(PublishNightConfig(dataset="web"))
    check_drift(DriftConfig(dataset="web"))
    assert publish_night(PublishNightConfig(dataset="web")).n_nights == 1


def test_what_is_published_without_a_drift_check_is_said(checked: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    publish_night(PublishNightConfig(dataset="web"))
    assert "1 of 1 night had no drift check" in capsys.readouterr().err
    add_night(checked, "2026-01-02", {"b.tar": SCORES})
    check_drift(DriftConfig(dataset="web"))
    publish_night(PublishNightConfig(dataset="web"))
    assert "drift check" not in capsys.readouterr().err


def test_another_raters_scores_need_no_check_for_the_suite_looks_at_production_alone(checked: Engine) -> None:
    with checked.begin() as connection:
        add_rater(connection, rater_id=2, name="tried", state="candidate")
    add_night(checked, NIGHT, {"b.tar": SCORES}, rater_id=2)
    with checked.begin() as connection:
        # The first shard is unscored by it: only its night counts here.
        connection.exec_driver_sql("UPDATE alchemist.shards SET state = 'retired' WHERE uri LIKE '%%a.tar'")
    assert publish_night(PublishNightConfig(dataset="web", rater="tried")).n_nights == 1


def test_the_remedy_for_a_failed_check_names_a_rater_that_is_not_in_production(checked: Engine) -> None:
    with checked.begin() as connection:
        add_rater(connection, rater_id=2, name="tried", state="candidate")
        failed = {"suite": "samples", "expectation": "captions_are_long", "dataset_name": "web", "is_success": False}
        insert_rows(connection, {"check_results": [{**failed, "crawl_date": NIGHT}]})
        connection.exec_driver_sql("UPDATE alchemist.shards SET state = 'retired' WHERE uri LIKE '%%a.tar'")
    add_night(checked, NIGHT, {"b.tar": SCORES}, rater_id=2)
    of_night = f"--dataset web --crawl-date {NIGHT}"
    told = f"night release {of_night} --rater tried --reason WHY, or alchemist night reject {of_night} --rater tried --reason WHY"
    with pytest.raises(CheckFailedError, match=told):
        publish_night(PublishNightConfig(dataset="web", rater="tried"))


def test_a_night_that_must_be_checked_first_keeps_no_other_closed(checked: Engine) -> None:
    with checked.begin() as connection:
        add_dataset(connection, dataset_id=2, name="books")
    add_night(checked, NIGHT, {"b.tar": SCORES})
    add_night(checked, NIGHT, {"a.tar": SCORES}, dataset_id=2)
    with pytest.raises(CheckFailedError, match=r"web 2026-01-01 r1 has grown.*\nPublished 1 night"):
        publish_night(PublishNightConfig())
    with checked.connect() as connection:
        rows = connection.exec_driver_sql("SELECT dataset_id, state FROM alchemist.nights ORDER BY 1").all()
    assert [tuple(row) for row in rows] == [(1, "scored"), (2, "selectable")]


def announced(actor: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nights that a run of Airflow announces."""
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "nightly_rescore")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", actor)
    return [f"{night.dataset} {night.crawl_date}" for night in announce(AnnounceConfig()).nights]


def test_a_night_is_announced_once_when_it_becomes_selectable_and_again_to_a_retry(
    checked: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert announced("first", monkeypatch) == []
    publish_night(PublishNightConfig(dataset="web"))
    assert announced("second", monkeypatch) == [f"web {NIGHT}"]
    assert announced("second", monkeypatch) == [f"web {NIGHT}"]
    assert announced("third", monkeypatch) == []
    add_night(checked, "2026-01-02", {"b.tar": SCORES}, state="held")
    assert announced("third", monkeypatch) == []
    release(ReleaseNightConfig.model_validate({"dataset": "web", "crawl_date": "2026-01-02", "reason": "it is right"}))
    assert announced("third", monkeypatch) == ["web 2026-01-02"]
