"""`alchemist night list` shows the state of each night, what was left out, and the next step."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.check import CheckConfig
from alchemist_core.cli.check import run as check
from alchemist_core.cli.drift import DriftConfig, check_drift
from alchemist_core.cli.held_nights import RejectNightConfig, ReleaseNightConfig, reject, release
from alchemist_core.cli.night import NightListConfig, list_
from alchemist_core.cli.plan import PlanNightConfig, PlanScoreConfig, plan_night, plan_score
from alchemist_core.errors import CheckFailedError, ConfigError, DataError
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.matters import read_matters
from alchemist_core.store.overviews import read_nights
from alchemist_core.store.runs import RunKey, claim_run, finish_run
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_rater
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db

WHY = {
    "rejected": {"rejected_reason": "not a tar"},
    **{state: {"state_reason": "seen tonight"} for state in ("growing", "missing", "changed")},
}


def add_shards(engine: Engine, dataset_id: int, **states: str) -> None:
    shard = {"dataset_id": dataset_id, "crawl_date": "2026-01-02", "n_samples": 5}
    rows = [
        {**shard, "shard_id": 10 * dataset_id + number, "uri": f"{name}.tar", "state": state, **WHY.get(state, {})}
        for number, (name, state) in enumerate(states.items())
    ]
    with engine.begin() as connection:
        insert_rows(connection, {"shards": rows})


@pytest.fixture
def two_datasets(engine: Engine) -> Engine:
    with engine.begin() as connection:
        add_dataset(connection)
        add_dataset(connection, dataset_id=2, name="books")
        add_rater(connection)
    add_shards(engine, 1, good="verified", gone="missing", other="changed", upload="growing", broken="rejected")
    add_shards(engine, 2, fine="verified")
    return engine


def test_every_shard_that_is_left_out_of_a_night_is_named_with_its_next_step(two_datasets: Engine) -> None:
    web = next(night for night in list_(NightListConfig()).nights if night.dataset == "web")
    steps = {shard.uri: shard.remedy for shard in web.unread}
    assert steps.keys() == {"gone.tar", "other.tar", "upload.tar", "broken.tar"}
    assert "alchemist shard retire 11" in steps["gone.tar"]
    assert "alchemist shard reread 12" in steps["other.tar"]
    assert steps["upload.tar"].startswith("nothing to do")
    assert web.remedies == ["alchemist score --dataset web --crawl-date 2026-01-02"]


def test_a_night_that_a_run_scores_now_names_the_run_and_asks_for_nothing(two_datasets: Engine) -> None:
    options = {"dataset": "books", "crawl_date": "2026-01-02", "rater": "nightly", "scorer": None}
    claim = claim_run(two_datasets, RunKey("score", options, "0" * 16), ttl_s=30.0, code_version="test")
    assert claim is not None
    (books,) = list_(NightListConfig(dataset="books")).nights
    assert (books.status, books.remedies) == (f"being scored by run {claim.run_id}: 0 of 1 shards", [])
    assert read_nights(two_datasets, "books")[0].is_open
    (web,) = list_(NightListConfig(dataset="web")).nights
    assert web.status == "partly scored: 0 of 1 shards"
    finish_run(two_datasets, claim, state="failed", error="stopped", exit_code=1)
    (books,) = list_(NightListConfig(dataset="books")).nights
    assert books.status == "partly scored: 0 of 1 shards"
    assert books.remedies == ["alchemist score --dataset books --crawl-date 2026-01-02"]


def test_a_named_night_that_nothing_stopped_must_be_scored_if_that_is_required(two_datasets: Engine) -> None:
    named = NightListConfig(nights=("books:2026-01-02",), require_scored=True)
    with pytest.raises(CheckFailedError, match=r"books 2026-01-02 \(partly scored: 0 of 1 shards\).* clear all tasks"):
        list_(named)
    assert list_(NightListConfig(require_scored=True)).nights, "all nights are only listed"
    options = {"dataset": "books", "crawl_date": "2026-01-02", "rater": "nightly", "scorer": None}
    claim = claim_run(two_datasets, RunKey("score", options, "0" * 16), ttl_s=30.0, code_version="test")
    assert claim is not None
    assert list_(named).nights[0].status.startswith("being scored"), "a run works on it"
    finish_run(two_datasets, claim, state="failed", error="stopped", exit_code=1)
    with two_datasets.begin() as connection:
        failed = {
            "suite": "samples",
            "expectation": "e",
            "dataset_name": "books",
            "crawl_date": "2026-01-02",
            "is_success": False,
        }
        insert_rows(connection, {"check_results": [failed]})
    assert list_(named).nights[0].status == "stopped by checks: e", "it waits for a person"


def test_all_named_nights_are_listed_and_must_be_scored_however_many_they_are(two_datasets: Engine) -> None:
    days = [date(2026, 3, day) for day in range(1, 21)]
    checked = {"suite": "shards", "dataset_name": "books"}
    late = {"shard_id": 100, "dataset_id": 2, "uri": "late.tar", "crawl_date": days[0], "n_samples": 5}
    with two_datasets.begin() as connection:
        insert_rows(connection, {"check_results": [{**checked, "crawl_date": day} for day in days], "shards": [late]})
    nights = tuple(f"books:{day}" for day in days)
    assert len(list_(NightListConfig(nights=nights)).nights) == len(days)
    with pytest.raises(CheckFailedError, match=r"Ingested but not scored: books 2026-03-01"):
        list_(NightListConfig(nights=nights, require_scored=True))
    assert len(list_(NightListConfig(dataset="books", limit=3)).nights) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_an_ingest_that_failed_and_was_repeated_alone_leaves_a_night_that_no_task_has_noticed(
    corpus: Path, tmp_path: Path
) -> None:
    """The tasks of a run, as Airflow runs them if only the failed ones are cleared: all but the ingest have succeeded."""
    root, away = tmp_path / "crawl", tmp_path / "unmounted"
    shutil.copytree(corpus / "test", root / "2026-01-31")
    given = {"dataset": "crawl", "root": str(root)}
    ingest(IngestConfig.model_validate({**given, "crawl_date": "2026-01-31"}))
    root.rename(away)
    night = {"dataset": "crawl", "crawl_date": "2026-02-01"}
    with pytest.raises(DataError):
        ingest(IngestConfig.model_validate({**night, **given}))
    name = "crawl:2026-02-01"
    for suite in ("shards", "samples"):
        check(CheckConfig.model_validate({**night, "suite": suite}))
    for task in plan_score(PlanScoreConfig(nights=(name,))).work:
        score(ScoreConfig(dataset=task.dataset, crawl_date=task.crawl_date, rater="nightly"))
    check(CheckConfig.model_validate({**night, "suite": "scores"}))
    check_drift(DriftConfig.model_validate(night))
    publish_night(PublishNightConfig.model_validate(night))

    shutil.copytree(corpus / "validation", away / "2026-02-01")
    away.rename(root)
    ingest(IngestConfig.model_validate({**night, **given}))
    assert not list_(NightListConfig(nights=(name,))).nights[0].status.startswith("selectable")
    with pytest.raises(CheckFailedError, match="Ingested but not scored: crawl 2026-02-01"):
        list_(NightListConfig(nights=(name,), require_scored=True))


def test_the_problem_of_one_dataset_is_not_reported_for_another(two_datasets: Engine) -> None:
    books = next(night for night in list_(NightListConfig()).nights if night.dataset == "books")
    assert books.unread == []


def test_only_the_nights_that_are_asked_for_are_listed(two_datasets: Engine) -> None:
    report = list_(NightListConfig(nights=("books:2026-01-02", "books:2026-01-03")))
    assert [(night.dataset, night.crawl_date) for night in report.nights] == [("books", date(2026, 1, 2))]


def fail_ingest(engine: Engine, error: str, *, run_id: int = 1, state: str = "failed") -> None:
    run = {
        "run_id": run_id,
        "stage": "ingest",
        "config": {"dataset": "web", "crawl_date": "2026-01-02"},
        "error": error,
    }
    with engine.begin() as connection:
        insert_rows(connection, {"runs": [{**run, "state": state, "finished_at": "2026-01-03"}]})


def test_what_an_ingest_skipped_is_listed_for_its_night_until_a_successful_one(
    two_datasets: Engine,
) -> None:
    left = "web: x.tar.gz: is compressed. Unpack it.\nweb: gone.tar: missing (since now). Restore it.\nEverything else was ingested."
    fail_ingest(two_datasets, f"DataError: {left}")
    report = list_(NightListConfig(nights=("web:2026-01-02", "books:2026-01-02")))
    of_books, of_web = report.nights
    assert (of_books.not_ingested, of_web.not_ingested) == ([], ["x.tar.gz: is compressed. Unpack it."])
    assert (
        "  next: remove the cause, then run alchemist ingest --dataset web --crawl-date 2026-01-02"
        in report.summary().splitlines()
    )
    fail_ingest(two_datasets, "", run_id=2, state="succeeded")
    assert list_(NightListConfig(nights=("web:2026-01-02",))).nights[0].not_ingested == []


@pytest.mark.parametrize("root", ["crawl", "file://{here}/crawl"])
def test_what_an_ingest_skipped_is_listed_in_whatever_form_its_root_was_given(
    engine: Engine, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    folder = tmp_path / "crawl" / "2026-01-02"
    folder.mkdir(parents=True)
    shutil.copy(next((corpus / "train").rglob("*.tar")), folder / "a.tar")
    (folder / "b.tar.gz").write_bytes(b"packed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is compressed"):
        ingest(IngestConfig(dataset="web", root=root.format(here=tmp_path), crawl_date=date(2026, 1, 2)))
    (night,) = list_(NightListConfig()).nights
    assert [line.partition(": ")[0] for line in night.not_ingested] == ["2026-01-02/b.tar.gz"]


def test_a_night_of_which_nothing_was_ingested_is_not_called_empty(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        checked = {"suite": "shards", "dataset_name": "web", "crawl_date": "2026-01-02"}
        insert_rows(connection, {"check_results": [checked]})
    assert [night.status for night in list_(NightListConfig()).nights] == ["empty"]
    fail_ingest(engine, "DataError: web: The root /data/web is unreachable. Mount it.\nEverything else was ingested.")
    (night,) = list_(NightListConfig()).nights
    assert (night.status, night.not_ingested) == ("not ingested", ["The root /data/web is unreachable. Mount it."])


def fail_checks(engine: Engine, *failed: tuple[str, str]) -> None:
    of_books = {"dataset_name": "books", "crawl_date": "2026-01-02", "is_success": False}
    with engine.begin() as connection:
        rows = [{"suite": suite, "expectation": name, **of_books} for suite, name in failed]
        insert_rows(connection, {"check_results": rows})


def test_a_stopped_night_names_the_suites_that_failed_and_both_decisions(two_datasets: Engine) -> None:
    fail_checks(two_datasets, ("scores", "no_shard_is_constant"), ("samples", "most_locations_are_usable"))
    (books,) = list_(NightListConfig(dataset="books")).nights
    which = "--dataset books --crawl-date 2026-01-02"
    release, reject = (f"alchemist night {verb} {which} --reason WHY" for verb in ("release", "reject"))
    assert books.remedies == [
        f"alchemist check --suite samples,scores {which} prints the failed checks",
        f"if the data is correct, {release}; if it is wrong, {reject}",
    ]


def test_a_night_that_only_lacks_scores_is_scored_again_by_the_next_run_and_by_the_next_step(
    two_datasets: Engine,
) -> None:
    fail_checks(two_datasets, ("scores", "every_shard_is_scored"))
    (books,) = list_(NightListConfig(dataset="books")).nights
    which = "--dataset books --crawl-date 2026-01-02"
    assert books.remedies == [f"alchemist score {which}", f"alchemist check --suite scores {which}"]
    assert [one.dataset for one in plan_score(PlanScoreConfig(nights=("books:2026-01-02",))).work] == ["books"]
    assert "books" in earlier_nights()
    fail_checks(two_datasets, ("samples", "most_locations_are_usable"))
    assert plan_score(PlanScoreConfig(nights=("books:2026-01-02",))).work == []
    assert "books" not in earlier_nights()


def test_a_night_whose_scores_a_person_rejected_is_left_out_of_later_runs(two_datasets: Engine) -> None:
    fail_checks(two_datasets, ("scores", "scores_are_finite"))
    assert "books" in earlier_nights()
    reject(RejectNightConfig(dataset="books", crawl_date=date(2026, 1, 2), reason="a broken rater"))
    assert "books" not in earlier_nights()


def earlier_nights() -> list[str]:
    """The datasets of which the run of the next day takes the night of 2026-01-02."""
    nights = plan_night(PlanNightConfig(crawl_date=date(2026, 1, 3))).nights
    return [night.dataset for night in nights if night.crawl_date == date(2026, 1, 2)]


def test_a_stopped_night_is_rejected_and_waits_for_nobody_until_it_is_released(two_datasets: Engine) -> None:
    which: dict[str, Any] = {"dataset": "books", "crawl_date": date(2026, 1, 2), "reason": "wrong captions"}
    with pytest.raises(ConfigError, match="is held or stopped by a check"):
        reject(RejectNightConfig(**which))
    fail_checks(two_datasets, ("samples", "most_locations_are_usable"))
    assert [(one.kind, one.subject) for one in read_matters(two_datasets)] == [("failed check", "books")]
    done = reject(RejectNightConfig(**which))
    assert (done.nights, done.state_before) == (["books 2026-01-02"], ["stopped: samples.most_locations_are_usable"])
    (books,) = list_(NightListConfig(dataset="books")).nights
    assert (books.status, books.remedies) == ("rejected: wrong captions", [])
    assert read_matters(two_datasets) == []
    assert plan_score(PlanScoreConfig(nights=("books:2026-01-02",))).work == []
    with two_datasets.connect() as connection:
        query = "SELECT action, subject, after ->> 'reason' FROM alchemist.audit_events"
        assert connection.execute(text(query)).all() == [("reject", "checks of books 2026-01-02", "wrong captions")]
    with pytest.raises(ConfigError, match="is held or stopped by a check"):
        reject(RejectNightConfig(**which))


def test_the_scored_part_of_a_stopped_night_is_rejected_too(two_datasets: Engine) -> None:
    with two_datasets.begin() as connection:
        insert_rows(
            connection, {"nights": [{"night_id": 5, "dataset_id": 2, "crawl_date": "2026-01-02", "rater_id": 1}]}
        )
    fail_checks(two_datasets, ("scores", "no_shard_is_constant"))
    done = reject(RejectNightConfig(dataset="books", crawl_date=date(2026, 1, 2), reason="a broken rater"))
    assert done.nights == ["books 2026-01-02 r1"]
    with two_datasets.connect() as connection:
        assert connection.execute(text("SELECT state FROM alchemist.nights")).scalar_one() == "rejected"


def test_a_night_rejected_under_a_former_rater_is_released_by_the_command_that_is_printed(two_datasets: Engine) -> None:
    of_books = {"dataset_id": 2, "crawl_date": "2026-01-02", "reason": "wrong captions"}
    with two_datasets.begin() as connection:
        add_rater(connection, rater_id=2, name="old", state="retired")
        insert_rows(connection, {
            "nights": [{"night_id": 5, "rater_id": 2, "state": "rejected", **of_books}],
            "shard_scores": [{"rater_id": 2, "shard_id": 20, "night_id": 5, "n_scored": 5}],
        })  # fmt: skip
    (books,) = list_(NightListConfig(dataset="books")).nights
    which = "--dataset books --crawl-date 2026-01-02"
    command = f"alchemist night release {which} --reason WHY --rater old"
    assert books.status == "rejected under rater old: wrong captions"
    assert books.remedies == [f"if its data is correct after all, {command}"]
    asked: dict[str, Any] = {"dataset": "books", "crawl_date": date(2026, 1, 2), "reason": "right captions"}
    with pytest.raises(ConfigError, match="another rater: alchemist night list --nights books:2026-01-02"):
        release(ReleaseNightConfig(**asked))
    assert "books" not in earlier_nights()
    assert release(ReleaseNightConfig(**asked, rater="old")).state_before == ["rejected: wrong captions"]
    (books,) = list_(NightListConfig(dataset="books")).nights
    assert (books.status, books.remedies) == ("partly scored: 0 of 1 shards", [f"alchemist score {which}"])
    assert "books" in earlier_nights()


def test_who_is_slower_than_another_person_is_told_that_nothing_was_done(two_datasets: Engine) -> None:
    night = {
        "night_id": 5,
        "dataset_id": 2,
        "crawl_date": "2026-01-02",
        "rater_id": 1,
        "state": "held",
        "reason": "drift",
    }
    which: dict[str, Any] = {"dataset": "books", "crawl_date": date(2026, 1, 2), "reason": "a broken crawl"}
    with two_datasets.begin() as connection:
        insert_rows(connection, {"nights": [night]})
    for state, decide in (
        ("released", lambda: reject(RejectNightConfig(**which))),
        ("selectable", lambda: release(ReleaseNightConfig(**which))),
    ):
        with two_datasets.begin() as connection:
            connection.execute(text("UPDATE alchemist.nights SET state = 'held'"))
        with ThreadPoolExecutor(1) as pool:
            with two_datasets.begin() as faster:
                faster.execute(text("UPDATE alchemist.nights SET state = :state"), {"state": state})
                slower = pool.submit(decide)
                wait_until_blocked(faster, slower)
            with pytest.raises(
                ConfigError, match="Another person decided books 2026-01-02 meanwhile, so nothing was done"
            ):
                slower.result()
        with two_datasets.connect() as connection:
            assert connection.execute(text("SELECT state FROM alchemist.nights")).scalar_one() == state
            assert connection.execute(text("SELECT count(*) FROM alchemist.audit_events")).scalar_one() == 0


def test_quarantine_is_listed_by_reason_with_the_shard_to_look_at(two_datasets: Engine) -> None:
    bad = {"shard_id": 20, "reason": "bad_image", "run_id": 1}
    with two_datasets.begin() as connection:
        insert_rows(
            connection, {"quarantined_samples": [{**bad, "ordinal": n, "quarantine_id": n + 1} for n in range(2)]}
        )
    summary = list_(NightListConfig(dataset="books")).summary()
    assert "2 quarantined (bad_image 2)" in summary
    assert "next: show what is quarantined: alchemist shard show 20" in summary


def test_nights_with_problems_are_at_the_end_of_the_log(engine: Engine) -> None:
    with engine.begin() as connection:
        for dataset_id, name in enumerate(("a", "b", "c"), start=1):
            add_dataset(connection, dataset_id=dataset_id, name=name)
    add_shards(engine, 1, fine="missing")
    with engine.begin() as connection:
        checked = {"suite": "shards", "dataset_name": None, "crawl_date": "2026-01-02"}
        insert_rows(connection, {"check_results": [checked]})
    named = NightListConfig(nights=("a:2026-01-02", "b:2026-01-02", "c:2026-01-02"))
    heads = [line for line in list_(named).summary().splitlines() if not line.startswith(" ")]
    assert [head[0] for head in heads] == ["b", "c", "a"]


def test_without_names_nights_are_in_the_order_of_their_dates(two_datasets: Engine) -> None:
    with two_datasets.begin() as connection:
        checked = {"suite": "shards", "dataset_name": "books"}
        days = ("2026-01-03", "2026-01-01")
        insert_rows(connection, {"check_results": [{**checked, "crawl_date": day} for day in days]})
    found = [(night.crawl_date.day, night.dataset) for night in list_(NightListConfig()).nights]
    assert found == [(1, "books"), (2, "books"), (2, "web"), (3, "books")]


def test_a_long_list_of_shards_is_cut_and_reports_it(two_datasets: Engine) -> None:
    with two_datasets.begin() as connection:
        rows = [
            {
                "shard_id": 100 + n,
                "dataset_id": 2,
                "uri": f"{n}.tar",
                "state": "missing",
                "crawl_date": "2026-01-02",
                "n_samples": 1,
            }
            for n in range(25)
        ]
        insert_rows(connection, {"shards": rows})
    assert "and 15 more shards" in list_(NightListConfig(dataset="books")).summary()


def test_a_night_that_cannot_be_read_is_refused_with_its_form(database_url: str) -> None:
    with pytest.raises(ConfigError, match="DATASET:YYYY-MM-DD"):
        list_(NightListConfig(nights=("2026-01-02",)))
