"""The supervisor kills a process that hangs, leaves one that starts slowly its time, and reports each one that it restarts."""

import os
import signal
import sys
from pathlib import Path

import pytest

from alchemist_core.local.supervisor import HUNG_AFTER_S, START_WITHIN_S, Child

KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_a_process_that_starts_has_longer_until_its_first_heartbeat_than_one_that_had_some(tmp_path: Path) -> None:
    child = Child("scheduler")
    child.start([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), tmp_path / "log")
    assert child.process is not None
    child.judge({"api_server": "silent"})
    child.last_healthy_at -= (HUNG_AFTER_S + START_WITHIN_S) / 2
    child.judge({"scheduler": "unhealthy"})
    assert child.process.poll() is None
    child.judge({"scheduler": "healthy"})
    child.last_healthy_at -= HUNG_AFTER_S + 1
    child.judge({"scheduler": "unhealthy"})
    assert child.process.wait(10) == -signal.SIGKILL


def test_a_process_that_never_starts_is_killed_in_the_end(tmp_path: Path) -> None:
    child = Child("api-server")
    child.start([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), tmp_path / "log")
    assert child.process is not None
    child.last_healthy_at -= START_WITHIN_S + 1
    child.judge({"api_server": "silent"})
    assert child.process.wait(10) == -signal.SIGKILL


def test_after_each_kill_a_process_has_twice_as_long_and_the_supervisor_is_named_as_the_one_who_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = Child("api-server")
    for limit in (START_WITHIN_S, 2 * START_WITHIN_S):
        child.start([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), tmp_path / "log")
        assert child.process is not None
        child.last_healthy_at -= limit - 5
        child.judge({"api_server": "silent"})
        assert child.process.poll() is None
        child.last_healthy_at -= 6
        child.judge({"api_server": "silent"})
        child.process.wait(10)
        assert child.has_ended()
        assert f"was ended by the supervisor, because it had no heartbeat for {limit:.0f} s" in capsys.readouterr().err


def test_a_process_that_died_is_named_with_its_exit_its_log_and_how_often(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child, log = Child("metrics"), tmp_path / "metrics.log"
    for code, how in (("import sys; sys.exit(3)", "ended with exit code 3"), (KILLS_ITSELF, "was killed by SIGKILL")):
        child.start([sys.executable, "-c", code], dict(os.environ), log)
        assert child.process is not None
        pid = child.process.pid
        child.process.wait(10)
        assert child.has_ended()
        assert child.ending is not None
        said = capsys.readouterr().err
        assert f"metrics (pid {pid}) {how}; its log: {log}. Restarting it in" in said
        assert f"restarts since the supervisor started, with this one: {child.ending.n}." in said
    assert child.ending.n == 2
    assert not child.has_ended(), "it is reported once"
