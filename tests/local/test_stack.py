"""`stack up` and `stack down` end only processes of their own home; tests/e2e/test_stack.py starts and stops the whole stack."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from alchemist_core.local.airflow_environment import STACK_VARIABLE, load_secrets, stack_mark
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


def test_the_supervisor_keeps_the_ports_reserved(tmp_path, monkeypatch):
    monkeypatch.setenv("MARK_OF_THIS_TEST", str(tmp_path))
    # The supervisor waits for this lock before it starts any process.
    with hold_lock(supervisor_lock(tmp_path), should_wait=True):
        with _reserve_ports(None) as (ports, holders):
            _start_supervisor(tmp_path, holders)
        supervisor = find_marked(f"MARK_OF_THIS_TEST={tmp_path}")
        try:
            with _reserve_ports(ports) as (other, _):
                assert not {*asdict(ports).values()} & {*asdict(other).values()}
        finally:
            send(supervisor, signal.SIGKILL)
    assert len(supervisor) == 1
