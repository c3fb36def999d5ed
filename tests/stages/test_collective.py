"""Of several processes that compute together, the first one prints."""

import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.db
SCRIPT = """
from alchemist_core.config import Config, Result
from alchemist_core.stages.collective import execute_together, wait_for_all
from alchemist_core.telemetry import configure_logging, say


class Nothing(Result):
    pass


def work(stage_run):
    say("every process reaches this line")
    wait_for_all()
    return Nothing()


configure_logging()
execute_together("train_rater", Config(), work, Nothing)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_a_line_of_the_work_is_printed_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # As torchrun starts them, without the time that it takes.
    places = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=os.environ | places | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    printed = [process.communicate(timeout=280)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert ["every process reaches this line" in lines for lines in printed] == [True, False]
