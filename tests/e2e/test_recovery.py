"""The real DAGs under the real scheduler; server, scheduler, DAG processor and job are killed: the tables end as in an undisturbed run."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from alchemist_core.local import stack
from alchemist_core.local.processes import read_state
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine
from alchemist_core.store.postgres import start_postgres
from tests.device_jobs import AUDIT, OVERLAPS

from .calm import N_STEPS, NIGHTS, alchemist, run_first_days, run_second_night

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with a stack until the test ends; leases are short, so that a dead holder is detected soon; one job a device."""
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "5")
    monkeypatch.setenv("ALCHEMIST_JOBS_PER_DEVICE", "1")
    load_settings.cache_clear()
    tmp_path.chmod(0o755)
    yield tmp_path / "stack"
    stack.down(tmp_path / "stack")


def wait_for_run(engine: Engine, stage: str, state: str = "running") -> int:
    """Wait until a run of the stage is in this state and return its process."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            query = text("SELECT pid FROM alchemist.runs WHERE stage = :stage AND state = :state")
            if (pid := connection.execute(query, {"stage": stage, "state": state}).scalar()) is not None:
                return int(pid)
        time.sleep(0.1)
    raise AssertionError(f"no run of {stage} within two minutes")


def wait_for_night(engine: Engine) -> None:
    """Wait until the night's ingest has begun. It may end at once; then one of the next tasks is killed."""
    deadline = time.monotonic() + 120
    query = text("SELECT count(*) FROM alchemist.runs WHERE stage = 'ingest' AND config ->> 'dataset' = 'scenes'")
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if connection.execute(query).scalar_one():
                return
        time.sleep(0.1)
    raise AssertionError("the night did not begin within two minutes")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_nights_and_training_survive_the_death_of_server_scheduler_and_job(home: Path, corpus: Path) -> None:
    stack.up(home)
    server = start_postgres(home)
    calm_url = server.create_database("calm")
    run_first_days(calm_url, home.parent / "calm", corpus)
    run_second_night(calm_url, home.parent / "calm", corpus)
    alchemist(
        server.url(), home, "ingest", "--dataset", "v", "--root", str(corpus / "validation"), "--role", "validation"
    )
    engine, airflow = make_engine(server.url()), stack.client(home)
    with engine.begin() as connection:
        connection.execute(text(AUDIT))
    night = {"dataset": "scenes", "root": str(corpus / "train")}

    run_id = airflow.trigger("nightly_rescore", night, partition_key=NIGHTS[0])
    wait_for_night(engine)
    kill(int((server.data_dir / "postmaster.pid").read_text().split()[0]))
    airflow.wait("nightly_rescore", run_id, timeout_s=400, on_progress=print)

    run_id = airflow.trigger(
        "train_rater", {"preset": "tiny", "dataset": "scenes", "validation": "v", "max_train_steps": N_STEPS}
    )
    job = wait_for_run(engine, "train_rater")
    kill(read_state(home).children["scheduler"].pid)
    airflow.wait("train_rater", run_id, timeout_s=600, on_progress=print)
    with engine.connect() as connection:
        runs = connection.execute(text("SELECT pid, state FROM alchemist.runs WHERE stage = 'train_rater'")).all()
    assert [tuple(row) for row in runs] == [(job, "succeeded")], "the job lived on, and the retry found it"

    run_id = airflow.trigger("nightly_rescore", night, partition_key=NIGHTS[1])
    kill(read_state(home).children["dag-processor"].pid)
    kill(wait_for_run(engine, "score"))
    airflow.wait("nightly_rescore", run_id, timeout_s=400, on_progress=print)

    with engine.connect() as connection:
        held = "SELECT count(*) FROM public.holds WHERE resource LIKE 'device:%'"
        assert connection.execute(text(held)).scalar_one() >= 3, (
            "the first night's score, the training and what followed it"
        )
        assert connection.execute(text(OVERLAPS)).scalar_one() == 0, "no device had two holders at one time"
    engine.dispose()
    assert table_checksums(server.url()) == table_checksums(calm_url)
