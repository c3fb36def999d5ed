"""DAGs of others follow Alchemist's assets and start it, under the real scheduler: who starts, and with which partition."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.dags import install_for_stack
from alchemist_core.local import stack
from alchemist_core.local.airflow_environment import stack_dags_folder
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings

from .calm import NIGHTS
from .published_client import TIMEOUT_S, Airflow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

# A crawler, which decides when it runs which date it has crawled, and a follower of each asset: two whom Alchemist does not know.
DAGS_OF_OTHERS = """
import json, os
from airflow.sdk import Asset, PartitionedAssetTimetable, PartitionedAtRuntime, dag, task


@dag(schedule=PartitionedAtRuntime(), params={"day": ""})
def crawler():
    @task(outlets=[Asset("alchemist://crawl/web%2Bart")])
    def crawl(params=None, outlet_events=None):
        outlet_events[Asset("alchemist://crawl/web%2Bart")].add_partitions(params["day"])

    crawl()


def follower(name, schedule):
    @dag(dag_id=name, schedule=schedule)
    def follows():
        @task
        def note(dag_run=None, triggering_asset_events=None):
            extra = [event.extra for events in triggering_asset_events.values() for event in events]
            with open(os.path.join(os.environ["ALCHEMIST_HOME"], "followed.jsonl"), "a") as file:
                file.write(json.dumps({"dag": name, "partition": dag_run.partition_key, "extra": extra}) + "\\n")

        note()

    return follows()


follower("follows_nights", PartitionedAssetTimetable(assets=Asset("alchemist://nights/web%2Bart")))
follower("follows_raters", [Asset("alchemist://raters")])
follower("follows_subsets", [Asset("alchemist://subsets")])
crawler()
"""
PROJECT = """
[datasets."web+art"]
root = "{corpus}/train"
[schedule]
nightly = "none"
maintenance = "none"
evaluate = "none"
[rater]
proxy_warmup_steps = 20
[acceptance]
min_plain_auc = 0
min_chaotic_auc = 0
min_caption_auc = 0
max_effective_ratio = 1
max_entropy_ratio = 1
max_loss_correlation = 1
min_rank_stability = 0
"""
FEW_STEPS = {"preset": "tiny", "dataset": "web+art", "validation": "v", "max_train_steps": 20, "batch_size": 32}

Followed = Callable[[str, int], list[dict[str, Any]]]


def use(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the settings be those of the stack in this folder."""
    patch.setenv("ALCHEMIST_HOME", str(folder / "home"))
    patch.setenv("ALCHEMIST_PROJECT", str(folder / "alchemist.toml"))
    load_settings.cache_clear()
    load_project.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def airflow(folder: Path) -> Iterator[Airflow]:
    """A stack with the DAGs of others beside ours, and an ingested night."""
    corpus, home = folder / "scenes", folder / "home"
    draw_scenes(corpus, n_train=400, n_validation=200, n_test=1, shard_size=100, side=32)
    (folder / "alchemist.toml").write_text(PROJECT.format(corpus=corpus))
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        assert main(["ingest", "--dataset", "v", "--root", str(corpus / "validation"), "--role", "validation"]) == 0
        assert main(["ingest", "--dataset", "web+art", "--crawl-date", NIGHTS[0]]) == 0
        install_for_stack(home)
        (stack_dags_folder(home) / "others.py").write_text(DAGS_OF_OTHERS)
        try:
            stack.up(home)
            yield Airflow(home)
        finally:
            stack.down(home)
    load_settings.cache_clear()
    load_project.cache_clear()


@pytest.fixture(autouse=True)
def _settings_of_the_stack(airflow: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(folder, monkeypatch)


@pytest.fixture
def followed(folder: Path) -> Followed:
    """followed(dag, n): wait until a follower was started n times, and return what started it."""
    path = folder / "home" / "followed.jsonl"

    def read(dag: str) -> list[dict[str, Any]]:
        lines = path.read_text().splitlines() if path.exists() else []
        return [found for line in lines if (found := json.loads(line))["dag"] == dag]

    def wait(dag: str, n_runs: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + TIMEOUT_S
        while len(read(dag)) < n_runs and time.monotonic() < deadline:
            time.sleep(1)
        return read(dag)

    return wait


def test_a_promoted_rater_and_the_nights_that_it_scored_start_their_followers(
    airflow: Airflow, followed: Followed
) -> None:
    assert airflow.run("train_rater", FEW_STEPS) == "success"
    (run,) = followed("follows_raters", 1)
    (extra,) = run["extra"]
    rater = extra["rater"]
    assert rater.startswith("web+art-")
    (night,) = followed("follows_nights", 1)
    assert night == {
        "dag": "follows_nights", "partition": NIGHTS[0], "extra": [{"dataset": "web+art", "rater": rater}],
    }  # fmt: skip


def test_a_crawl_starts_the_night_of_its_dataset_and_date_and_that_its_follower(
    airflow: Airflow, followed: Followed
) -> None:
    assert airflow.run("crawler", {"day": NIGHTS[1]}) == "success"
    *_, night = followed("follows_nights", 2)
    assert (night["partition"], night["extra"][0]["dataset"]) == (NIGHTS[1], "web+art")
    (run,) = airflow.runs.get_dag_runs("nightly_rescore").dag_runs
    assert run.conf == {"dataset": "web+art", "crawl_date": NIGHTS[1]}
    assert airflow.wait("nightly_rescore", run.dag_run_id) == "success"
    # The night is announced once: another run of the same night starts no other DAG.
    assert airflow.run("nightly_rescore", run.conf) == "success"
    assert len(followed("follows_nights", 2)) == 2


def test_a_published_subset_starts_its_follower_with_name_and_version(airflow: Airflow, followed: Followed) -> None:
    form = {"dataset": "web+art", "retention": 0.5, "name": "half"}
    assert airflow.run("build_subset", form) == "success"
    (run,) = followed("follows_subsets", 1)
    assert (run["partition"], run["extra"]) == (None, [{"name": "half", "version": 1}])


def test_the_doctor_finds_nothing_missing_on_a_stack_that_runs(
    airflow: Airflow, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert [one for one in findings if one["state"] == "missing"] == []
    assert code == 0
    assert {"store", "airflow", "pool", "dags", "executor", "metrics"} <= {
        one["part"] for one in findings if one["state"] == "ok"
    }


def test_dashboards_made_for_airflow_find_their_metrics(airflow: Airflow) -> None:
    """Names of the Airflow chart's mapping and of Grafana's dashboards for Airflow, from a scheduler that has run DAGs."""
    import urllib.request

    from alchemist_core.local.processes import read_state

    pytest.importorskip("statsd")
    port = read_state(load_settings().home.resolve()).ports.metrics  # type: ignore[union-attr]  # the stack runs
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        names = {line.partition("{")[0].partition(" ")[0] for line in page.read().decode().splitlines()}
    assert {
        "airflow_scheduler_heartbeat", "airflow_executor_open_slots", "airflow_executor_running_tasks",
        "airflow_pool_open_slots", "airflow_dag_processing_import_errors", "airflow_dagrun_duration_success_sum",
        "airflow_dagrun_duration_success_count", "airflow_dagrun_duration_sum", "airflow_task_finish_total",
        "airflow_dag_task_duration_sum", "airflow_task_duration_count",
    } <= names  # fmt: skip
