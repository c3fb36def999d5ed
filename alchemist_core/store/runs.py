"""The run ledger: every execution of a stage with progress and result. A run key (stage, config hash, slot) has one live run."""

import os
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, insert, select, text, update

from alchemist_core.store.audit import current_actor
from alchemist_core.store.leases import LeaseClaim, claim_lease
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import Lease, Run

LOST = """
    state = 'lost', finished_at = clock_timestamp(), error = 'its lease expired: the process died or hung',
    work_seconds = nullif(round(extract(EPOCH FROM heartbeat_at - started_at)), 0)
"""
"""What is set of a run whose process died or hung, in SQL: it worked until its last heartbeat, which stored its cost."""


@dataclass(frozen=True, slots=True)
class RunKey:
    """Identifies an execution: the same key never runs twice at a time."""

    stage: str
    config: dict[str, Any]
    config_hash: str
    slot: int = 0

    @property
    def resource(self) -> str:
        """Return the name of this key's lease."""
        return f"run:{self.stage}:{self.config_hash}:{self.slot}"


@dataclass(frozen=True, slots=True)
class RunClaim:
    """A run that this process executes."""

    run_id: int
    lease: LeaseClaim


@dataclass(frozen=True, slots=True)
class RunState:
    """State of a run, for processes that follow it."""

    run_id: int
    state: str
    progress: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    exit_code: int | None
    host: str
    pid: int
    heartbeat_at: datetime


def claim_run(engine: Engine, key: RunKey, *, ttl_s: float, code_version: str) -> RunClaim | None:
    """Start a run and claim its key in one transaction; None if a live run holds the key."""
    values = {
        "stage": key.stage, "slot": key.slot, "config": key.config, "config_hash": key.config_hash,
        "code_version": code_version, "host": socket.gethostname(), "pid": os.getpid(), "actor": current_actor(),
    }  # fmt: skip
    with engine.connect() as connection, connection.begin() as transaction:
        run_id = connection.execute(insert(Run).values(**values).returning(Run.run_id)).scalar_one()
        lease = claim_lease(connection, key.resource, run_id=run_id, ttl_s=ttl_s)
        if lease is None:
            transaction.rollback()
            return None
        mark_lost_runs(connection, key)
        return RunClaim(run_id, lease)


def mark_lost_runs(connection: Connection, key: RunKey) -> None:
    """Mark the runs of this key as lost whose lease was just taken over.

    They worked until their last heartbeat, which stored their cost; a run without one has neither.
    """
    statement = text(f"""
        UPDATE alchemist.runs SET {LOST}
        WHERE stage = :stage AND config_hash = :config_hash AND slot = :slot AND state = 'running'
          AND run_id <> (SELECT run_id FROM alchemist.leases WHERE resource = :resource)
    """)  # noqa: S608  constants
    values = {"stage": key.stage, "config_hash": key.config_hash, "slot": key.slot, "resource": key.resource}
    connection.execute(statement, values)


def live_run(engine: Engine, key: RunKey) -> RunState | None:
    """Return the run that holds the key's lease now, if any."""
    with engine.connect() as connection:
        run_id = connection.execute(select(Lease.run_id).where(Lease.resource == key.resource)).scalar()
        return None if run_id is None else read_run(connection, run_id)


def read_run(connection: Connection, run_id: int) -> RunState:
    """Return the state of one run."""
    names = ("run_id", "state", "progress", "result", "error", "exit_code", "host", "pid", "heartbeat_at")
    row = connection.execute(select(*(getattr(Run, name) for name in names)).where(Run.run_id == run_id)).one()
    return RunState(*row)


def beat(connection: Connection, run_id: int, progress: dict[str, Any], **spent: Any) -> None:
    """Store a heartbeat and the progress of a run, with its `device` and `cost` so far if they are known."""
    values = {"heartbeat_at": text("clock_timestamp()"), "progress": progress, **spent}
    connection.execute(update(Run).where(Run.run_id == run_id).values(values))


def finish_run(engine: Engine, claim: RunClaim, *, state: str, **fields: Any) -> None:
    """End a run (`result`, `error`, `exit_code`, `work_seconds`, `progress`, `device`, `cost`) and release its leases."""
    values = {"state": state, "finished_at": text("clock_timestamp()"), **fields}
    with engine.begin() as connection:
        connection.execute(update(Run).where(Run.run_id == claim.run_id, Run.state == "running").values(values))
        connection.execute(text("DELETE FROM alchemist.leases WHERE run_id = :run_id"), {"run_id": claim.run_id})


N_MEASURED = 50
"""Runs in which a plan looks for one of the same sizes."""


class MeasuredTraining(NamedTuple):
    """A finished training from its first step on, and how long it took."""

    run_id: int
    device: str
    host: str
    n_processes: int
    """One for each GPU."""
    work_seconds: float
    config: dict[str, Any]
    n_steps: int
    """Steps of all models that it trained."""
    rater_training: dict[str, Any] | None
    """Training options, as stored, of the rater whose tokenizer it used; None if a scorer ranked the version."""


def measured_trainings(engine: Engine, stage: str) -> list[MeasuredTraining]:
    """Return the newest finished trainings of a stage (query `measure_trainings`), newest first."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("measure_trainings"), {"stage": stage, "n_runs": N_MEASURED})
        return [MeasuredTraining(*row) for row in rows]
