"""A night on several machines with CeleryExecutor and a real Redis: one machine dies in the middle, a third one joins.

Each machine is a namespace of processes with a host name of its own: ending it ends its worker and the jobs of its tasks at once.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.local.airflow_client import AirflowClient
from alchemist_core.local.airflow_environment import build_environment
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine, migrate
from alchemist_core.store.postgres import start_postgres, stop_postgres

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: each machine is a namespace of processes"),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="no Redis: apt-get install redis-server"),
]
N_SAMPLES, SHARD_SIZE = 24_576, 256
N_SHARDS = N_SAMPLES // SHARD_SIZE
# Three machines have a slot of the pool each; the fourth task of the night waits for one of them.
N_TASKS, N_MACHINES = 4, 3
NIGHT = "2026-01-01"
WAIT_S = 600.0
PROGRAMS = Path(sys.executable).parent
PROJECT = """
[datasets.scenes]
root = "{corpus}/train"
[schedule]
nightly = "none"
maintenance = "none"
evaluate = "none"
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Cluster:
    """Redis, Airflow's servers and any number of worker machines, which share a store and a home."""

    home: Path
    store_url: str
    environment: dict[str, str]
    client: AirflowClient
    machines: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a machine that runs one command. Ending the first process of its namespace ends all of them."""
        script = 'hostname "$0"; exec "$@"'
        line = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script, name]
        own = self.home / "machines" / name
        own.mkdir(parents=True, exist_ok=True)
        with (self.home / f"{name}.log").open("ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            environment = self.environment | {"AIRFLOW_HOME": str(own)}
            self.machines[name] = subprocess.Popen(
                [*line, *command], env=environment, start_new_session=True, **options
            )

    def start_worker(self, name: str, queues: str = "light,device") -> None:
        self.start(
            name,
            str(PROGRAMS / "airflow"),
            "celery",
            "worker",
            "--queues",
            queues,
            "--concurrency",
            "1",
            "--skip-serve-logs",
        )

    def kill(self, name: str) -> None:
        """End a machine as a power cut does."""
        machine = self.machines.pop(name)
        machine.send_signal(signal.SIGKILL)
        machine.wait()

    def query(self, sql: str) -> list[Any]:
        engine = make_engine(self.store_url)
        with engine.connect() as connection:
            rows = connection.execute(text(sql)).all()
        engine.dispose()
        return list(rows)

    def run(self, *words: str, url: str | None = None, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command of Alchemist beside the cluster, by default on its store; return its output."""
        environment = self.environment | ({"ALCHEMIST_DATABASE_URL": url} if url else {})
        done = subprocess.run(
            [PROGRAMS / "alchemist", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in codes, f"{words}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        return done.stdout

    def wait_for(self, what: str, is_so: Callable[[], object], timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            ended = [name for name, machine in self.machines.items() if machine.poll() is not None]
            assert not ended, f"{ended} ended: {(self.home / f'{ended[0]}.log').read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
            time.sleep(0.5)

    def workers(self) -> dict[str, str]:
        """What `alchemist doctor` says of the workers: the state of each finding, by its text."""
        findings = json.loads(self.run("doctor", "--json", "--parts", "executor", codes=(0, 5)))["findings"]
        return {one["what"]: one["state"] for one in findings}

    def hosts(self) -> dict[str, int]:
        """The shards that each machine has scored."""
        rows = self.query(
            "SELECT host, count(*) AS n FROM alchemist.shard_scores INNER JOIN alchemist.runs USING (run_id) GROUP BY host"
        )
        return {row.host: row.n for row in rows}


@dataclass
class Night:
    """What was seen of the night on the cluster, and a copy of the store from before it."""

    cluster: Cluster
    copy_url: str
    state: str
    without_workers: dict[str, str]
    with_workers: dict[str, str]
    killed_at: int
    seconds: float


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Servers without a worker, and a store with an ingested night and a rater in production."""
    folder = tmp_path_factory.mktemp("celery")
    folder.chmod(0o755)
    corpus, home = folder / "scenes", folder / "home"
    draw_scenes(corpus, n_train=N_SAMPLES, n_nights=1, n_validation=200, n_test=1, shard_size=SHARD_SIZE, side=16)
    (folder / "alchemist.toml").write_text(PROJECT.format(corpus=corpus))
    postgres = start_postgres(home)
    made = Cluster(home, postgres.url(role="writer"), {}, AirflowClient("", "", "", home))
    try:
        migrate(postgres.url())
        make_environment(made, postgres.create_database("airflow", role="airflow"), folder)
        prepare_store(made, corpus)
        start_servers(made)
        yield made
    finally:
        for name in list(made.machines):
            made.kill(name)
        stop_postgres(home)


def make_environment(cluster: Cluster, metadata_url: str, folder: Path) -> None:
    """Set the variables that CELERY.md lists, as the same on all machines."""
    airflow, redis = free_port(), free_port()
    broker = f"redis://127.0.0.1:{redis}/0"
    ours = build_environment(cluster.home, port=airflow, metadata_url=metadata_url, store_url=cluster.store_url)
    (folder / "dags").mkdir()
    cluster.environment |= ours | {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{ours['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN']}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"), "AIRFLOW__CORE__PARALLELISM": "16",
        "ALCHEMIST_PROJECT": str(folder / "alchemist.toml"), "ALCHEMIST_SCORE_SLOTS": str(N_TASKS),
        "ALCHEMIST_LEASE_TTL_S": "10", "ALCHEMIST_DECODE_WORKERS": "0", "OMP_NUM_THREADS": "1",
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "302400", "C_FORCE_ROOT": "1",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(cluster.home / "airflow" / "logs"),
    }  # fmt: skip
    cluster.client = AirflowClient.of(cluster.home, airflow)
    cluster.run("dags", "install", "--to", str(folder / "dags"))
    cluster.start("redis", "redis-server", "--port", str(redis), "--save", "", "--appendonly", "no")


def prepare_store(cluster: Cluster, corpus: Path) -> None:
    cluster.run("ingest", "--dataset", "v", "--root", str(corpus / "validation"), "--role", "validation")
    cluster.run("ingest", "--dataset", "scenes", "--crawl-date", NIGHT)
    few = ("--max-samples", "256", "--max-train-steps", "4", "--proxy-warmup-steps", "4", "--batch-size", "32")
    cluster.run("train-rater", "--preset", "tiny", "--dataset", "scenes", "--validation", "v", *few)
    cluster.run("rater", "certify", "newest", "--max-samples", "64", codes=(0, 5))
    cluster.run("rater", "promote", "newest", "--without-acceptance", "four steps, for a test")


def start_servers(cluster: Cluster) -> None:
    airflow = str(PROGRAMS / "airflow")
    subprocess.run([airflow, "db", "migrate"], env=cluster.environment, check=True, capture_output=True)
    cluster.start("api", airflow, "api-server", "--host", "127.0.0.1")
    cluster.start("scheduler", airflow, "scheduler", "--skip-serve-logs")
    cluster.start("dag-processor", airflow, "dag-processor")
    parts = ("metadatabase", "scheduler", "dag_processor")
    cluster.wait_for("Airflow", lambda: {cluster.client.health().get(name) for name in parts} == {"healthy"})
    cluster.client.ensure_pool("gpu", n_slots=N_MACHINES, description="One slot per scorer")


@pytest.fixture(scope="module")
def night(cluster: Cluster) -> Night:
    """Two machines score the night; one of them dies when a tenth is scored, and a third one joins."""
    without_workers = cluster.workers()
    copy_url = copy_store(cluster)
    for name in ("worker-a", "worker-b"):
        cluster.start_worker(name)
    cluster.wait_for("two workers", lambda: TWO_WORKERS.items() <= cluster.workers().items())
    began = time.monotonic()
    run_id = cluster.client.trigger("nightly_rescore", {"dataset": "scenes", "crawl_date": NIGHT})
    cluster.wait_for(
        "a tenth, by both", lambda: len(cluster.hosts()) == 2 and sum(cluster.hosts().values()) >= N_SHARDS // 10
    )
    killed_at = sum(cluster.hosts().values())
    cluster.kill("worker-b")
    cluster.start_worker("worker-c")
    path = f"/api/v2/dags/nightly_rescore/dagRuns/{run_id}"
    cluster.wait_for("the night", lambda: cluster.client.call("GET", path)["state"] in ("success", "failed"))
    seconds = time.monotonic() - began
    state = str(cluster.client.call("GET", path)["state"])
    return Night(cluster, copy_url, state, without_workers, cluster.workers(), killed_at, seconds)


TWO_WORKERS = {f"Queue {queue}: celery@worker-a, celery@worker-b.": "ok" for queue in ("light", "device")}


def copy_store(cluster: Cluster) -> str:
    """Copy the store before the night, so that one process alone can score the same night."""
    postgres = start_postgres(cluster.home)
    postgres.run_sql("CREATE DATABASE alone TEMPLATE alchemist OWNER alchemist")
    return postgres.url("alone", role="writer")


def test_the_night_ends_well_without_anybody_doing_anything(night: Night) -> None:
    took = f"{N_SAMPLES:,} samples in {night.seconds:.0f} s"
    print(f"{took}; a machine died after {night.killed_at} of {N_SHARDS} shards; {night.cluster.hosts()}")
    assert night.state == "success"
    (row,) = night.cluster.query(
        "SELECT status, n_scored, n_quarantined FROM alchemist.nightly_overview WHERE dataset = 'scenes'"
    )
    assert (row.status, row.n_scored, row.n_quarantined) == ("selectable", N_SAMPLES, 0)


def test_every_machine_took_part_and_one_died_in_the_middle(night: Night) -> None:
    assert night.cluster.hosts().keys() == {"worker-a", "worker-b", "worker-c"}
    assert N_SHARDS // 10 <= night.killed_at < N_SHARDS // 2
    states = night.cluster.query(
        "SELECT DISTINCT state FROM alchemist.runs WHERE stage = 'score' AND host = 'worker-b'"
    )
    assert "succeeded" not in {row.state for row in states}


def test_each_sample_was_scored_exactly_once(night: Night) -> None:
    (row,) = night.cluster.query("SELECT count(*) AS n, count(DISTINCT sample_id) AS n_distinct FROM alchemist.scores")
    assert (row.n, row.n_distinct) == (N_SAMPLES, N_SAMPLES)
    (row,) = night.cluster.query("SELECT count(*) AS n, sum(n_scored) AS n_scored FROM alchemist.shard_scores")
    assert (row.n, row.n_scored) == (N_SHARDS, N_SAMPLES)


def test_the_store_is_that_of_one_process_alone(night: Night) -> None:
    run, which = night.cluster.run, ("--dataset", "scenes", "--crawl-date", NIGHT)
    run("duplicates", "find", url=night.copy_url)
    run("score", *which, "--rater", "nightly", url=night.copy_url)
    run("check", "--suite", "scores", *which, url=night.copy_url)
    run("night", "check-drift", *which, url=night.copy_url)
    run("night", "publish", *which, url=night.copy_url)
    alone, together = table_checksums(night.copy_url), table_checksums(night.cluster.store_url)
    print(f"checksum of the scores: {together['scores']}")
    assert {name for name in alone if alone[name] != together.get(name)} == set()
    assert alone.keys() == together.keys()


def test_the_doctor_names_a_queue_without_a_worker_and_the_workers_of_each(night: Night) -> None:
    assert night.without_workers == {
        f"No worker takes tasks of queue {queue}, so they never start.": "missing" for queue in ("light", "device")
    }
    assert night.with_workers == {
        f"Queue {queue}: celery@worker-a, celery@worker-c.": "ok" for queue in ("light", "device")
    }
