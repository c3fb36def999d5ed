"""The supervisor kills a process that hangs, and leaves one that starts slowly its time."""

import os
import signal
import sys
from pathlib import Path

from alchemist_core.local.supervisor import HUNG_AFTER_S, START_WITHIN_S, Child


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
