"""Each DAG once through Airflow's own task runner, with a fake `alchemist` that records its arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import DAGS

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

STAND_IN = """#!/bin/sh
echo "$@" >> "$ALCHEMIST_HOME/commands"
env >> "$ALCHEMIST_HOME/environment"
case "$1" in
plan) echo "a library's warning" >&2; cat "$ALCHEMIST_HOME/plan.json";;
select) case "$*" in
    *broken*) exit 1;;
    *refused*) echo "error: no such dataset"; exit 2;;
    *--json*) echo '{"name": "best", "version": 7}';;
    esac;;
note) ;;
night) case "$*" in
    *announce*) echo '{"nights": [{"dataset": "web", "crawl_date": "2026-01-02", "revision": 1, "rater": "r"}]}';;
    *broken*) exit 1;;
    *) echo "done";;
    esac;;
*) case "$*" in *broken*) exit 1;; *refused*) echo "error: no such dataset"; exit 2;; esac; echo "done";;
esac
"""
SUBSET = {"dataset": "crawl", "retention": 0.2, "name": "best"}
TEMPLATE = '{{ "\\x27; touch $ALCHEMIST_HOME/OWNED; echo \\x27" }}{{ 7919 * 7907 }}'


def versions(*subsets):
    return [{"subset": name, "version": 3} for name in subsets]


NIGHTS = [{"dataset": name, "crawl_date": "2026-01-02"} for name in ("web", "broken", "books")]
PLAN = {"nights": NIGHTS, "work": [{**night, "slot": slot} for night in NIGHTS[::2] for slot in (0, 1)]}
SCENARIOS = {
    "two slots": {"dag": "nightly_rescore", "conf": {"crawl_date": "2026-01-02"}, "plan": PLAN},
    "rater": {
        "dag": "train_rater",
        "conf": {"dataset": "crawl", "validation": "wanted"},
        "plan": {
            "slots": [0],
            "is_approval_needed": False,
            "question": "?",
            "rater": "crawl-loss-1",
            "dataset": "crawl",
        },
    },
    "dry run": {"dag": "build_subset", "conf": {**SUBSET, "dry_run": True}},
    "view only": {"dag": "build_subset", "conf": SUBSET},
    "with tars": {"dag": "build_subset", "conf": {**SUBSET, "materialize": True}},
    "fails": {"dag": "build_subset", "conf": {**SUBSET, "name": "broken"}},
    "nothing waits": {"dag": "evaluate_subset", "conf": {}, "plan": {"versions": []}},
    "two wait": {"dag": "evaluate_subset", "conf": {}, "plan": {"versions": versions("a", "b")}},
    "one of two fails": {"dag": "evaluate_subset", "conf": {}, "plan": {"versions": versions("broken", "c")}},
    "refused": {"dag": "build_subset", "conf": {**SUBSET, "name": "refused"}},
    "template as a value": {"dag": "build_subset", "conf": {**SUBSET, "dataset": TEMPLATE}},
    "template as a key": {
        "dag": "train_rater",
        "conf": {"dataset": "crawl", "validation": "wanted", TEMPLATE: TEMPLATE},
    },
    "upkeep": {"dag": "maintenance", "conf": {}},
}


@pytest.fixture(scope="module")
def runs(home):
    """Each scenario's states, and all commands in their order."""
    (home / "bin").mkdir()
    (home / "bin" / "alchemist").write_text(STAND_IN)
    (home / "bin" / "alchemist").chmod(0o755)
    programs = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        "PATH": f"{home / 'bin'}:{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(DAGS.parent),
        "ALCHEMIST_HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS.parent),
    }
    subprocess.run([programs / "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    given = json.dumps(list(SCENARIOS.values()))
    program = [sys.executable, Path(__file__).with_name("run_dags.py")]
    done = subprocess.run(program, input=given, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    states = json.loads(done.stdout.strip().splitlines()[-1])
    return dict(zip(SCENARIOS, states, strict=True)), (home / "commands").read_text().splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder that the commands ran in."""
    return tmp_path_factory.mktemp("runs")


def test_a_night_is_scored_by_every_slot_of_every_dataset(runs):
    states, commands = runs
    assert states["two slots"]["tasks"]["score"] == ["success"] * 4
    for dataset in ("web", "books"):
        for slot in (0, 1):
            assert f"score --rater=nightly --dataset={dataset} --crawl-date=2026-01-02 --slot={slot}" in commands


def test_a_dataset_that_fails_stops_no_other_and_the_run_ends_red(runs):
    states, commands = runs
    tasks = states["two slots"]["tasks"]
    assert sorted(tasks["ingest"]) == ["failed", "success", "success"]
    assert sorted(tasks["publish"]) == ["failed", "success", "success"]
    assert {line.split()[2] for line in commands if line.startswith("night publish") and "--crawl-date" in line} == {
        "--dataset=web",
        "--dataset=books",
    }
    assert tasks["summary"] == ["failed"]
    assert states["two slots"]["state"] == "failed"
    assert "night list --nights=web:2026-01-02,broken:2026-01-02,books:2026-01-02" in commands


def test_a_warning_of_a_library_does_not_spoil_the_plan(runs):
    states, _ = runs
    assert states["two slots"]["tasks"]["plan"] == ["success"]


def test_a_new_rater_is_certified_and_scores_the_pool_before_it_is_promoted(runs):
    states, commands = runs
    assert states["rater"]["state"] == "success"
    certified, scored, promoted = (
        commands.index("rater certify -- crawl-loss-1"),
        commands.index("score --slot=0 --rater=crawl-loss-1 --dataset=crawl"),
        commands.index("rater promote --approval=train_rater.approve -- crawl-loss-1"),
    )
    assert certified < scored < promoted


def test_the_first_rater_is_promoted_without_a_question(runs):
    states, _ = runs
    assert states["rater"]["tasks"]["approve"] == ["skipped"]
    assert states["rater"]["tasks"]["promote"] == ["success"]


def test_a_failed_task_is_noted_with_its_reason_after_its_last_try(runs):
    _, commands = runs
    notes = [line for line in commands if line.startswith("note failure")]
    assert sum("--subject=build_subset.preview" in line and "exit code 1" in line for line in notes) == 1


def test_every_task_of_the_upkeep_runs(runs):
    states, commands = runs
    assert states["upkeep"]["state"] == "success"
    assert {"maintain leases", "maintain takedowns", "subset gc --no-dry-run", "maintain airflow"} <= set(commands)


def test_a_dry_run_succeeds_after_its_preview(runs):
    states, _ = runs
    tasks = states["dry run"]["tasks"]
    assert states["dry run"]["state"] == "success"
    assert [name for name, found in tasks.items() if found == ["success"]] == ["preview"]


def test_a_subset_is_published_without_tars_unless_they_are_asked_for(runs):
    states, _ = runs
    assert states["view only"]["tasks"]["materialize"] == ["skipped"]
    assert states["view only"]["tasks"]["approve"] == ["skipped"]
    assert states["view only"]["tasks"]["publish"] == ["success"]
    assert states["with tars"]["tasks"]["materialize"] == ["success"]
    assert states["with tars"]["tasks"]["publish"] == ["success"]


def test_a_failed_preview_publishes_nothing(runs):
    states, _ = runs
    assert states["fails"]["state"] == "failed"
    assert states["fails"]["tasks"]["publish"] == ["upstream_failed"]


def test_with_no_subset_waiting_the_report_is_still_made(runs):
    states, _ = runs
    assert states["nothing waits"]["state"] == "success"
    assert states["nothing waits"]["tasks"]["report"] == ["success"]


def test_every_waiting_subset_is_trained_on_and_evaluated(runs):
    states, commands = runs
    assert states["two wait"]["state"] == "success"
    assert {f"evaluate --version=3 -- {name}" for name in "ab"} <= set(commands)
    assert {f"check --suite=evaluation --subset={name} --version=3" for name in "ab"} <= set(commands)


def test_a_subset_that_fails_stops_no_other_and_the_run_ends_red(runs):
    states, commands = runs
    tasks = states["one of two fails"]["tasks"]
    for name in ("train_downstream", "evaluate", "check_evaluation"):
        assert sorted(tasks[name]) == ["failed", "success"]
    assert "evaluate --version=3 -- c" in commands
    assert "evaluate --version=3 -- broken" not in commands
    assert states["one of two fails"]["state"] == "failed"


def test_a_template_in_a_value_reaches_the_command_as_it_was_typed_and_runs_nowhere(runs, home):
    _, commands = runs
    assert any(f"--dataset={TEMPLATE}" in line for line in commands)
    assert not any("62615533" in line for line in commands)
    assert not [path for path in home.rglob("*") if "OWNED" in path.name]


def test_a_key_that_is_not_in_the_form_fails_the_run_before_any_command(runs):
    states, commands = runs
    assert states["template as a key"]["state"] == "failed"
    assert states["template as a key"]["tasks"]["train_rater"] == ["failed"]
    assert any("note failure" in line and "Unknown key" in line for line in commands)


def test_a_refused_command_fails_its_task_and_runs_nothing_after_it(runs):
    states, commands = runs
    assert states["refused"]["tasks"]["preview"] == ["failed"]
    assert [line.split()[0] for line in commands if "refused" in line and not line.startswith("note")] == ["select"]


def test_no_command_sees_what_belongs_to_airflow(runs, home):
    seen = {line.partition("=")[0] for line in (home / "environment").read_text().splitlines()}
    assert "ALCHEMIST_HOME" in seen
    assert not [name for name in seen if name.startswith("AIRFLOW__")]
