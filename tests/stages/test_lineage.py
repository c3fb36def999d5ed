"""A stage reports what it reads and writes to a lineage catalogue if one is configured; an unreachable catalogue stops nothing."""

import itertools
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.settings import load_settings
from alchemist_core.stages import lineage
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.lineage import known_inputs, steps
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from tests.trained_store import TrainedStore

pytest.importorskip("openlineage.client", reason="the client comes with the extra `lineage`")
SELECTED = {"dataset": ["web"], "rater": "r1", "name": "best", "version": 2, "eligible_hash": "e5"}


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of a catalogue."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("ALCHEMIST_OPENLINEAGE", "true")
    transport = {"TYPE": "file", "LOG_FILE_PATH": str(path), "APPEND": "true"}
    for name, value in transport.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    load_settings.cache_clear()
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(event: dict[str, Any], side: str) -> list[str]:
    return [one["name"] for one in event[side]]


def test_the_chain_from_crawl_to_metric_has_no_gap() -> None:
    said = {
        "ingest": {"dataset": "web"},
        "train_rater": {"dataset": "web", "validation": "goal", "rater": "r1"},
        "score": {"dataset": "web", "rater": "r1"},
        "select": SELECTED,
        "train_downstream": {"subset": "best v2"},
        "evaluate": {"subset": "best v2", "metric": "heldout_loss"},
    }
    chain = list(itertools.chain.from_iterable(steps(stage, words) for stage, words in said.items()))
    assert [step.job for step in chain] == [
        "ingest", "train_rater", "score", "snapshot", "select", "train_downstream", "evaluate",
    ]  # fmt: skip
    for before, after in itertools.pairwise(chain):
        assert set(before.outputs) & set(after.inputs), f"{before} does not lead to {after}"
    assert chain[-1].outputs == ["metrics/heldout_loss of best v2"]


def test_tars_have_the_selected_version_as_parent() -> None:
    (drawn,) = [step for step in steps("select", SELECTED) if step.job == "select"]
    (copied,) = steps("materialize", {"subset": "best v2", "folder": "/data/best"})
    assert drawn.outputs == copied.inputs


@pytest.mark.parametrize("alias", sorted(lineage.ALIASES))
def test_an_alias_is_no_rater_of_the_catalogue(alias: str) -> None:
    assert known_inputs("score", {"dataset": "web", "rater": alias}) == ["shards/web"]


@pytest.mark.db
@pytest.mark.e2e
def test_scoring_and_selection_report_start_and_end_with_the_snapshot_between(
    trained_store: TrainedStore, events: Path
) -> None:
    rater = score(ScoreConfig(dataset="scenes")).rater
    publish_night(PublishNightConfig(dataset="scenes"))
    report = select(SelectConfig.model_validate({"dataset": "scenes", "name": "best", "policy": {"retention": 0.2}}))
    sent = read(events)
    assert [(one["job"]["name"], one["eventType"]) for one in sent] == [
        ("score", "START"), ("score", "COMPLETE"), ("select", "START"), ("snapshot", "COMPLETE"), ("select", "COMPLETE"),
    ]  # fmt: skip
    _, scored, started, frozen, ended = sent
    assert names(scored, "outputs") == [f"scores/{rater}"]
    assert names(frozen, "inputs") == ["shards/scenes", f"scores/{rater}"]
    assert names(frozen, "outputs") == names(ended, "inputs") == [f"snapshots/{report.eligible_hash}"]
    assert names(ended, "outputs") == [f"subsets/best v{report.version}"]
    assert started["run"]["runId"] == ended["run"]["runId"] == frozen["run"]["facets"]["parent"]["run"]["runId"]
    assert frozen["run"]["runId"] != ended["run"]["runId"]


@pytest.mark.db
def test_a_failed_run_reports_the_reason_and_no_output(database_url: str, events: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere") as raised:
        ingest(IngestConfig.model_validate({"dataset": "web", "root": str(tmp_path / "nowhere"), "role": "train"}))
    started, failed = read(events)
    assert [one["eventType"] for one in (started, failed)] == ["START", "FAIL"]
    assert started["run"]["runId"] == failed["run"]["runId"]
    assert names(failed, "inputs") == ["crawls/web"]
    assert failed["outputs"] == []
    assert str(raised.value) in failed["run"]["facets"]["errorMessage"]["message"]


def test_nothing_is_sent_unless_it_is_asked_for(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALCHEMIST_OPENLINEAGE")
    load_settings.cache_clear()
    lineage.send_start("score", 7, {"dataset": "web"})
    assert not events.exists()


def test_a_catalogue_that_is_away_stops_nothing(
    events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", "/proc/no/such/place")
    lineage.send_end("score", 7, {"dataset": "web"}, {"rater": "r1"})
    assert "Lineage was not sent" in capsys.readouterr().err


SILENTLY_WATCHED = """
import sys, time
sys.path.insert(0, "{folder}")
from test_execution import NumberConfig, NumberResult
from alchemist_core.stages.execution import execute
def work(run):
    time.sleep(1)
    return NumberResult(number=1)
execute("select", NumberConfig(number=1), work, NumberResult)
"""


@pytest.mark.db
def test_a_stage_outlives_a_catalogue_that_accepts_and_never_answers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: one that loses its lease ends itself."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("ALCHEMIST_OPENLINEAGE", "true")
        monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "2")
        transport = {
            "TYPE": "http",
            "URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "TIMEOUT": "5",
            "RETRY": '{"total": 0}',
        }
        for name, value in transport.items():
            monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
        code = SILENTLY_WATCHED.format(folder=Path(__file__).parent)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Lineage was not sent") == 2
    with engine.connect() as connection:
        row = connection.execute(text("SELECT state, work_seconds FROM alchemist.runs")).one()
    assert row.state == "succeeded"
    assert row.work_seconds < 5, "waiting for the catalogue is no work"


def test_without_the_extra_nothing_is_sent_and_the_extra_is_named(
    events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openlineage", None)
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    lineage.send_end("score", 7, {"dataset": "web"}, {"rater": "r1"})
    assert "pip install 'alchemist-platform[lineage]'" in capsys.readouterr().err
    assert not events.exists()


def test_a_report_that_lacks_what_a_catalogue_wants_stops_nothing(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lineage.send_end("select", 7, {"dataset": ["web"]}, {})
    assert "Lineage was not sent: KeyError" in capsys.readouterr().err


IN_AIRFLOW = {
    "AIRFLOW_CTX_DAG_ID": "nightly_rescore", "AIRFLOW_CTX_DAG_RUN_ID": "scheduled__1", "AIRFLOW_CTX_TASK_ID": "ingest",
    "AIRFLOW_CTX_TRY_NUMBER": "1",
}  # fmt: skip


def parent_of(run_id: int, step: lineage.Step) -> dict[str, Any]:
    from openlineage.client.serde import Serde

    found: dict[str, Any] = json.loads(Serde.to_json(lineage._event(run_id, step, "START", None)))["run"]["facets"]
    return found.get("parent", {})


def test_the_parent_of_a_run_is_the_task_of_airflow_and_the_root_its_dag_run(monkeypatch: pytest.MonkeyPatch) -> None:
    step = lineage.Step("ingest", [], [])
    assert parent_of(3, step) == {}
    for name, value in IN_AIRFLOW.items():
        monkeypatch.setenv(name, value)
    first = parent_of(3, step)
    assert first["job"] == {"namespace": "airflow", "name": "nightly_rescore.ingest", "facets": {}}
    assert first["root"]["job"]["name"] == "nightly_rescore"
    monkeypatch.setenv("AIRFLOW_CTX_TRY_NUMBER", "2")
    again = parent_of(3, step)
    assert again["run"]["runId"] != first["run"]["runId"]
    assert again["root"] == first["root"]
    # The two jobs of a selection are parts of the stage, under the same root.
    part = parent_of(3, lineage.Step("snapshot", [], [], parent="select"))
    assert (part["job"]["name"], part["root"]) == ("select", first["root"])


def test_the_ids_of_airflows_own_events_are_used_where_it_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in IN_AIRFLOW.items():
        monkeypatch.setenv(name, value)
    task, run = ("0190a1b2-0000-7000-8000-00000000000" + digit for digit in "12")
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"prod/nightly_rescore.ingest/{task}")
    monkeypatch.setenv("OPENLINEAGE_ROOT_PARENT_ID", f"prod/nightly_rescore/{run}")
    parent = parent_of(3, lineage.Step("ingest", [], []))
    assert (parent["run"]["runId"], parent["job"]["namespace"]) == (task, "prod")
    assert parent["root"]["run"]["runId"] == run
