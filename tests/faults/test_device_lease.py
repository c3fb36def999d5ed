"""Fifty kills and stops of workers and jobs that compete for one device: by the database's clock it never has two holders."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.device_jobs import AUDIT, OVERLAPS, USES, Forker, Job, is_alive, stray_uses

pytestmark = [pytest.mark.db, pytest.mark.faults]
N_KILLS, N_RIVALS, LEASE_TTL_S, PATIENCE_S = 50, 4, 2.0, 120.0


@pytest.fixture
def rivals(tmp_path: Path) -> Iterator[Forker]:
    made = Forker(tmp_path)
    yield made
    made.end()


def send(pid: int, number: signal.Signals) -> bool:
    """Whether a living process was hit."""
    was_alive = is_alive(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return was_alive


def strike(rng: random.Random, job: Job) -> tuple[str, bool]:
    """Kill or stop one of the two; a stopped job continues after less or more time than a lease lasts."""
    how = rng.choice(("kill job", "kill worker", "end job", "end worker", "stop job briefly", "stop job for long"))
    if how.startswith("stop"):
        is_hit = send(job.pid, signal.SIGSTOP)
        time.sleep(LEASE_TTL_S * (0.2 if how.endswith("briefly") else 1.6))
        send(job.pid, signal.SIGCONT)
        return how, is_hit
    number = signal.SIGKILL if how.startswith("kill") else signal.SIGTERM
    return how, send(job.worker if how.endswith("worker") else job.pid, number)


@pytest.mark.timeout(900)
def test_a_device_has_one_holder_over_fifty_kills_of_workers_and_jobs(
    engine: Engine, rivals: Forker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_JOBS_PER_DEVICE", "1")
    monkeypatch.setenv("ALCHEMIST_DEVICES", "GPU-of-the-test")
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", str(LEASE_TTL_S))
    with engine.begin() as connection:
        connection.execute(text(USES))
        connection.execute(text(AUDIT))
    rng, struck, stopped = random.Random(2026), dict[str, int](), set[int]()
    while sum(struck.values()) < N_KILLS:
        while len(alive := [job for job in rivals.jobs if job.is_alive()]) < N_RIVALS:
            rivals.start(number=len(rivals.jobs), n_steps=rng.randrange(5, 120))
        time.sleep(rng.random() * LEASE_TTL_S / 2)
        # Mostly the one that holds the device: a kill of one that waits changes nothing.
        holder = holding_pid(engine) if rng.random() < 0.7 else None
        job = next((job for job in alive if job.pid == holder), rng.choice(alive))
        how, is_hit = strike(rng, job)
        if is_hit:
            struck[how] = struck.get(how, 0) + 1
            stopped |= {job.pid} if how == "stop job for long" else set()
    deadline = time.monotonic() + PATIENCE_S
    while any(job.is_alive() for job in rivals.jobs):
        assert time.monotonic() < deadline, "somebody waits for a device that nobody holds"
        time.sleep(0.1)
    check(engine, stopped)
    assert len(struck) == 6, struck


def holding_pid(engine: Engine) -> int | None:
    query = """
        SELECT runs.pid FROM alchemist.leases INNER JOIN alchemist.runs ON leases.run_id = runs.run_id
        WHERE leases.resource LIKE 'device:%' AND alchemist.is_live_lease(leases.expires_at)
    """
    with engine.connect() as connection:
        return connection.execute(text(query)).scalar()


def check(engine: Engine, stopped: set[int]) -> None:
    with engine.connect() as connection:
        n_holds = connection.execute(
            text("SELECT count(*) FROM public.holds WHERE resource LIKE 'device:%'")
        ).scalar_one()
        n_overlaps = connection.execute(text(OVERLAPS)).scalar_one()
        n_uses, n_users = connection.execute(text("SELECT count(*), count(DISTINCT pid) FROM uses")).one()
    strays = stray_uses(engine)
    print(
        f"{n_holds} holds, {n_overlaps} overlap; {n_uses} uses by {n_users} jobs, {len(strays)} after a newer holder's"
    )
    assert n_overlaps == 0
    assert min(n_holds, n_users) >= 20, "the device must change hands"
    # A process that is stopped between the check of its lease and the use of the device uses it once more when it continues.
    assert len(strays) == len(set(strays) & stopped)
