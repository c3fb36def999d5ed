import subprocess
import sys

import pytest

from alchemist_core.local.processes import ProcessIdentity, end, find_marked, find_session, identify, is_alive

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def start():
    """Start programs that end with the test."""
    started = []

    def begin(script, **options):
        started.append(subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, **options))
        assert started[-1].stdout.readline() == b"ready\n"
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


SLEEPY = "import time; print('ready', flush=True); time.sleep(60)"


def test_a_process_with_the_pid_of_a_dead_one_is_another_process(start):
    process = start(SLEEPY)
    found = identify(process.pid)
    assert is_alive(found)
    assert not is_alive(ProcessIdentity(found.pid, found.birth - 1))


def test_a_zombie_is_dead(start):
    process = start(SLEEPY)
    found = identify(process.pid)
    process.kill()
    end([found], grace_s=5.0)
    assert process.returncode is None  # no process has waited for it yet
    assert not is_alive(found)


def test_one_that_ignores_the_request_to_stop_is_killed(start):
    process = start(STUBBORN)
    end([identify(process.pid)], grace_s=0.3)
    assert process.wait(timeout=5) == -9


def test_a_stranger_with_a_recorded_pid_is_not_touched(start):
    process = start(SLEEPY)
    end([ProcessIdentity(process.pid, 1)], grace_s=0.1)
    assert process.poll() is None


def test_jobs_are_found_by_their_mark_in_whatever_session(start):
    process = start(SLEEPY, env={"ALCHEMIST_STACK": "one"}, start_new_session=True)
    start(SLEEPY, env={"ALCHEMIST_STACK": "one more"})
    assert [found.pid for found in find_marked("ALCHEMIST_STACK=one")] == [process.pid]
    assert [found.pid for found in find_session(process.pid)] == [process.pid]
