"""compose.yaml from nothing: two nights, training, a subset from S3 to S3 that a person approves, comparison; then down, up and kills."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.local.airflow_client import AirflowClient
from alchemist_core.telemetry import say

from .compose import ONE_OFF, PROJECT, SERVICES, Compose, container, get, get_json
from .stand_ins import podman

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]
TIMEOUT_S = 2400.0
NIGHTS = ("2026-01-01", "2026-01-02")
CORPUS = "/var/lib/alchemist/corpora/scenes"
PROJECT_FILE = f"""
[datasets.scenes]
root = "s3://crawls/train"
[datasets.v]
role = "validation"
root = "s3://crawls/validation"
[datasets.t]
role = "evaluation"
root = "s3://crawls/test"
[rater]
preset = "tiny"
dataset = "scenes"
validation = "v"
# The fewest hundreds with which a rater of these scenes passes its acceptance checks.
max_train_steps = 350
[selection]
dataset = ["scenes"]
[materialization]
to = "s3://subsets/training"
[downstream]
preset = "tiny"
arms = ["subset", "random", "oracle"]
seeds = [0, 1]
max_train_steps = 60
truth = "{CORPUS}/truth.parquet"
[evaluation]
dataset = "t"
[report]
dataset = "scenes"
"""
# Makes the buckets and copies the corpus into one of them; the credentials are those of the mounted file.
UPLOAD = f"""
import os, pathlib, boto3
s3 = boto3.client("s3", endpoint_url=os.environ["ALCHEMIST_S3_ENDPOINT_URL"])
for name in ("crawls", "subsets"):
    s3.create_bucket(Bucket=name)
paths = [path for path in pathlib.Path("{CORPUS}").rglob("*") if path.is_file()]
for path in paths:
    s3.upload_file(str(path), "crawls", str(path.relative_to("{CORPUS}")))
print(len(paths))
"""
LIST = """
import os, boto3
s3 = boto3.client("s3", endpoint_url=os.environ["ALCHEMIST_S3_ENDPOINT_URL"])
print("\\n".join(one["Key"] for one in s3.list_objects_v2(Bucket="subsets").get("Contents", [])))
"""
# The table that the demo ends with.
TABLE = """
from alchemist_core.cli.demo import read_arms
from alchemist_core.local.demo import comparison_table
print(comparison_table(read_arms({0, 1})))
"""
TABLES = ("samples", "scores", "raters", "subsets", "audit_events", "evaluations")
COUNTS = "SELECT " + ", ".join(f"(SELECT count(*) FROM alchemist.{table})" for table in TABLES)


@dataclass
class Life:
    """One installation and what was seen of it."""

    compose: Compose
    counts: list[list[str]] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)

    def run_dag(self, airflow: AirflowClient, dag_id: str, conf: dict[str, Any], **options: Any) -> None:
        began = time.monotonic()
        run_id = airflow.trigger(dag_id, conf, **options)
        airflow.wait(dag_id, run_id, timeout_s=TIMEOUT_S, on_progress=lambda line: say(f"    {line}"))
        say(f"{dag_id} {options or conf}: done in {time.monotonic() - began:.0f} s")


@pytest.fixture(scope="module")
def life(images: tuple[str, ...], services: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Start everything, run the main job, and stop everything at the end, with its volumes."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "alchemist.toml").write_text(PROJECT_FILE)
    compose = Compose(folder, folder / "alchemist.toml")
    with compose.served():
        try:
            compose.up()
            yield live(Life(compose))
        finally:
            compose("down", "--volumes")


def live(life: Life) -> Life:
    compose = life.compose
    life.seen["first start"] = compose.processes()
    say(life.seen["first start"])
    # Ann's password is typed, as a person would.
    compose.run(
        "airflow-api", "airflow", "users", "create", "--username", "ann", "--role", "User", "--firstname", "Ann", "--lastname", "Lee",
        "--email", "ann@example.com", stdin="correct horse\ncorrect horse\n",
    )  # fmt: skip
    admin, ann = (
        compose.client("admin", compose.password("airflow_admin_password")),
        compose.client("ann", "correct horse"),
    )
    scenes = ("--n-train", "1200", "--n-validation", "2000", "--n-test", "100", "--shard-size", "100", "--side", "32")
    compose.run("airflow-scheduler", "alchemist", "corpus", "scenes", "--out", CORPUS, *scenes)
    life.seen["uploaded"] = int(compose.run("airflow-scheduler", "python", "-", stdin=UPLOAD))
    for name in ("v", "t"):
        compose.run("airflow-scheduler", "alchemist", "ingest", "--dataset", name)
    for night in NIGHTS:
        life.run_dag(admin, "nightly_rescore", {"dataset": "scenes"}, partition_key=night)
    life.run_dag(admin, "train_rater", {"dataset": "scenes", "validation": "v"})
    subset = {"dataset": "scenes", "name": "best", "retention": 0.3, "materialize": True, "approve": True}
    run_id = ann.trigger("build_subset", subset)
    approve(ann, "build_subset", run_id)
    ann.wait("build_subset", run_id, timeout_s=TIMEOUT_S, on_progress=lambda line: say(f"    {line}"))
    wait_for_evaluation(admin)
    life.counts = compose.query(COUNTS)
    say(f"counts: {life.counts}")
    return life


def approve(person: AirflowClient, dag_id: str, run_id: str) -> None:
    """Answer the question of a run, as its page does."""
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve"
    deadline = time.monotonic() + TIMEOUT_S
    while person.call("GET", path)["state"] not in ("awaiting_input", "deferred"):
        assert time.monotonic() < deadline, "the question was never asked"
        time.sleep(2)
    # A person reads it first. Airflow takes an answer within the seconds in which its scheduler still notes the pause for a lost task, and
    # asks again.
    time.sleep(20)
    answer = {"chosen_options": ["Approve"], "params_input": {"comment": "looks good"}}
    person.call("PATCH", f"{path}/-1/hitlDetails", answer)


def wait_for_evaluation(airflow: AirflowClient) -> None:
    """Wait for the run that the published subset starts."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        runs = airflow.call("GET", "/api/v2/dags/evaluate_subset/dagRuns")["dag_runs"]
        if runs and runs[0]["state"] in ("success", "failed"):
            assert runs[0]["state"] == "success", runs[0]
            return
        time.sleep(5)
    raise AssertionError("the subset was not evaluated")


def test_the_subset_was_read_from_s3_and_written_to_s3(life: Life) -> None:
    keys = life.compose.run("airflow-scheduler", "python", "-", stdin=LIST).split()
    assert [key for key in keys if key.endswith(".tar")]
    assert all(key.startswith("training/best/v1-") for key in keys)
    ((root,),) = life.compose.query("SELECT root_uri FROM alchemist.datasets WHERE name = 'scenes'")
    assert root == "s3://crawls/train"


def test_the_comparison_has_a_value_for_every_arm_and_seed(life: Life) -> None:
    told = life.compose.run("airflow-scheduler", "python", "-", stdin=TABLE)
    say(told)
    assert [line.split()[1] for line in told.splitlines()[1:]] == ["random", "subset", "oracle"]
    rows = life.compose.query(
        "SELECT arm, n_seeds, mean FROM alchemist.subset_comparisons WHERE name = 'best' AND metric = 'heldout_loss'"
    )
    assert {arm: n_seeds for arm, n_seeds, _ in rows} == dict.fromkeys(("subset", "random", "oracle"), "2")
    assert all(float(mean) > 0 for _, _, mean in rows)


def test_the_approval_carries_the_name_of_the_person_who_gave_it(life: Life) -> None:
    rows = life.compose.query(
        "SELECT after FROM alchemist.audit_events WHERE action = 'publish' AND subject = 'subset best'"
    )
    ((published,),) = rows
    given = json.loads(published)
    assert (given["version"], given["comment"]) == (1, "looks good")
    assert "ann" in given["approved_by"].lower()


def test_no_environment_and_no_process_list_holds_a_secret(life: Life) -> None:
    values = {
        word
        for path in life.compose.secrets.iterdir()
        for word in re.findall(r"[0-9a-f]{20,}|[A-Za-z0-9_-]{43}=", path.read_text())
    }
    assert len(values) > 8
    for service in SERVICES:
        shown = [podman("inspect", container(service))]
        pids = podman("top", container(service), "hpid").split()[1:] if service not in ONE_OFF else []
        for pid in pids:
            # A process may have ended since it was listed.
            with contextlib.suppress(OSError):
                shown += [Path("/proc", pid, name).read_text(errors="replace") for name in ("environ", "cmdline")]
        assert not [value for value in values if any(value in text for text in shown)], service


def test_prometheus_scrapes_the_exporter(life: Life) -> None:
    found = get_json(f"{life.compose.url('prometheus')}/api/v1/query?query=up")["data"]["result"]
    assert [one["value"][1] for one in found] == ["1"]
    assert b"alchemist_" in get(f"{life.compose.url('exporter')}/metrics")


def test_nothing_is_lost_when_everything_is_stopped_and_started(life: Life) -> None:
    life.compose("down")
    assert podman("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}") == ""
    life.compose.up()
    assert life.compose.query(COUNTS) == life.counts
    admin = life.compose.client("admin", life.compose.password("airflow_admin_password"))
    assert admin.call("GET", "/api/v2/dags/nightly_rescore/dagRuns")["total_entries"] >= len(NIGHTS)
    keys = life.compose.run("airflow-scheduler", "python", "-", stdin=LIST).split()
    assert [key for key in keys if key.endswith(".tar")]


@pytest.mark.parametrize("service", [name for name in SERVICES if name not in ONE_OFF])
def test_a_killed_container_of_each_kind_is_restarted_and_works_again(life: Life, service: str) -> None:
    life.compose.kill(service)
    life.compose.wait_until_healthy()
    assert life.compose.query(COUNTS) == life.counts


def test_a_night_runs_again_after_all_that_and_changes_nothing(life: Life) -> None:
    admin = life.compose.client("admin", life.compose.password("airflow_admin_password"))
    life.run_dag(admin, "nightly_rescore", {"dataset": "scenes"}, partition_key=NIGHTS[1])
    assert life.compose.query(COUNTS) == life.counts
    say(life.compose.processes())
