"""The items of mapped tasks: the datasets of a night, and one process for each dataset and slot."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from alchemist_core.__main__ import main
from alchemist_core.cli.plan import MOST_ITEMS, PlanScoreConfig, plan_score
from alchemist_core.errors import ConfigError
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.store.raters import find_named, promote_rater
from alchemist_core.store.registry import list_datasets
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_night, add_rater

pytestmark = pytest.mark.db


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def add_shards(engine: Engine, dataset_id: int, *uris: str, crawl_date: str = "2026-01-02") -> None:
    shard = {"dataset_id": dataset_id, "crawl_date": crawl_date, "n_samples": 5}
    rows = [{**shard, "shard_id": 10 * dataset_id + number, "uri": uri} for number, uri in enumerate(uris)]
    with engine.begin() as connection:
        insert_rows(connection, {"shards": rows})


def test_a_night_is_planned_for_every_training_dataset_whatever_its_root_is_like(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        datasets = [
            {"dataset_id": 1, "name": "web", "root_uri": "/nowhere"},
            {"dataset_id": 2, "name": "books"},
            {"dataset_id": 3, "name": "goal", "role": "validation"},
        ]
        insert_rows(connection, {"datasets": datasets})
    assert main(["plan", "night", "--crawl-date", "2026-01-02", "--json"]) == 0
    assert last_line(capsys) == {
        "datasets": ["books", "web"],
        "nights": [{"dataset": name, "crawl_date": "2026-01-02"} for name in ("books", "web")],
        "n_waiting": 0,
    }


def test_a_dataset_that_is_named_may_be_registered_by_its_first_ingest(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "night", "--crawl-date", "2026-01-02", "--dataset", "new", "--json"]) == 0
    assert last_line(capsys)["datasets"] == ["new"]


def test_a_section_with_the_former_name_of_a_dataset_registers_no_second_one(
    engine: Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's own copy of the project file may still have the former name when the next night starts."""
    root = tmp_path / "crawl"
    root.mkdir()
    (tmp_path / "alchemist.toml").write_text(f'[datasets.web]\nroot = "{root}"\n')
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / "alchemist.toml"))
    load_project.cache_clear()
    load_settings.cache_clear()
    assert main(["ingest", "--dataset", "web"]) == 0
    assert main(["dataset", "rename", "web", "web2"]) == 0
    for night in planned(capsys, "2026-01-02"):
        expected = 2 if night[0] == "web" else 0
        assert main(["ingest", "--dataset", night[0], "--crawl-date", night[1]]) == expected
    assert f"Dataset 'web' was renamed: 'web2' has the root {root}. Give the name web2" in capsys.readouterr().err
    assert [row.name for row in list_datasets(engine)] == ["web2"]
    # Its name is free for another source, and after a removal for the same one.
    assert main(["ingest", "--dataset", "web", "--root", str(tmp_path)]) == 0
    for name in ("web", "web2"):
        assert main(["dataset", "remove", name, "--reason", "test"]) == 0
    assert main(["dataset", "rename", "web", "web-removed"]) == 0
    assert main(["ingest", "--dataset", "web"]) == 0


def test_an_upload_that_was_under_way_brings_its_night_up_again(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
    add_shards(engine, 1, "a.tar", crawl_date="2026-01-01")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alchemist.shards SET state = 'growing'")
    assert main(["plan", "night", "--crawl-date", "2026-01-02", "--json"]) == 0
    assert last_line(capsys)["nights"] == [
        {"dataset": "web", "crawl_date": "2026-01-02"},
        {"dataset": "web", "crawl_date": "2026-01-01"},
    ]


def test_a_shard_that_was_ingested_late_brings_its_night_up_unless_a_check_has_stopped_it(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
    add_shards(engine, 1, "a.tar", crawl_date="2026-01-01")
    assert main(["plan", "night", "--crawl-date", "2026-01-03", "--json"]) == 0
    assert [night["crawl_date"] for night in last_line(capsys)["nights"]] == ["2026-01-03", "2026-01-01"]  # type: ignore[attr-defined]
    failed = {"suite": "samples", "dataset_name": "web", "crawl_date": "2026-01-01", "is_success": False}
    with engine.begin() as connection:
        insert_rows(connection, {"check_results": [failed]})
    assert main(["plan", "night", "--crawl-date", "2026-01-03", "--json"]) == 0
    assert [night["crawl_date"] for night in last_line(capsys)["nights"]] == ["2026-01-03"]  # type: ignore[attr-defined]


def test_a_rater_that_is_promoted_or_comes_back_takes_the_nights_that_only_another_one_has_scored(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole nights were in no selection: those of the days of an approval, of every other dataset, and since a promotion that is undone."""
    with engine.begin() as connection:
        for dataset_id, name in ((1, "web"), (2, "books")):
            add_dataset(connection, dataset_id=dataset_id, name=name)
        add_rater(connection, rater_id=1, name="before")
        add_rater(connection, rater_id=2, name="after", state="candidate")
    for dataset_id in (1, 2):
        add_night(engine, "2026-01-01", {"a.tar": [0.5]}, dataset_id=dataset_id, rater_id=1, state="selectable")
    own = [("books", "2026-01-05"), ("web", "2026-01-05")]
    assert planned(capsys, "2026-01-05") == own
    promote_rater(engine, find_named(engine, ["after"])[0], actor="ann")
    assert planned(capsys, "2026-01-05") == [*own, ("books", "2026-01-01"), ("web", "2026-01-01")]
    add_night(engine, "2026-01-02", {"a.tar": [0.5]}, dataset_id=1, rater_id=2, state="selectable")
    promote_rater(engine, find_named(engine, ["before"])[0], actor="ann")
    assert planned(capsys, "2026-01-05") == [*own, ("web", "2026-01-02")]


SCHEDULED = "airflow:nightly_rescore:scheduled__"


def add_ingests(engine: Engine, dataset: str, *crawl_dates: str, actor: str = SCHEDULED + "z") -> None:
    """Store that a crawl date was ingested in the night after it."""
    with engine.begin() as connection:
        for crawl_date in crawl_dates:
            at = date.fromisoformat(crawl_date) + timedelta(days=1)
            run = {"stage": "ingest", "config": {"dataset": dataset, "crawl_date": crawl_date}, "state": "succeeded"}
            times = {"started_at": f"{at}T02:00:00Z", "finished_at": f"{at}T03:00:00Z", "actor": actor}
            run_id = connection.exec_driver_sql("SELECT 1 + count(*) FROM alchemist.runs").scalar_one()
            insert_rows(connection, {"runs": [{**run, **times, "run_id": run_id}]})


def planned(capsys: pytest.CaptureFixture[str], crawl_date: str, *options: str) -> list[tuple[str, str]]:
    assert main(["plan", "night", "--crawl-date", crawl_date, "--json", *options]) == 0
    nights: list[dict[str, str]] = last_line(capsys)["nights"]  # type: ignore[assignment]
    return [(night["dataset"], night["crawl_date"]) for night in nights]


def add_dataset_of_january(engine: Engine, **options: Any) -> None:
    with engine.begin() as connection:
        insert_rows(connection, {"datasets": [{"dataset_id": 1, "name": "web", "created_at": "2026-01-01"} | options]})


def test_nights_whose_start_was_missed_are_taken_by_the_next_run_of_each_dataset_once(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow starts only the newest of the runs that were due while it was down."""
    add_dataset_of_january(engine)
    add_dataset_of_january(engine, dataset_id=2, name="books")
    add_ingests(engine, "web", "2026-01-01", "2026-01-02", "2026-01-04")
    add_ingests(engine, "books", "2026-01-04")
    missed = [("web", "2026-01-03"), ("books", "2026-01-05"), ("web", "2026-01-05")]
    assert planned(capsys, "2026-01-06") == [("books", "2026-01-06"), ("web", "2026-01-06"), *missed]
    assert planned(capsys, "2026-01-06", "--dataset", "web") == [
        ("web", "2026-01-06"), ("web", "2026-01-03"), ("web", "2026-01-05")
    ]  # fmt: skip
    # The same run of Airflow gets the same nights after Clear, the next one does not.
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "nightly_rescore")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "scheduled__a")
    for dataset, day in [("books", "2026-01-06"), ("web", "2026-01-06"), *missed]:
        add_ingests(engine, dataset, day, actor=SCHEDULED + "a")
    assert planned(capsys, "2026-01-06")[2:] == missed
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "scheduled__b")
    assert planned(capsys, "2026-01-07") == [("books", "2026-01-07"), ("web", "2026-01-07")]


def test_real_ingests_tell_which_nights_were_missed_also_those_of_dates_without_shards(
    engine: Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW_CTX_DAG_ID", "nightly_rescore")
        patch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "scheduled__2026-01-02T02:00:00+00:00__2026-01-01__x")
        assert main(["ingest", "--dataset", "web", "--root", str(tmp_path), "--crawl-date", "2026-01-01"]) == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alchemist.runs SET started_at = '2026-01-02T02:00:00Z'")
    assert planned(capsys, "2026-01-04") == [
        ("web", "2026-01-04"), ("web", "2026-01-02"), ("web", "2026-01-03")
    ]  # fmt: skip
    assert main(["ingest", "--dataset", "web", "--crawl-date", "2026-01-02"]) == 0
    for suite in ("shards", "samples"):
        assert main(["check", "--dataset", "web", "--crawl-date", "2026-01-02", "--suite", suite]) == 0
    assert planned(capsys, "2026-01-04") == [("web", "2026-01-04"), ("web", "2026-01-03")]
    assert main(["ingest"]) == 0
    assert planned(capsys, "2026-01-04") == [("web", "2026-01-04")]


def test_a_night_whose_ingest_died_is_taken_again_and_the_line_names_a_dead_process(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    add_dataset_of_january(engine)
    add_ingests(engine, "web", "2026-01-01", "2026-01-02")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alchemist.runs SET state = 'lost' WHERE run_id = 2")
    assert main(["plan", "night", "--crawl-date", "2026-01-03", "--json"]) == 0
    said = capsys.readouterr()
    assert "No ingest of 1 earlier night has ended: the start of the run was missed, or its process died." in said.err
    assert "2026-01-02" in said.out


def test_a_run_for_an_old_date_takes_no_later_night_and_adds_no_missed_ones(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    add_dataset_of_january(engine)
    add_ingests(engine, "web", "2026-01-04")
    assert planned(capsys, "2025-12-20") == [("web", "2025-12-20")]
    add_ingests(engine, "web", "2025-12-20", actor="airflow:nightly_rescore:manual__a")
    assert planned(capsys, "2026-01-06") == [("web", "2026-01-06"), ("web", "2026-01-05")]


def test_dates_before_the_first_scheduled_run_are_not_missed(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    add_dataset_of_january(engine)
    add_ingests(engine, "web", "2026-01-01", actor="ann")
    add_ingests(engine, "web", "2026-01-05", actor="airflow:nightly_rescore:manual__a")
    assert planned(capsys, "2026-01-09") == [("web", "2026-01-09")]
    add_ingests(engine, "web", "2026-01-09")
    assert planned(capsys, "2026-01-11") == [("web", "2026-01-11"), ("web", "2026-01-10")]


def test_a_crawl_date_later_than_tomorrow_is_refused_and_a_day_that_is_not_over_is_not_missed(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The crawler may live east of the time zone of the schedule."""
    today = datetime.now(UTC).date()
    tomorrow, yesterday = today + timedelta(days=1), today - timedelta(days=1)
    add_dataset_of_january(engine)
    add_ingests(engine, "web", str(today - timedelta(days=2)))
    assert main(["plan", "night", "--crawl-date", str(tomorrow + timedelta(days=1))]) == 2
    assert f"is later than tomorrow ({tomorrow}, UTC)" in capsys.readouterr().err
    assert planned(capsys, str(tomorrow)) == [("web", str(tomorrow)), ("web", str(yesterday))]


def test_a_missed_night_with_late_shards_is_taken_once_and_one_that_a_check_has_stopped_waits(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    add_dataset_of_january(engine)
    add_ingests(engine, "web", "2026-01-01")
    add_shards(engine, 1, "a.tar", crawl_date="2026-01-02")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alchemist.shards SET state = 'growing'")
        failed = {"suite": "samples", "dataset_name": "web", "crawl_date": "2026-01-03", "is_success": False}
        shard = {"shard_id": 1, "dataset_id": 1, "crawl_date": "2026-01-03", "n_samples": 5}
        insert_rows(connection, {"shards": [shard], "check_results": [failed]})
    assert planned(capsys, "2026-01-04") == [("web", "2026-01-04"), ("web", "2026-01-02")]


def test_without_a_schedule_and_after_the_end_of_a_crawl_no_night_is_missed(
    engine: Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dataset_of_january(engine)
    add_ingests(engine, "web", "2026-01-01")
    (tmp_path / "alchemist.toml").write_text("")
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / "alchemist.toml"))
    for text, n_missed in (
        ("[datasets.web.ingest]\ncrawl_interval_days = 7\n", 2),
        ("[datasets.web.ingest]\ncrawl_interval_days = 0\n", 0),
        ('[schedule]\nnightly = "none"\n', 0),
    ):
        (tmp_path / "alchemist.toml").write_text(text)
        load_project.cache_clear()
        load_settings.cache_clear()
        assert len(planned(capsys, "2026-01-04")) == 1 + n_missed


def test_missed_nights_of_many_datasets_are_divided_among_runs_the_oldest_first(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 8):
        add_dataset_of_january(engine, dataset_id=number, name=f"d{number}")
        add_ingests(engine, f"d{number}", "2026-01-01")
    assert main(["plan", "night", "--crawl-date", "2026-02-10", "--json"]) == 0
    plan = last_line(capsys)
    nights: list[dict[str, str]] = plan["nights"]  # type: ignore[assignment]
    assert len(nights) == MOST_ITEMS
    assert (nights[7]["crawl_date"], nights[-1]["crawl_date"]) == ("2026-01-02", "2026-02-06")
    assert plan["n_waiting"] == 7 * 39 - (MOST_ITEMS - 7)


def four_shards_each(days: list[date], *, dataset_id: int) -> list[dict[str, object]]:
    """Rows of four shards for each crawl date."""
    return [
        {
            "shard_id": 1000 * number + slot,
            "dataset_id": dataset_id,
            "crawl_date": day,
            "uri": f"{day}/{slot}.tar",
            "n_samples": 5,
        }
        for number, day in enumerate(days)
        for slot in range(4)
    ]


def test_more_late_nights_than_airflow_maps_are_divided_among_runs_the_newest_first(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive of a year, ingested in one go, made every later night fail for all datasets."""
    with engine.begin() as connection:
        add_dataset(connection)
        add_dataset(connection, dataset_id=2, name="archive")
        add_rater(connection)
        days = [date(2026, 1, 1) - timedelta(days=number) for number in range(400)]
        insert_rows(connection, {"shards": four_shards_each(days, dataset_id=2)})
    monkeypatch.setenv("ALCHEMIST_SCORE_SLOTS", "4")
    load_settings.cache_clear()
    assert main(["plan", "night", "--crawl-date", "2026-01-02", "--json"]) == 0
    said = capsys.readouterr()
    plan = json.loads(said.out.splitlines()[-1])
    nights = [(night["dataset"], night["crawl_date"]) for night in plan["nights"]]
    late = [("archive", day.isoformat()) for day in days[: MOST_ITEMS - 2]]
    assert nights == [("archive", "2026-01-02"), ("web", "2026-01-02"), *late]
    assert plan["n_waiting"] == 400 - len(late)
    assert (
        "400 earlier nights were missed, or have shards that lack scores. 146 are left for the next runs." in said.err
    )
    scoring = plan_score(PlanScoreConfig(rater="nightly", nights=tuple(f"{name}:{day}" for name, day in nights)))
    assert {(task.dataset, str(task.crawl_date)) for task in scoring.work} == set(nights)
    assert len(scoring.work) <= MOST_ITEMS


def test_a_few_nights_share_all_slots_and_many_nights_get_fewer_each(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
        days = [date(2026, 1, 1) + timedelta(days=number) for number in range(100)]
        insert_rows(connection, {"shards": four_shards_each(days, dataset_id=1)})
    monkeypatch.setenv("ALCHEMIST_SCORE_SLOTS", "4")
    load_settings.cache_clear()
    n_items = {
        n: len(plan_score(PlanScoreConfig(nights=tuple(f"web:{day}" for day in days[:n]))).work) for n in (1, 64, 100)
    }
    assert n_items == {1: 4, 64: 256, 100: 200}


def test_scoring_is_planned_for_each_dataset_and_slot(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_score(PlanScoreConfig()).work == []
    with engine.begin() as connection:
        add_dataset(connection)
        add_dataset(connection, dataset_id=2, name="books")
        add_rater(connection)
    add_shards(engine, 1, "a.tar", "b.tar", "c.tar")
    monkeypatch.setenv("ALCHEMIST_SCORE_SLOTS", "2")
    load_settings.cache_clear()
    report = plan_score(PlanScoreConfig(crawl_date=date(2026, 1, 2)))
    assert [(task.dataset, task.slot) for task in report.work] == [("books", 0), ("web", 0), ("web", 1)]
    assert (report.slots, report.n_shards, report.n_samples) == ([0, 1], 3, 15)
    assert {task.crawl_date for task in report.work} == {date(2026, 1, 2)}


def test_several_nights_are_planned_at_once_each_with_its_own_day(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_dataset(connection, dataset_id=2, name="books")
        add_rater(connection)
    add_shards(engine, 1, "a.tar")
    add_shards(engine, 2, "b.tar", crawl_date="2026-01-01")
    report = plan_score(
        PlanScoreConfig(nights=("web:2026-01-02", "web:2026-01-01", "books:2026-01-01", "new:2026-01-02"))
    )
    assert [(task.dataset, str(task.crawl_date), task.slot) for task in report.work] == [
        ("web", "2026-01-02", 0), ("web", "2026-01-01", 0), ("books", "2026-01-01", 0),
    ]  # fmt: skip
    assert report.n_shards == 2


def test_where_checks_have_stopped_every_night_nothing_is_scored(engine: Engine, database_url: str) -> None:
    failed = {"suite": "samples", "expectation": "most_locations_are_usable", "severity": "fail", "is_success": False}
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
        night = {"dataset_name": "web", "crawl_date": "2026-01-02", "observed": {}}
        insert_rows(connection, {"check_results": [failed | night]})
    add_shards(engine, 1, "a.tar")
    assert plan_score(PlanScoreConfig(nights=("web:2026-01-02",))).work == []


@pytest.mark.parametrize("night", ["web", "web:yesterday", "2026-01-02"])
def test_a_night_that_cannot_be_read_is_refused_with_its_form(database_url: str, night: str) -> None:
    with pytest.raises(ConfigError, match="DATASET:YYYY-MM-DD"):
        plan_score(PlanScoreConfig(nights=(night,)))
