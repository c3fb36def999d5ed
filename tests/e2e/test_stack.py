"""The real stack in its own home: Postgres and Airflow start, run a DAG, restart what is killed, and stop.

Its DAG replaces ours: a job of a few seconds, which records each of its starts.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from alchemist_core.local import stack
from alchemist_core.local.processes import read_state
from alchemist_core.settings import load_settings
from alchemist_core.store.postgres import start_postgres

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

LISTEN = "0A"
DAG = """
from airflow.sdk import dag, task

@dag(schedule=None, params={"seconds": 0})
def job():
    @task.bash(do_xcom_push=False, pool="gpu")
    def work(params):
        return f"echo $ALCHEMIST_DATABASE_URL >> $ALCHEMIST_HOME/starts; sleep {params['seconds']}"

    @task.bash(do_xcom_push=False)
    def which():
        return "which alchemist > $ALCHEMIST_HOME/program"

    work() >> which()

job()
"""


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """One home for all tests here; its stack goes down with them."""
    home = tmp_path_factory.mktemp("stack")
    (home / "dags").mkdir()
    (home / "dags" / "job.py").write_text(DAG)
    yield home
    stack.down(home)


@pytest.fixture
def home(shared_home, monkeypatch):
    """The home with its stack up, and with a DAGs folder of its own."""
    monkeypatch.setenv("ALCHEMIST_DAGS", str(shared_home / "dags"))
    monkeypatch.delenv("ALCHEMIST_DATABASE_URL", raising=False)
    load_settings.cache_clear()
    stack.up(shared_home)
    return shared_home


def run_job(home, seconds=0):
    client = stack.client(home)
    run_id = client.trigger("job", {"seconds": seconds})
    client.wait("job", run_id, timeout_s=300.0, on_progress=print)


def count_starts(home):
    path = home / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def kill_during_a_job(home, victim, seconds=8):
    """Kill a process once the job has started, and wait for the job's success; return how often it was started."""
    before = count_starts(home)
    client = stack.client(home)
    run_id = client.trigger("job", {"seconds": seconds})
    deadline = time.monotonic() + 60
    while count_starts(home) == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(victim(), signal.SIGKILL)
    client.wait("job", run_id, timeout_s=300.0, on_progress=print)
    return count_starts(home) - before


def pid_of(home, name):
    return read_state(home).children[name].pid


def wait_until_running(home):
    deadline = time.monotonic() + 90
    while not stack.status(home).is_running:
        assert time.monotonic() < deadline, stack.status(home).describe()
        time.sleep(0.5)


def test_a_task_runs_with_the_stacks_own_store_and_programs(home):
    run_job(home)
    assert (home / "starts").read_text().startswith("postgresql://alchemist_writer:")
    assert Path((home / "program").read_text()).parent == Path(sys.executable).parent


def test_a_running_stack_is_reused(home):
    before = read_state(home)
    assert stack.up(home).is_reused
    assert read_state(home) == before


def test_everything_listens_on_loopback(home):
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [place for _, place, _, state, *_ in sockets if state == LISTEN]
    ports = read_state(home).ports
    addresses = {int(place.split(":")[1], 16): place.split(":")[0] for place in listening}
    assert addresses[ports.airflow] == addresses[ports.metrics] == "0100007F"
    assert 8793 not in addresses
    assert 8794 not in addresses


def test_a_killed_scheduler_heals_and_its_task_succeeds(home):
    assert kill_during_a_job(home, lambda: pid_of(home, "scheduler")) == 2
    wait_until_running(home)


def test_a_killed_postgres_heals_and_its_task_succeeds(home):
    postmaster = start_postgres(home).data_dir / "postmaster.pid"
    assert kill_during_a_job(home, lambda: int(postmaster.read_text().split()[0])) >= 1
    wait_until_running(home)


def test_a_killed_supervisor_leaves_nothing_that_the_next_start_trips_over(home):
    os.kill(read_state(home).supervisor_pid, signal.SIGKILL)
    time.sleep(0.5)
    assert not stack.up(home).is_reused
    run_job(home)


def test_going_down_ends_the_jobs_too_and_coming_up_resumes_them(home):
    before = count_starts(home)
    client = stack.client(home)
    run_id = client.trigger("job", {"seconds": 15})
    while count_starts(home) == before:
        time.sleep(0.2)
    assert not stack.down(home).is_postgres_running
    assert subprocess.run(["pgrep", "-f", "^sleep 15$"], check=False, capture_output=True).stdout == b""
    stack.up(home)
    client.wait("job", run_id, timeout_s=300.0, on_progress=print)


def test_of_two_starts_at_once_one_wins_and_the_other_uses_it(home):
    stack.down(home)
    found = []
    starts = [threading.Thread(target=lambda: found.append(stack.up(home))) for _ in range(2)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert sorted(status.is_reused for status in found) == [False, True]
    assert found[0].processes == found[1].processes
