"""Maintenance removes what dead processes left and nothing in use; failures and questions of Airflow reach a person."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.maintain import (
    MaintainConfig,
    RetentionConfig,
    airflow,
    leases,
    retention,
    statistics,
    takedowns,
)
from alchemist_core.cli.note import NoteConfig, QuestionConfig, approval, failure
from alchemist_core.errors import DataError
from alchemist_core.files import BLOCK_CACHE, CLUSTER_FILES, FEATURE_CACHE, METHOD_FILES, artifact_path
from alchemist_core.scorers.vlm import ANSWERS
from alchemist_core.settings import load_settings
from alchemist_core.shards.pictures import own_cache
from alchemist_core.store.manifests import hash_rows
from alchemist_core.training.feature_cache import FeatureCache
from tests.given import Row, insert_rows, sha256

pytestmark = pytest.mark.db

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=800)


def store(engine: Engine, **tables: list[Row]) -> None:
    with engine.begin() as connection:
        insert_rows(connection, tables)


def values(engine: Engine, sql: str) -> list[object]:
    with engine.connect() as connection:
        return list(connection.execute(text(sql)).scalars())


def test_leases_of_the_dead_go_with_their_runs_and_live_ones_stay(engine: Engine) -> None:
    old = {"started_at": NOW - timedelta(hours=25), "heartbeat_at": NOW - timedelta(days=1), "stage": "score"}
    store(
        engine,
        runs=[{"run_id": 1, **old}, {"run_id": 2, "stage": "score"}],
        leases=[
            {"resource": "dead", "fencing_token": 1, "run_id": 1, "expires_at": NOW - timedelta(hours=2)},
            {"resource": "just expired", "fencing_token": 2, "run_id": 2, "expires_at": NOW - timedelta(minutes=1)},
            {"resource": "live", "fencing_token": 3, "run_id": 2, "expires_at": NOW + timedelta(hours=1)},
        ],
    )
    assert leases(MaintainConfig()).n_done == 1
    assert values(engine, "SELECT resource FROM alchemist.leases ORDER BY 1") == ["just expired", "live"]
    assert values(engine, "SELECT state FROM alchemist.runs ORDER BY run_id") == ["lost", "running"]
    assert values(engine, "SELECT work_seconds FROM alchemist.runs ORDER BY run_id") == [3600.0, None]


def test_a_takedown_is_done_when_nothing_published_and_no_tar_holds_the_image(engine: Engine) -> None:
    store(
        engine,
        datasets=[{"dataset_id": 1, "name": "web"}],
        samples=[{"sample_id": 1}, {"sample_id": 2}, {"sample_id": 3}],
        raters=[{"rater_id": 1, "name": "r"}],
        rank_scales=[{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
        rank_snapshots=[{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
        subsets=[
            {"subset_id": 1, "name": "s", "snapshot_id": 1, "state": "published"},
            {"subset_id": 2, "name": "t", "snapshot_id": 1, "all_materialized_uris": ["tars"]},
        ],
        subset_samples=[
            {"subset_id": 1, "sample_id": 1, "rank": 0.5},
            {"subset_id": 2, "sample_id": 2, "rank": 0.5},
        ],
        takedowns=[{"image_hash": sha256(f"image {i}"), "reason": "asked", "requested_by": "ann"} for i in (1, 2, 3)],
    )
    report = takedowns(MaintainConfig())
    assert (report.n_done, report.n_left) == (1, 2)
    done = values(
        engine, "SELECT encode(image_hash, 'hex') FROM alchemist.takedowns WHERE bytes_removed_at IS NOT NULL"
    )
    assert done == [sha256("image 3").hex()]
    assert takedowns(MaintainConfig()).n_done == 0


def test_what_running_work_made_of_an_image_after_its_takedown_goes_before_the_takedown_is_done(engine: Engine) -> None:
    gone, other = sha256("image 1"), sha256("image 2")
    features = FeatureCache(artifact_path(FEATURE_CACHE) / "latents" / "vae")
    blocks = artifact_path(BLOCK_CACHE) / "ab"
    blocks.mkdir(parents=True)
    page = artifact_path("reports/all.html")
    page.parent.mkdir(parents=True)

    def work() -> None:
        features.add(hash_rows([gone, other]), {"latent": np.zeros((2, 4))})
        for image_hash in (gone, other):
            own_cache().add(image_hash, 256, b"jpeg")
        (blocks / "abc.block").write_bytes(b"the bytes of some images")
        page.write_text("pictures of some images")

    def has_kept(image_hash: bytes) -> tuple[bool, bool]:
        is_known = bool(features.find(hash_rows([image_hash])).is_known_N[0])
        return is_known, own_cache().find(image_hash, 256) is not None

    store(engine, takedowns=[{"image_hash": gone, "reason": "asked", "requested_by": "ann"}])
    work()
    report = takedowns(MaintainConfig())
    assert (report.n_done, report.note) == (1, "Removed 1 cached feature, 1 cached picture, 1 report page.")
    assert (has_kept(gone), has_kept(other)) == ((False, False), (True, True))
    assert list(blocks.iterdir()) == []
    assert not page.exists()
    # A training that goes on for days stores it again; blocks and pages of other images stay once all takedowns are done.
    work()
    assert takedowns(MaintainConfig()).note == "Removed 1 cached feature, 1 cached picture."
    assert (has_kept(gone), has_kept(other)) == ((False, False), (True, True))
    assert [path.name for path in blocks.iterdir()] == ["abc.block"]
    assert page.exists()
    assert takedowns(MaintainConfig()).note is None


def test_a_report_that_was_made_long_after_a_takedown_stays_while_the_takedown_is_pending(engine: Engine) -> None:
    asked_at = datetime.now(UTC) - timedelta(hours=3)
    for name, hours in (("before", -1), ("during", 0.5), ("after", 2)):
        page = artifact_path(f"reports/{name}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("pictures of some images")
        written = (asked_at + timedelta(hours=hours)).timestamp()
        os.utime(page, (written, written))
    store(
        engine,
        takedowns=[
            {"image_hash": sha256("image 1"), "reason": "asked", "requested_by": "ann", "requested_at": asked_at}
        ],
    )
    takedowns(MaintainConfig())
    assert [path.name for path in artifact_path("reports").iterdir()] == ["after.html"]


def test_embeddings_that_experiments_keep_go_with_a_takedown_and_later_ones_stay(engine: Engine) -> None:
    files = {
        artifact_path(f"{folder}/{name}.npz"): hours
        for folder in (CLUSTER_FILES, METHOD_FILES)
        for name, hours in (("before", -1), ("during", 2), ("after", 30))
    }
    asked_at = datetime.now(UTC) - timedelta(hours=48)
    for path, hours in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"embeddings of some images")
        written = (asked_at + timedelta(hours=hours)).timestamp()
        os.utime(path, (written, written))
    asked = {"image_hash": sha256("image 1"), "reason": "asked", "requested_by": "ann", "requested_at": asked_at}
    store(engine, takedowns=[asked])
    assert takedowns(MaintainConfig()).note == "Removed 4 embedding files."
    assert [path.stem for path in files if path.exists()] == ["after", "after"]


def test_a_damaged_file_of_answers_keeps_no_takedown_pending(engine: Engine) -> None:
    damaged = load_settings().home / ANSWERS / "judge.sqlite"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no database" * 100)
    page = artifact_path("reports/all.html")
    page.parent.mkdir(parents=True)
    page.write_text("pictures of some images")
    store(engine, takedowns=[{"image_hash": sha256("image 1"), "reason": "asked", "requested_by": "ann"}])
    with pytest.raises(
        DataError, match=rf"{damaged} cannot be deleted.*file is not a database(?s:.*)Everything else was done"
    ):
        takedowns(MaintainConfig())
    assert not page.exists()
    assert values(engine, "SELECT count(*) FROM alchemist.takedowns WHERE bytes_removed_at IS NULL") == [0]


def test_old_outcomes_go_but_the_newest_of_a_night_and_what_a_person_released_stay(engine: Engine) -> None:
    night = {"suite": "samples", "dataset_name": "web", "crawl_date": "2024-01-01", "created_at": LONG_AGO}
    store(
        engine,
        check_results=[
            {"check_result_id": 1, **night},
            {"check_result_id": 2, **night, "observed": {"released_by": "ann"}},
            {"check_result_id": 3, **night, "is_success": False},
            {"check_result_id": 4, **night, "expectation": "other"},
        ],
    )
    assert retention(RetentionConfig(keep_days=365)).n_done == 1
    assert values(engine, "SELECT check_result_id FROM alchemist.check_results ORDER BY 1") == [2, 3, 4]


def test_large_tables_are_analysed_partitioned_ones_too(engine: Engine) -> None:
    store(
        engine,
        raters=[{"rater_id": 1, "name": "r"}],
        samples=[{"sample_id": 1}],
        scores=[{"rater_id": 1, "sample_id": 1, "score": 0.5}],
    )
    assert statistics(MaintainConfig()).n_done > 5
    analysed = "SELECT relname FROM pg_class WHERE relnamespace = 'alchemist'::regnamespace AND relkind IN ('r', 'p') AND reltuples >= 0"
    assert {"scores", "shard_scores", "samples"} <= set(values(engine, analysed))


def test_airflows_history_is_not_touched_without_the_address_of_its_database(engine: Engine) -> None:
    report = airflow(RetentionConfig())
    assert report.n_done == 0
    assert "ALCHEMIST_AIRFLOW_DATABASE_URL" in str(report.note)


def test_a_failure_and_a_question_are_stored_and_reach_the_notification_program(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tell"
    program.write_text(f"#!/bin/sh\ncat >> {tmp_path / 'heard'}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("ALCHEMIST_NOTIFY_COMMAND", str(program))
    load_settings.cache_clear()
    assert failure(NoteConfig(subject="nightly_rescore.score", reason="the disk is full", run="r1")).is_notified
    assert approval(QuestionConfig(subject="train_rater.approve", reason="Promote?")).is_notified
    assert "the disk is full" in (tmp_path / "heard").read_text()
    assert values(engine, "SELECT action FROM alchemist.audit_events ORDER BY audit_event_id") == [
        "task failed",
        "approval asked",
    ]
    assert values(engine, "SELECT after ->> 'run' FROM alchemist.audit_events ORDER BY audit_event_id") == ["r1", None]


@pytest.mark.parametrize("by", ["file", "variable"])
def test_the_notification_program_comes_from_the_project_file_unless_the_deployment_sets_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    for name in ("file", "variable"):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat >> {tmp_path / 'heard'}-{name}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "alchemist.toml").write_text(f'[notifications]\ncommand = "{tmp_path}/file"\n')
    monkeypatch.chdir(tmp_path)
    if by == "variable":
        monkeypatch.setenv("ALCHEMIST_NOTIFY_COMMAND", str(tmp_path / "variable"))
    load_settings.cache_clear()
    assert main(["note", "failure", "--subject", "a.b", "--reason", "the disk is full"]) == 0
    assert [path.name for path in tmp_path.glob("heard*")] == [f"heard-{by}"]


def test_a_wrong_project_file_is_the_reason_why_an_event_was_not_sent(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alchemist.toml").write_text("[notification]\n")
    monkeypatch.chdir(tmp_path)
    assert main(["note", "failure", "--subject", "a.b", "--reason", "why"]) == 0
    assert "'notification' is not a known key. Did you mean notifications?" in capsys.readouterr().err
    assert values(engine, "SELECT state FROM alchemist.notifications") == ["waiting"]


@pytest.mark.parametrize(("home", "logs"), [("airflow", None), ("opt", None), ("/opt/airflow", "shared/logs")])
def test_a_failure_has_the_end_of_its_log_for_a_reason(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, logs: str | None
) -> None:
    log = tmp_path / (logs or f"{home}/logs") / "dag_id=d" / "run_id=r1" / "task_id=t" / "attempt=3.log"
    log.parent.mkdir(parents=True)
    log.write_text('{"event": "a loss is not finite"}\n')
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / home))
    if logs is not None:
        monkeypatch.setenv("ALCHEMIST_TASK_LOGS", str(tmp_path / logs))
        load_settings.cache_clear()
    failure(NoteConfig(subject="d.t", reason="exit code 9", run="r1", try_number=3))
    (reason,) = values(engine, "SELECT after ->> 'reason' FROM alchemist.audit_events")
    assert reason == "exit code 9\n  a loss is not finite"


def test_the_headline_of_a_failure_is_its_error_however_long_its_log_is(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "airflow" / "logs" / "dag_id=d" / "run_id=r1" / "task_id=t" / "attempt=3.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps({"event": f"step {step} " + "x" * 280}) + "\n" for step in range(40)))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    failure(NoteConfig(subject="d.t", reason="exit code 9", run="r1", try_number=3))
    (event,) = values(engine, "SELECT event FROM alchemist.notifications")
    assert event["what_happened"] == "d.t: exit code 9"
    assert len(event["facts"]["details"]) == 4000
    assert event["facts"]["details"].rstrip("x").endswith("step 39 ")
    (reason,) = values(engine, "SELECT after ->> 'reason' FROM alchemist.audit_events")
    assert reason == f"exit code 9\n{event['facts']['details']}"
    failure(NoteConfig(subject="d.long", reason="disk full " * 1500))
    headlines = values(engine, "SELECT event ->> 'what_happened' FROM alchemist.notifications ORDER BY notification_id")
    assert headlines[-1] == "d.long: " + "disk full " * 100


def test_a_program_that_fails_stops_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_NOTIFY_COMMAND", "false")
    load_settings.cache_clear()
    assert not failure(NoteConfig(subject="a.b", reason="why")).is_notified
    assert values(engine, "SELECT count(*) FROM alchemist.audit_events") == [1]
