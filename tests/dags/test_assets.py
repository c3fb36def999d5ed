"""What a task updates: assets with their partitions, and no others; tests/e2e/test_events.py lets DAGs of others follow them."""

import importlib
import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from alchemist_core.cli.forms import render_schedules
from alchemist_core.project import parse_project

from .test_policy import PLANNED, attribute, form, ours

NIGHTS = [
    {"dataset": "web+art", "crawl_date": "2026-01-01", "revision": 1, "rater": "r"},
    {"dataset": "web+art", "crawl_date": "2026-01-02", "revision": 1, "rater": "r"},
    {"dataset": "books", "crawl_date": "2026-01-02", "revision": 2, "rater": "r"},
]


def accessors():
    """Airflow's own collection of the events of a task."""
    return importlib.import_module("airflow.sdk.execution_time.context").OutletEventAccessors()


def sent(task, events):
    """The partitions and extra of each asset that Airflow would send an event for."""
    return {asset.name: (sorted(events[asset].partition_keys), events[asset].extra) for asset in task.outlets}


@pytest.fixture
def run_task(dags, tmp_path, monkeypatch):
    """run_task(dag, task, output): run a task whose command prints this, and return the events that it sends."""

    def run(dag_id, task_id, output):
        program = tmp_path / "alchemist"
        program.write_text(f"#!{sys.executable}\nprint({json.dumps(output)!r})\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        dag = dags[dag_id]
        task = dag.get_task(task_id).prepare_for_execution()
        about = {"partition_key": "2026-01-03", "run_type": "manual", "run_after": datetime(2026, 1, 4, tzinfo=UTC)}
        run = SimpleNamespace(conf={}, **about)
        needed = {"retention": 0.2} if dag_id == "build_subset" else {}
        context = {"params": form(dag, needed), "dag_run": run, "dag": dag, "ti": PLANNED, "outlet_events": accessors()}
        task.execute(context)
        return sent(task, context["outlet_events"])

    return run


@pytest.mark.parametrize(
    ("dag_id", "task_id"),
    [("nightly_rescore", "announce"), ("train_rater", "announce"), ("maintenance", "announce_nights")],
)
def test_each_night_that_became_selectable_is_a_partition_of_its_datasets_asset(run_task, dag_id, task_id):
    assert run_task(dag_id, task_id, {"nights": NIGHTS}) == {
        "alchemist://nights/web%2Bart": (["2026-01-01", "2026-01-02"], {"dataset": "web+art", "rater": "r"}),
        "alchemist://nights/books": (["2026-01-02"], {"dataset": "books", "rater": "r"}),
    }
    assert run_task(dag_id, task_id, {"nights": []}) == {}


def test_a_promoted_rater_is_named(run_task):
    assert run_task("train_rater", "promote", {}) == {"alchemist://raters": ([], {"rater": "crawl-loss-0a1b2c3d"})}


def test_a_published_version_is_named(run_task):
    assert run_task("build_subset", "publish", {}) == {"alchemist://subsets": ([], {"name": "best", "version": 3})}


def crawls(dags, *assets, partition="2026-01-02"):
    """The nights that a run of crawl_arrived starts, which updates of these assets started."""
    asset = importlib.import_module("airflow.sdk").Asset
    context = {
        "dag_run": SimpleNamespace(partition_key=partition),
        "triggering_asset_events": {asset(uri): [] for uri in assets},
    }
    return dags["crawl_arrived"].get_task("arrived").execute(context)


def test_a_crawl_starts_the_night_of_its_dataset_and_date(dags):
    crawled = ("alchemist://crawl/web%2Bart", "alchemist://crawl/books", "alchemist://raters")
    nights = crawls(dags, *crawled)
    assert nights == [{"dataset": name, "crawl_date": "2026-01-02"} for name in ("books", "web+art")]
    start = ours("assets").StartNight(task_id="start_nights", item=nights[1])
    with pytest.raises(importlib.import_module("airflow.sdk.exceptions").DagRunTriggerException) as started:
        start.execute({"ti": SimpleNamespace(map_index=1, run_id="asset_triggered__x")})
    run = started.value
    assert (run.trigger_dag_id, run.conf) == ("nightly_rescore", nights[1])
    assert (run.dag_run_id, run.skip_when_already_exists) == ("crawl_1__asset_triggered__x", True)
    assert nights[1].keys() <= dict(form(dags["nightly_rescore"], {})).keys()


@pytest.mark.parametrize("partition", [None, "", "web", "2026-13-01"])
def test_a_crawl_without_a_date_is_refused(dags, partition):
    with pytest.raises(ours("jobs").CommandFailed, match="not a date") as refused:
        crawls(dags, "alchemist://crawl/web", partition=partition)
    assert refused.value.exit_code == 2


def test_the_crawls_of_the_training_datasets_of_the_project_file_start_nights(dags, tmp_path, monkeypatch):
    text = '[datasets."web+art"]\n[datasets.books]\n[datasets.goal]\nrole = "validation"\n'
    generated = {}
    exec(render_schedules(parse_project(text, tmp_path / "alchemist.toml")), generated)
    assert generated["DATASETS"] == ["books", "web+art"]
    assets = ours("assets")
    assert assets.arrival_of_a_crawl() is None
    monkeypatch.setattr(assets, "DATASETS", generated["DATASETS"])
    timetable = assets.arrival_of_a_crawl()
    uris = {asset.uri for asset in timetable.asset_condition.objects}
    assert uris == {"alchemist://crawl/books", "alchemist://crawl/web%2Bart"}
    declared = assets.announce_nights("announce", None).outlets
    assert [asset.uri for asset in declared] == ["alchemist://nights/books", "alchemist://nights/web%2Bart"]


def test_the_graph_of_assets_shows_who_updates_what(dags):
    outlets = {
        (name, task.task_id): [asset.name for asset in attribute(task, "outlets") or ()]
        for name, dag in dags.items()
        for task in dag.tasks
        if attribute(task, "outlets")
    }
    assert outlets == {
        ("build_subset", "publish"): ["alchemist://subsets"],
        ("train_rater", "promote"): ["alchemist://raters"],
    }
