"""A stage claims its run key: one live run, followed by others, taken over only when its lease has expired."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import Engine, text

from alchemist_core.config import Config, Result
from alchemist_core.errors import AlchemistError, LeaseLostError
from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import Heartbeat, StageRun, execute
from alchemist_core.stages.sharing import wait_for_claim

pytestmark = pytest.mark.db


class NumberConfig(Config):
    number: int = 1


class NumberResult(Result):
    number: int


def run_number(number: int, work: Callable[[StageRun], NumberResult], slot: int = 0) -> NumberResult:
    return execute("select", NumberConfig(number=number), work, NumberResult, slot=slot)


def states(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT state FROM alchemist.runs ORDER BY run_id")).scalars())


def n_leases(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM alchemist.leases")).scalar_one()


def test_a_run_is_noted_with_its_report_and_gives_its_key_back(engine: Engine) -> None:
    assert run_number(7, lambda _run: NumberResult(number=7)) == NumberResult(number=7)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT state, result, exit_code, work_seconds FROM alchemist.runs")).one()
    assert (row.state, row.result, row.exit_code) == ("succeeded", {"number": 7}, 0)
    assert row.work_seconds >= 0
    assert n_leases(engine) == 0


def test_a_failure_is_noted_with_its_text_and_exit_code(engine: Engine) -> None:
    def fail(_run: StageRun) -> NumberResult:
        raise LeaseLostError("somebody else was faster")

    with pytest.raises(LeaseLostError):
        run_number(1, fail)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT state, error, exit_code FROM alchemist.runs")).one()
    assert (row.state, row.exit_code) == ("failed", LeaseLostError.exit_code)
    assert "somebody else was faster" in row.error
    assert n_leases(engine) == 0


def test_a_second_process_follows_the_live_run_and_gets_its_report(engine: Engine) -> None:
    is_working, may_end, n_works = threading.Event(), threading.Event(), []

    def work(run: StageRun) -> NumberResult:
        n_works.append(run.run_id)
        is_working.set()
        may_end.wait(30)
        return NumberResult(number=5)

    first = threading.Thread(target=run_number, args=(5, work))
    first.start()
    assert is_working.wait(30)
    threading.Timer(2, may_end.set).start()
    assert run_number(5, work) == NumberResult(number=5)
    first.join()
    assert len(n_works) == 1, "the second call must not have worked itself"
    assert states(engine) == ["succeeded"]


def test_a_follower_ends_with_the_failure_of_the_run_it_followed(database_url: str) -> None:
    is_working, may_end = threading.Event(), threading.Event()

    def work(_run: StageRun) -> NumberResult:
        is_working.set()
        may_end.wait(30)
        raise AlchemistError("the shard is gone")

    def first_run() -> None:
        with pytest.raises(AlchemistError):
            run_number(6, work)

    first = threading.Thread(target=first_run)
    first.start()
    assert is_working.wait(30)
    threading.Timer(1, may_end.set).start()
    with pytest.raises(AlchemistError, match="the shard is gone"):
        run_number(6, work)
    first.join()


@pytest.mark.parametrize("stop", [SystemExit(128 + signal.SIGTERM), KeyboardInterrupt()], ids=["SIGTERM", "SIGINT"])
def test_a_follower_takes_over_a_run_that_a_signal_ended(engine: Engine, stop: BaseException) -> None:
    """As the retry of a task does, whose first command Airflow stops."""
    is_working, may_end = threading.Event(), threading.Event()

    def stopped(_run: StageRun) -> NumberResult:
        is_working.set()
        may_end.wait(30)
        raise stop

    def first_run() -> None:
        with pytest.raises(type(stop)):
            run_number(8, stopped)

    first = threading.Thread(target=first_run)
    first.start()
    assert is_working.wait(30)
    threading.Timer(1, may_end.set).start()
    assert run_number(8, lambda _run: NumberResult(number=8)) == NumberResult(number=8)
    first.join()
    assert states(engine) == ["failed", "succeeded"]


def test_other_slots_and_other_configs_work_beside(engine: Engine) -> None:
    def outer(_run: StageRun) -> NumberResult:
        run_number(1, lambda _inner: NumberResult(number=2), slot=1)
        run_number(2, lambda _inner: NumberResult(number=3))
        return NumberResult(number=1)

    assert run_number(1, outer).number == 1
    assert states(engine) == ["succeeded"] * 3


SLEEPER = """
import sys, time
sys.path.insert(0, "{folder}")
from test_execution import NumberConfig, NumberResult
from alchemist_core.stages.execution import execute
def work(run):
    print("working", flush=True)
    time.sleep(600)
execute("select", NumberConfig(number=9), work, NumberResult)
"""


def start_sleeper() -> "subprocess.Popen[str]":
    """Start a run in another process, and return when it works."""
    code = SLEEPER.format(folder=Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def close(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    process.stdout.close()


def test_a_killed_run_is_taken_over_when_its_lease_has_expired(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "3")
    load_settings.cache_clear()
    process = start_sleeper()
    process.kill()
    process.wait()
    close(process)
    killed_at = time.monotonic()
    assert run_number(9, lambda _run: NumberResult(number=9)).number == 9
    assert time.monotonic() - killed_at < 30
    assert states(engine) == ["lost", "succeeded"]


def test_a_killed_run_costs_what_it_worked_until_its_last_heartbeat(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training of three days that was killed cost nothing."""
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "3")
    monkeypatch.setenv("ALCHEMIST_PRICE_PER_CORE_HOUR", "3600")
    load_settings.cache_clear()
    process = start_sleeper()
    ledger = text(
        "SELECT extract(EPOCH FROM heartbeat_at - started_at), work_seconds, cost, device FROM alchemist.runs ORDER BY run_id"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while (beaten := connection.execute(ledger).one())[0] < 1:
            time.sleep(0.1)
        assert beaten.work_seconds is None
        process.kill()
        process.wait()
        close(process)
        run_number(9, lambda _run: NumberResult(number=9))
        lost, _ = connection.execute(ledger)
    assert lost.work_seconds == round(lost[0])
    assert lost.device == "cpu"
    assert lost.cost == pytest.approx(lost.work_seconds * len(os.sched_getaffinity(0)), rel=0.5)


def test_a_heartbeat_stores_no_cost_of_a_wait_that_is_not_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that waits for the GPU for hours and is killed cost as if it had worked."""
    monkeypatch.setenv("ALCHEMIST_PRICE_PER_CORE_HOUR", "3600")
    load_settings.cache_clear()
    waiting = SimpleNamespace(waited_seconds=0.0, waiting_since=None)
    heartbeat = Heartbeat(cast("StageRun", waiting), 30)
    heartbeat._began -= 100
    assert heartbeat._spent()["cost"] >= 100
    waiting.waiting_since = heartbeat._began + 10
    assert heartbeat._spent()["cost"] == pytest.approx(10 * len(os.sched_getaffinity(0)))


def test_a_run_that_is_stopped_while_it_waits_stores_no_work(engine: Engine) -> None:
    """A training that waited for the GPU for hours and was stopped by Ctrl-C cost as if it had worked."""
    answers = iter((None, None))

    def claim() -> NumberResult | None:
        if (answer := next(answers, KeyboardInterrupt)) is not None:
            raise answer
        return None

    with pytest.raises(KeyboardInterrupt):
        run_number(10, lambda run: wait_for_claim(run, claim, lambda: None))
    with engine.connect() as connection:
        stored = (
            "SELECT work_seconds, extract(EPOCH FROM finished_at - started_at)::float8 AS lasted FROM alchemist.runs"
        )
        row = connection.execute(text(stored)).one()
    assert row.lasted - row.work_seconds > 1.9


def test_a_heartbeat_survives_a_driver_that_fails(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "3")
    load_settings.cache_clear()
    broken = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: 1 / 0))

    def work(run: StageRun) -> NumberResult:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", broken)
            time.sleep(1.5)
            assert run.heartbeat is not None
            assert run.heartbeat.is_alive()
        return NumberResult(number=1)

    assert run_number(1, work).number == 1


def test_a_run_that_lost_its_lease_stops_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "3")
    load_settings.cache_clear()
    process = start_sleeper()
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.leases SET fencing_token = nextval('alchemist.fencing_tokens'), run_id = 0")
        )
    assert process.wait(30) == LeaseLostError.exit_code
    close(process)
