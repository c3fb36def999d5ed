"""Every DAG succeeds under the real scheduler, driven over REST by Airflow's published client."""

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from sqlalchemy import text

from alchemist_core.local import stack
from alchemist_core.local.processes import read_state
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.local.supervisor import is_installed
from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine
from alchemist_core.store.postgres import start_postgres
from tests.receiver import Receiver, receiving

from .browser import DESKTOP, PHONE, Browser, find_chromium, needs_chromium
from .calm import N_STEPS, NIGHTS
from .published_client import TIMEOUT_S, Airflow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

EMPTY_NIGHT = "2026-01-03"
COMMENT = "looks good; {{ 7 * 7 }} $(id)"
PICTURES = Path(".alchemist/screenshots")


@dataclass
class Life:
    """What was done, and how each run ended."""

    home: Path
    receiver: Receiver
    states: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    changed_by_backfill: bool = True
    evaluations_started_by: set[str] = field(default_factory=set)
    asked_at: datetime | None = None
    texts: dict[str, str] = field(default_factory=dict)
    shown: dict[str, bool] = field(default_factory=dict)

    def query(self, sql: str) -> list[Any]:
        engine = make_engine(start_postgres(self.home).url())
        with engine.connect() as connection:
            rows = connection.execute(text(sql)).all()
        engine.dispose()
        return list(rows)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A platform's first days on a small synthetic corpus."""
    folder = tmp_path_factory.mktemp("life")
    folder.chmod(0o755)
    corpus, home = folder / "scenes", folder / "home"
    draw_scenes(corpus, n_train=1200, n_validation=2000, n_test=40, shard_size=60, side=32)
    with receiving() as receiver, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALCHEMIST_HOME", str(home))
        patch.setenv("ALCHEMIST_NOTIFY_URL", receiver.url)
        (folder / "alchemist.toml").write_text('[downstream]\npreset = "tiny"\nseeds = [0, 1, 2]\n')
        patch.setenv("ALCHEMIST_PROJECT", str(folder / "alchemist.toml"))
        load_settings.cache_clear()
        for name, part, role in (("v", "validation", "validation"), ("t", "test", "evaluation")):
            ingest(IngestConfig.model_validate({"dataset": name, "root": str(corpus / part), "role": role}))
        try:
            stack.up(home)
            yield live(Life(home, receiver), Airflow(home), corpus, folder)
        finally:
            stack.down(home)
    load_settings.cache_clear()


def live(life: Life, airflow: Airflow, corpus: Path, folder: Path) -> Life:
    night = {"dataset": "scenes", "root": str(corpus / "train")}
    life.states["a night with no rater"] = airflow.run("nightly_rescore", night, partition_key=NIGHTS[0])
    life.states["the first rater"] = airflow.run(
        "train_rater", {"preset": "tiny", "dataset": "scenes", "validation": "v", "max_train_steps": N_STEPS}
    )
    life.states["a night"] = airflow.run("nightly_rescore", night, partition_key=NIGHTS[1])
    life.states["an empty night, without a logical date"] = airflow.run(
        "nightly_rescore", {**night, "crawl_date": EMPTY_NIGHT}
    )
    life.states["a backfill"], life.changed_by_backfill = backfill(life, airflow, night)
    life.refused = refusal(airflow, {"dataset": "scenes", "retention": 1.5})
    both = [airflow.trigger("build_subset", {"dataset": "scenes", "retention": retention}) for retention in (0.2, 0.5)]
    for run_id in both:
        life.states[f"subset {run_id}"] = airflow.wait("build_subset", run_id)
    asked = airflow.trigger("build_subset", {"dataset": "scenes", "retention": 0.3, "name": "asked", "approve": True})
    airflow.wait_for_task("build_subset", asked, "approve", "awaiting_input")
    life.asked_at = airflow.tasks.get_task_instance("build_subset", asked, "approve").start_date
    if find_chromium():
        look(life, airflow, folder, asked)
    # No person answers before the process that asked has ended; on a busy machine Airflow would end the task and ask again.
    time.sleep(10)
    answer = airflow.client.UpdateHITLDetailPayload(chosen_options=["Approve"], params_input={"comment": COMMENT})
    airflow.tasks.update_hitl_detail("build_subset", asked, "approve", -1, answer)
    life.states["a subset that a person approved"] = airflow.wait("build_subset", asked)
    life.states["evaluation"] = wait_for_evaluations(life, airflow)
    life.states["maintenance"] = airflow.run("maintenance", {})
    return life


def backfill(life: Life, airflow: Airflow, conf: dict[str, Any]) -> tuple[str, bool]:
    """Run both nights again by a backfill; return its state, and whether it changed any row of data."""
    url = start_postgres(life.home).url()
    before = table_checksums(url)
    first, last = (datetime.fromisoformat(f"{night}T00:00:00+00:00") for night in NIGHTS)
    body = airflow.client.BackfillPostBody(
        dag_id="nightly_rescore", from_date=first, to_date=last + timedelta(days=1), max_active_runs=1, dag_run_conf=conf,
        reprocess_behavior="completed",
    )  # fmt: skip
    started = airflow.client.BackfillApi(airflow.api).create_backfill(body)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        runs = airflow.runs.get_dag_runs("nightly_rescore", run_type=["backfill"]).dag_runs
        states = [run.state.value for run in runs]
        if len(states) >= len(NIGHTS) and set(states) <= {"success", "failed"}:
            return ("success" if set(states) == {"success"} else str(states)), table_checksums(url) != before
        time.sleep(1)
    return f"too slow: backfill {started.id}", True


def refusal(airflow: Airflow, conf: dict[str, Any]) -> int:
    try:
        airflow.trigger("build_subset", conf)
    except airflow.client.ApiException as refused:
        return int(refused.status)
    return 0


def wait_for_evaluations(life: Life, airflow: Airflow) -> str:
    """Asset events start the DAG. It has finished when no run is left and every subset has a value."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        runs = airflow.runs.get_dag_runs("evaluate_subset").dag_runs
        states = [run.state.value for run in runs]
        life.evaluations_started_by = {run.run_type.value for run in runs}
        if states and not set(states) & {"queued", "running"} and len(evaluated(life)) == 3:
            return "success" if set(states) == {"success"} else str(states)
        if "failed" in states:
            return "failed"
        time.sleep(2)
    return "too slow"


def evaluated(life: Life) -> set[str]:
    rows = life.query(
        "SELECT DISTINCT subsets.name FROM alchemist.evaluations INNER JOIN alchemist.models USING (model_id) "
        "INNER JOIN alchemist.subsets USING (subset_id)"
    )
    return {row.name for row in rows}


def look(life: Life, airflow: Airflow, folder: Path, run_id: str) -> None:
    """Take screenshots of the form and the question for a person to look at; the texts are checked below."""
    pages = {
        "form": (f"{airflow.url}/dags/build_subset", "Trigger", "Fraction of the eligible samples"),
        "approval": (
            f"{airflow.url}/dags/build_subset/runs/{run_id}/tasks/approve/required_actions",
            "Publish subset",
            None,
        ),
    }
    with Browser(folder / "chromium") as browser:
        browser.log_in(airflow.url, airflow.token)
        for name, (url, words, after_click) in pages.items():
            try:
                life.texts[name] = browser.open(url, until=words)
                if after_click:
                    life.texts[name] = browser.click("Trigger", until=after_click)
            finally:
                for size, (width, height) in {"desktop": DESKTOP, "phone": PHONE}.items():
                    browser.resize(width, height)
                    browser.picture(PICTURES / f"{name}-{size}.png")
                    life.shown[f"{name}-{size}"] = browser.shows({"form": "Retention", "approval": "Approve"}[name])
                browser.resize(*DESKTOP)


def test_every_dag_runs_to_success(life: Life) -> None:
    assert {name: state for name, state in life.states.items() if state != "success"} == {}


def test_a_backfill_of_nights_that_are_done_doubles_no_work(life: Life) -> None:
    assert not life.changed_by_backfill


def test_a_value_out_of_bounds_is_refused(life: Life) -> None:
    assert life.refused == 400


def test_a_night_with_no_rater_scores_nothing_and_both_nights_end_selectable(life: Life) -> None:
    rows = life.query("SELECT crawl_date, status FROM alchemist.nightly_overview WHERE dataset = 'scenes' ORDER BY 1")
    status = {row.crawl_date.isoformat(): row.status for row in rows}
    asked = {NIGHTS[0]: "selectable", NIGHTS[1]: "selectable", EMPTY_NIGHT: "empty"}
    assert {night: status.pop(night, None) for night in asked} == asked
    # Airflow counts a backfill as the schedule's last run, and then runs yesterday's night, which has no data.
    assert set(status.values()) <= {"empty"}
    assert len(status) <= 1


def test_subsets_that_were_published_at_once_are_all_evaluated_with_their_controls(life: Life) -> None:
    assert len(evaluated(life)) == 3
    rows = life.query(
        "SELECT subset_id, count(DISTINCT arm) AS n_arms FROM alchemist.models INNER JOIN alchemist.evaluations USING (model_id) GROUP BY 1"
    )
    assert {row.n_arms for row in rows} == {2}


def test_subsets_published_in_a_row_are_compared_by_the_scheduler_alone(life: Life) -> None:
    assert life.evaluations_started_by == {"asset_triggered"}
    rows = life.query(
        "SELECT name, n_seeds, mean, gain, gain_low, gain_high FROM alchemist.subset_comparisons "
        "WHERE arm = 'subset' AND metric = 'heldout_loss' ORDER BY name"
    )
    assert [(row.name, row.n_seeds) for row in rows] == [(name, 3) for name in sorted(evaluated(life))]
    assert all(row.mean > 0 and row.gain_low < row.gain < row.gain_high for row in rows)


def test_a_question_sends_a_notification(life: Life) -> None:
    (row,) = life.query("SELECT subject, after FROM alchemist.audit_events WHERE action = 'approval asked'")
    assert row.subject == "build_subset.approve"
    assert "Publish subset asked v1?" in row.after["reason"]
    assert "- Compared with the published version: no version is published" in row.after["reason"]


def test_a_question_reaches_a_receiver_with_the_link_of_its_page(life: Life) -> None:
    (at, post) = next(
        (at, post)
        for at, post in zip(life.receiver.arrived_at, life.receiver.posts, strict=True)
        if "Publish subset asked v1?" in post["message"]
    )
    _, look, *_ = (line for line in post["message"].splitlines() if not line.startswith(" "))
    # Airflow answers every path with its application; `look` opens this page in a browser.
    (asked,) = life.query("SELECT after ->> 'run' AS run FROM alchemist.audit_events WHERE action = 'approval asked'")
    assert unquote(look).endswith(f"/dags/build_subset/runs/{asked.run}/tasks/approve/required_actions")
    assert life.asked_at is not None
    print(f"the notification arrived {(at - life.asked_at).total_seconds():.1f} s after the task had started")


def test_who_approved_when_and_with_which_comment_is_kept_in_the_store(life: Life) -> None:
    (answered,) = life.query("SELECT after FROM alchemist.audit_events WHERE action = 'approval answered'")
    (published,) = life.query("SELECT after FROM alchemist.audit_events WHERE subject = 'subset asked'")
    assert (
        answered.after.items()
        >= {
            "answer": "Approve",
            "approved_by": "admin",
            "comment": COMMENT,
            "of": "asked v1",
        }.items()
    )
    assert published.after == {"version": 1, "approved_by": "admin", "comment": COMMENT}


def test_every_suite_of_checks_left_its_outcomes(life: Life) -> None:
    rows = life.query(
        "SELECT suite, bool_and(is_success OR severity = 'warn') AS is_well FROM alchemist.check_results GROUP BY suite"
    )
    assert {row.suite for row in rows} == {"shards", "samples", "scores", "subset", "evaluation"}
    assert all(row.is_well for row in rows)


@needs_chromium
def test_the_form_shows_titles_help_and_the_question_its_two_answers(life: Life) -> None:
    assert "Fraction of the eligible samples to keep" in life.texts["form"]
    assert {"Approve", "Reject"} <= set(life.texts["approval"].split())


@needs_chromium
def test_the_form_fits_a_phone_and_the_question_a_desktop(life: Life) -> None:
    # On a phone Airflow's grid pushes the question off the screen; the runbook names another way to answer.
    assert {name for name, is_shown in life.shown.items() if is_shown} >= {
        "form-desktop",
        "form-phone",
        "approval-desktop",
    }


def test_airflow_sends_the_exporter_the_outcome_of_its_runs(life: Life) -> None:
    pytest.importorskip("statsd")
    with urllib.request.urlopen(f"http://127.0.0.1:{read_state(life.home).ports.metrics}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    # Both are exported from 0 before Airflow sends anything.
    for series in (
        'alchemist_airflow_runs_total{dag="nightly_rescore",outcome="success"} ',
        "alchemist_airflow_heartbeats_total ",
    ):
        assert [float(line.removeprefix(series)) > 0 for line in lines if line.startswith(series)] == [True], series


def test_the_stack_brings_its_own_prometheus_where_it_is_installed(life: Life) -> None:
    if not is_installed():
        pytest.skip("no Prometheus: apt-get install prometheus")
    query = f"http://127.0.0.1:{read_state(life.home).ports.prometheus}/api/v1/query?query=alchemist_nights"
    with urllib.request.urlopen(query, timeout=30) as answer:
        series = json.load(answer)["data"]["result"]
    assert {one["metric"]["outcome"] for one in series} == {"selectable"}
