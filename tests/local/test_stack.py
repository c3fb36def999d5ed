"""`stack up` and `stack down` end only processes of their own home; tests/e2e/test_stack.py starts and stops the whole stack."""

import contextlib
import os
import signal
import site
import subprocess
import sys
import sysconfig
from dataclasses import asdict
from pathlib import Path

import pytest

from alchemist_core.local.airflow_client import AirflowError
from alchemist_core.local.airflow_environment import STACK_VARIABLE, find_programs, load_secrets, stack_mark
from alchemist_core.local.processes import (
    ChildState,
    StackState,
    find_marked,
    hold_lock,
    identify,
    send,
    supervisor_lock,
    write_state,
)
from alchemist_core.local.stack import _end_leftovers, _reserve_ports, _start_supervisor

# A leader that is not a worker, and a worker of its session; each prints its pid.
SESSION = (
    "import subprocess, sys, time; work = [sys.executable, '-c', 'import time; time.sleep(60)'];"
    "print(subprocess.Popen(work, stdout=subprocess.DEVNULL).pid, flush=True); time.sleep(60)"
)


@pytest.fixture
def start_session():
    """Start sessions of two processes that end with the test; returns the leader and the worker's pid."""
    started = []

    def begin(environment):
        leader = subprocess.Popen(
            [sys.executable, "-c", SESSION], stdout=subprocess.PIPE, start_new_session=True, env=environment
        )
        started.append(leader)
        return leader, int(leader.stdout.readline())

    yield begin
    for leader in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.communicate()


def record(home, pid):
    """Record a scheduler from before the machine's restart, whose pid another process has now."""
    write_state(home, StackState(children={"scheduler": ChildState(pid, birth=1, n_restarts=0)}))


def test_a_strangers_session_that_has_a_recorded_pid_lives_on(tmp_path, start_session):
    load_secrets(tmp_path)
    leader, worker = start_session(dict(os.environ))
    record(tmp_path, leader.pid)
    _end_leftovers(tmp_path)
    assert leader.poll() is None
    assert identify(worker) is not None


def test_what_a_killed_supervisor_left_is_ended_with_its_session(tmp_path, start_session):
    mark = {STACK_VARIABLE: stack_mark(tmp_path)}
    leader, worker = start_session({**os.environ, **mark})
    record(tmp_path, leader.pid)
    _end_leftovers(tmp_path)
    assert leader.wait(10) is not None
    assert identify(worker) is None


def test_two_homes_that_start_at_the_same_time_share_no_port():
    with _reserve_ports(None) as (one, _), _reserve_ports(one) as (other, _):
        assert not {*asdict(one).values()} & {*asdict(other).values()}
    with _reserve_ports(other) as (again, _):
        assert again == other, "a home keeps its ports while they are free"


@contextlib.contextmanager
def started_supervisor(home, monkeypatch):
    """Start a supervisor, which waits for a lock before it starts any process; yields its ports and itself."""
    monkeypatch.setenv("MARK_OF_THIS_TEST", str(home))
    with hold_lock(supervisor_lock(home), should_wait=True):
        with _reserve_ports(None) as (ports, holders):
            _start_supervisor(home, holders)
        (supervisor,) = find_marked(f"MARK_OF_THIS_TEST={home}")
        try:
            yield ports, supervisor
        finally:
            send([supervisor], signal.SIGKILL)


def test_the_supervisor_keeps_the_ports_reserved(tmp_path, monkeypatch):
    with started_supervisor(tmp_path, monkeypatch) as (ports, _), _reserve_ports(ports) as (other, _):
        assert not {*asdict(ports).values()} & {*asdict(other).values()}


def test_relative_paths_in_variables_lead_the_supervisor_to_the_same_files(tmp_path, monkeypatch):
    """It works in the home; Airflow had no DAGs, and a secret's file was not found."""
    shell, home = tmp_path / "shell", tmp_path / "home"
    for folder in (shell, home):
        folder.mkdir()
    (shell / "notify_url").write_text("json://127.0.0.1/a")
    monkeypatch.chdir(shell)
    given = {name: name.lower() for name in ("ALCHEMIST_DAGS", "ALCHEMIST_AESTHETIC_CLIP")}
    given |= {"ALCHEMIST_NOTIFY_URL_FILE": "notify_url"}
    for name, path in given.items():
        monkeypatch.setenv(name, path)
    with started_supervisor(home, monkeypatch) as (_, supervisor):
        found = Path(f"/proc/{supervisor.pid}/environ").read_text().split("\0")
    assert {f"{name}={shell / path}" for name, path in given.items()} <= set(found)


@pytest.mark.parametrize("scheme", ["scripts", "scripts of the user"])
def test_programs_are_found_where_pip_puts_them_without_a_virtual_environment(tmp_path, monkeypatch, scheme):
    """Airflow was "not installed", and pip answered that it is."""
    places = {"scripts": tmp_path / "usr", "scripts of the user": tmp_path / "home"}
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    monkeypatch.setattr(
        sysconfig, "get_path", lambda _name, user=None: str(places["scripts of the user" if user else "scripts"])
    )
    assert find_programs() == tmp_path / "bin"
    places[scheme].mkdir()
    for name in ("airflow", "alchemist"):
        (places[scheme] / name).touch()
    assert find_programs() == places[scheme]
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)  # as in a virtual environment
    assert (find_programs() == places[scheme]) is (scheme == "scripts")


def test_a_supervisor_that_does_not_start_names_its_log(tmp_path, monkeypatch):
    monkeypatch.setenv("ALCHEMIST_LOG_FORMAT", "nonsense")
    with pytest.raises(AirflowError, match=f"ended with exit code 1.*{tmp_path / 'logs' / 'supervisor.log'}"):
        _start_supervisor(tmp_path, [])
    assert "nonsense" in (tmp_path / "logs" / "supervisor.log").read_text()
