"""If two runs need the same result, such as the model of the full corpus, one makes it; the other waits and reuses it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, text

from alchemist_core.config import Config, Result
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.sharing import hold_resource
from alchemist_core.store.engine import open_store
from tests.trained_store import select_subset

pytestmark = pytest.mark.db
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
MODEL = ("--num-train-epochs", "2", "--batch-size", "32", "--width", "16", "--depth", "1")


class NumberConfig(Config):
    number: int = 1


class NumberResult(Result):
    number: int


def make_together(number: int, *, takes_s: float, said: list[str], waited: list[float]) -> NumberResult:
    """Make the same result for every config; note how many seconds it waited for the other."""

    def work(run: StageRun) -> NumberResult:
        asked = time.monotonic()
        with hold_resource(run, "model:m"):
            waited.append(time.monotonic() - asked)
            said.append(f"{number} begins")
            time.sleep(takes_s)
            said.append(f"{number} ends")
            return NumberResult(number=number)

    return execute("select", NumberConfig(number=number), work, NumberResult)


@pytest.mark.slow
def test_one_run_makes_a_thing_while_the_other_waits(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    waited: list[float] = []
    threads = [
        threading.Thread(target=make_together, args=(number,), kwargs={"takes_s": 2.0, "said": said, "waited": waited})
        for number in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said in (["1 begins", "1 ends", "2 begins", "2 ends"], ["2 begins", "2 ends", "1 begins", "1 ends"])
    assert "model:m is being made by run" in capsys.readouterr().err
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.leases")).scalar_one() == 0
        statement = (
            "SELECT sum(work_seconds), sum(extract(EPOCH FROM finished_at - started_at))::float8 FROM alchemist.runs"
        )
        spent, lasted = connection.execute(text(statement)).one()
    # Twice two seconds of work; waiting is not counted. Half of it is room for a busy machine, on which starting and ending take long too.
    assert spent >= 4.0
    assert lasted - spent >= max(waited) / 2


def test_what_a_dead_run_was_making_is_made_once_its_lease_has_expired(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
            WITH dead AS (
                INSERT INTO alchemist.runs (stage, slot, config, config_hash, code_version, host, pid)
                VALUES ('select', 0, '{}', repeat('0', 64), 'c', 'h', 1) RETURNING run_id
            )
            INSERT INTO alchemist.leases (resource, fencing_token, run_id, expires_at)
            SELECT 'model:m', nextval('alchemist.fencing_tokens'), run_id, clock_timestamp() + interval '2 seconds' FROM dead
            """)
        )
    began = time.monotonic()
    make_together(1, takes_s=0.0, said=[], waited=[])
    assert time.monotonic() - began >= 1.5


def command(stage: str, *words: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    given, env = (
        [sys.executable, *launcher, "-m", "alchemist_core", stage, *words],
        os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def wait_for(*processes: subprocess.Popen[str]) -> None:
    try:
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), outputs


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.usefixtures("scored_store")
def test_two_subsets_train_and_measure_what_they_share_once() -> None:
    """One by two launched processes, one alone: they share the model of the full corpus, and the one that ranks by loss."""
    for name, retention in (("a", 0.3), ("b", 0.5)):
        select_subset(name, retention)
    words = ("--preset", "tiny", "--arms", "minus_loss,full,random", *MODEL)
    wait_for(
        command("train-downstream", "a", *words, launcher=TWO_PROCESSES),
        command("train-downstream", "b", *words),
    )
    wait_for(*(command("evaluate", name) for name in ("a", "b")))
    with open_store().connect() as connection:
        arms = connection.execute(text("SELECT arm FROM alchemist.models ORDER BY arm")).scalars().all()
        n_values = connection.execute(text("SELECT count(*) FROM alchemist.evaluations")).scalar_one()
    assert (arms, n_values) == (["full", "minus_loss", "minus_loss", "random", "random"], 5)
