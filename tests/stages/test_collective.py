"""Of several processes that compute together, the first one prints."""

import subprocess

import pytest

from tests.two_processes import start_two

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
    processes = start_two(SCRIPT, stderr=subprocess.PIPE, text=True)
    printed = [process.communicate(timeout=280)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert ["every process reaches this line" in lines for lines in printed] == [True, False]
