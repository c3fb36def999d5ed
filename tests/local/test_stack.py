"""`stack up` and `stack down` end only processes of their own home; tests/e2e/test_stack.py starts and stops the whole stack."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from alchemist_core.local.airflow_environment import STACK_VARIABLE, load_secrets, stack_mark
from alchemist_core.local.processes import ChildState, StackState, identify, write_state
from alchemist_core.local.stack import _end_leftovers

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
