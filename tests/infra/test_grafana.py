"""Dashboards are built from code, committed as built, query only what exists, and have a unit and a description on every panel."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from sqlalchemy import Connection, Engine, make_url, text

from alchemist_core.store.engine import make_engine
from alchemist_core.telemetry import CATALOGUE
from tests.given import insert_rows

from .test_prometheus import metric_names, rules

GRAFANA = Path(__file__).resolve().parents[2] / "infra" / "grafana"
QUESTIONS = {
    "Is the pipeline healthy?", "How far is scoring?", "Is the rater learning?", "Was the subset worth it?", "What does it cost?",
}  # fmt: skip
COSTS = Path(__file__).resolve().parents[1] / "sql" / "costs"
PASSWORD = "for-this-test-server-only"
# What Grafana writes for ${dataset:regex}: the variable's value for all, one dataset, several.
PICKED = (".*", "web", "(web|other)")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, GRAFANA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


questions = load("questions")
build = load("build")
PANELS = [panel for dashboard in questions.DASHBOARDS for panel in dashboard.panels]
SQL_PANELS = [panel for panel in PANELS if panel.sql]


def test_there_is_a_dashboard_for_each_question() -> None:
    assert {dashboard.question for dashboard in questions.DASHBOARDS} == QUESTIONS
    assert len({dashboard.uid for dashboard in questions.DASHBOARDS}) == len(QUESTIONS)


def test_the_committed_files_are_what_the_code_builds() -> None:
    committed = {path.stem: path.read_text() for path in (GRAFANA / "dashboards").glob("*.json")}
    assert committed == {dashboard.uid: build.render(dashboard) for dashboard in questions.DASHBOARDS}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_has_a_unit_a_description_and_one_question(panel: object) -> None:
    assert panel.unit
    assert panel.text.endswith(".")
    assert bool(panel.promql) != bool(panel.sql)


def test_panels_of_one_dashboard_have_titles_of_their_own() -> None:
    for dashboard in questions.DASHBOARDS:
        titles = [panel.title for panel in dashboard.panels]
        assert len(set(titles)) == len(titles)


def test_panels_do_not_overlap() -> None:
    for dashboard in questions.DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for place in (panel["gridPos"] for panel in build.build(dashboard)["panels"]):
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            assert max(x for x, _ in cells) < 24
            taken |= cells


@pytest.mark.parametrize("panel", [panel for panel in PANELS if panel.promql], ids=lambda panel: panel.title)
def test_a_panel_asks_for_metrics_that_exist(panel: object) -> None:
    used = metric_names(panel.promql)
    assert used
    assert used <= {metric.name for metric in CATALOGUE} | {rule["record"] for rule in rules("recording.yml")}


def test_every_metric_is_shown_or_watched() -> None:
    asked = " ".join(
        [panel.promql for panel in PANELS]
        + [rule["expr"] for name in ("alerts.yml", "recording.yml") for rule in rules(name)]
        # Their links read the address of the runbook.
        + [rule["annotations"]["runbook_url"] for rule in rules("alerts.yml")]
    )
    unseen = {metric.name for metric in CATALOGUE if metric.name not in asked}
    # Their durations and counts are read by hand when something is slow.
    assert unseen == {"alchemist_store_read_seconds", "alchemist_stage_runs_total", "alchemist_airflow_run_seconds"}


def test_panels_ask_data_sources_that_are_provisioned() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "alchemist.yaml").read_text())[
        "datasources"
    ]
    known = {(source["type"], source["uid"]) for source in provisioned}
    asked = {
        (panel["datasource"]["type"], panel["datasource"]["uid"])
        for dashboard in questions.DASHBOARDS
        for panel in build.build(dashboard)["panels"]
    }
    assert asked == known
    assert {source["secureJsonData"]["password"] for source in provisioned if "secureJsonData" in source} == {
        "$__file{/run/secrets/store_reader_password}"
    }


def test_a_reader_can_pick_dataset_and_rater() -> None:
    for dashboard in questions.DASHBOARDS:
        names = [variable["name"] for variable in json.loads(build.render(dashboard))["templating"]["list"]]
        assert names == ["dataset", "rater"]


@pytest.fixture
def reader(database_url: str, server_url: str) -> Iterator[Connection]:
    """A connection of the role that Grafana has."""
    owner = make_engine(server_url)
    with owner.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        connection.execute(text(f"ALTER ROLE alchemist_reader PASSWORD '{PASSWORD}'"))
    owner.dispose()
    address = make_url(database_url).set(username="alchemist_reader", password=PASSWORD)
    engine = make_engine(address.render_as_string(hide_password=False))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.db
def test_every_sql_panel_runs_as_the_reader(reader: Connection, subtests: Callable[..., object]) -> None:
    for panel in SQL_PANELS:
        with subtests.test(panel.title):
            for picked in PICKED:
                # psycopg2 keeps a percent sign in a statement without parameters.
                filled = panel.sql.replace("${dataset:regex}", picked)
                assert "${" not in filled
                reader.exec_driver_sql(filled).all()
                reader.rollback()


@pytest.mark.db
@pytest.mark.parametrize(("picked", "shown"), [(".*", ["books", "web"]), ("(web|calm)", ["web"]), ("web", ["web"])])
def test_all_datasets_or_those_that_were_picked_have_their_nights_shown(
    engine: Engine, reader: Connection, picked: str, shown: list[str]
) -> None:
    names = ("web", "books")
    with engine.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": number, "name": name} for number, name in enumerate(names, 1)],
            "shards": [{"shard_id": number, "dataset_id": number, "crawl_date": "2026-01-02"} for number in (1, 2)],
        })  # fmt: skip
    (panel,) = [one for one in SQL_PANELS if one.title == "Last nights"]
    rows = reader.exec_driver_sql(panel.sql.replace("${dataset:regex}", picked)).all()
    assert sorted(row.dataset for row in rows) == shown


def test_a_variable_has_a_value_for_all_that_holds_also_for_what_has_no_series_yet() -> None:
    for dashboard in questions.DASHBOARDS:
        assert {variable["allValue"] for variable in build.build(dashboard)["templating"]["list"]} == {".*"}


def test_no_panel_names_a_limit_that_a_user_can_set() -> None:
    texts = {panel.title: panel.text for panel in PANELS if "alchemist.toml" in panel.text}
    assert set(texts) == {"Quarantined share of the newest night", "Score drift"}
    assert not any(re.search(r"\d", text) for text in texts.values())


def rows_of(reader: Connection, title: str) -> list[Any]:
    (panel,) = [one for one in SQL_PANELS if one.title == title]
    return list(reader.exec_driver_sql(panel.sql).all())


@pytest.mark.db
def test_the_newest_nights_and_versions_have_their_costs_shown_whatever_other_kinds_there_are(
    engine: Engine, reader: Connection
) -> None:
    """After two months of nights, no subset version was shown."""
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(70)]
    done = {"work_seconds": 1, "cost": 1, "state": "succeeded", "finished_at": "2026-01-02T03:00:00Z"}
    scored = [
        {"run_id": number, "stage": "score", "config": {"crawl_date": str(day)}, **done}
        for number, day in enumerate(days, 1)
    ]
    versions = [{"subset_id": n, "name": "best", "version": n, "snapshot_id": 1, "run_id": 100} for n in range(1, 41)]
    # Newer than all of them, although its version number is lower.
    versions += [{"subset_id": 41, "name": "art", "version": 1, "snapshot_id": 1, "run_id": 100}]
    models = [{"model_id": n, "arm": "subset", "subset_id": n, "identity_hash": str(n)} for n in range(1, 41)]
    with engine.begin() as connection:
        insert_rows(connection, {
            "runs": [*scored, {"run_id": 100, "stage": "select", **done}, {"run_id": 101, "stage": "evaluate", **done}],
            "raters": [{"rater_id": 1, "name": "r"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": versions,
            "models": models,
            "evaluation_protocols": [{"protocol_id": 1}],
            "evaluations": [{"model_id": n, "protocol_id": 1, "value": 1, "run_id": 101} for n in range(1, 41)],
        })  # fmt: skip
    newest = [*map(str, days[:39:-1]), "art v1", *(f"best v{n}" for n in range(40, 11, -1))]
    assert [row.name for row in rows_of(reader, "Cost of nights and subset versions")] == newest
    by_stage = rows_of(reader, "Cost by stage and device")
    assert [row.name for row in by_stage if row.kind == "night"] == newest[:30]
    assert [row.name for row in by_stage if (row.kind, row.stage) == ("subset", "select")] == newest[30:]
    assert len({row.name for row in by_stage if row.kind == "metric point"}) == 30


@pytest.mark.db
def test_decisions_that_are_pending_are_of_the_production_rater_and_not_answered(
    engine: Engine, reader: Connection
) -> None:
    asked, answered = ({"action": f"approval {word}", "actor": "airflow:a:b"} for word in ("asked", "answered"))
    with engine.begin() as connection:
        insert_rows(connection, {
            "datasets": [
                {"dataset_id": 1, "name": "web"},
                {"dataset_id": 2, "name": "gone", "removed_at": "now", "removed_reason": "old"},
            ],
            "raters": [
                {"rater_id": 1, "name": "r", "state": "production"},
                {"rater_id": 2, "name": "former", "state": "retired", "retired_at": "now"},
            ],
            "nights": [
                {"dataset_id": dataset, "crawl_date": "2026-01-02", "rater_id": rater, "state": "held", "reason": "drift"}
                for dataset, rater in ((1, 1), (1, 2), (2, 1))
            ],
            "audit_events": [
                {"subject": "build.approve", "after": {"reason": "v1?", "run": "a"}, **asked},
                {"subject": "build.approve", "after": {"reason": "yes", "run": "a"}, **answered},
                {"subject": "build.approve", "after": {"reason": "v2?", "run": "a"}, **asked},
                {"subject": "build.approve", "after": {"reason": "v3?", "run": "b"}, **asked},
                {"subject": "train.approve", "after": {"reason": "yes", "run": "b"}, **answered},
                {"subject": "build.approve", "after": {"reason": "old?", "run": "c"}, "happened_at": "2026-01-01", **asked},
            ],
        })  # fmt: skip
    rows = rows_of(reader, "Decisions that are pending")
    assert sorted((row.what, row.subject, row.reason) for row in rows) == [
        ("approval asked", "build.approve", "v2?"),
        ("approval asked", "build.approve", "v3?"),
        ("held night", "web 2026-01-02", "drift"),
    ]


@pytest.mark.db
def test_the_reader_sees_what_a_night_and_a_version_cost_with_all_that_led_to_it(
    engine: Engine, reader: Connection
) -> None:
    given = yaml.safe_load((COSTS / "given.yaml").read_text())
    with engine.begin() as connection:
        insert_rows(connection, given)
    night, version = [tuple(row) for row in rows_of(reader, "Cost of nights and subset versions")]
    assert night == ("night", "2026-01-02", Decimal("5.0"), Decimal("0.5"), None, Decimal("0.5"))
    # Select, tars, two models and their evaluation, which had no price; then the crawl, three of four shards' scoring, the rater.
    assert version == ("subset", "best v1", Decimal("37.0"), None, Decimal("30.8"), None)


@pytest.mark.db
def test_a_run_counts_for_the_day_that_it_started_on_in_utc_whatever_the_time_zone_of_the_database(
    engine: Engine, reader: Connection
) -> None:
    done = {"work_seconds": 1, "state": "succeeded", "finished_at": "2026-01-02T00:00:00Z"}
    with engine.begin() as connection:
        insert_rows(connection, {
            "runs": [{"run_id": 1, "stage": "score", "started_at": "2026-01-01T23:30:00Z", **done}],
        })  # fmt: skip
    reader.exec_driver_sql("SET timezone TO 'Asia/Tokyo'")
    assert [row.day for row in rows_of(reader, "Device seconds per day")] == [date(2026, 1, 1)]
