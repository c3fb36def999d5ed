"""The audit log: who did what, and when. Append-only."""

import getpass
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, func, insert, select

from alchemist_core.errors import ConfigError
from alchemist_core.store.tables import AuditEvent

APPROVED_BY = "Name of the person who approved it; stored in the audit log"
COMMENT = "Comment of that person; stored in the audit log"
APPROVAL = "Task of this Airflow run, as DAG.TASK, whose stored answer approves it; gives approver and comment"


_PERSON: ContextVar[str | None] = ContextVar("person", default=None)


@contextmanager
def acting_as(person: str) -> Iterator[None]:
    """Let `current_actor` name a person, in this thread and for this time: a server acts for those who are logged in.

    >>> with acting_as("ann"):
    ...     current_actor()
    'ann'
    """
    token = _PERSON.set(person)
    try:
        yield
    finally:
        _PERSON.reset(token)


def current_actor() -> str:
    """Return who acts: the person of `acting_as`, the Airflow run that started this process, or the user of the operating system."""
    if (person := _PERSON.get()) is not None:
        return person
    return current_airflow_run() or getpass.getuser()


def current_airflow_run() -> str | None:
    """Return the Airflow run that started this process, as `current_actor` names it; None for any other process."""
    if dag_id := os.environ.get("AIRFLOW_CTX_DAG_ID"):
        return f"airflow:{dag_id}:{os.environ.get('AIRFLOW_CTX_DAG_RUN_ID', '')}"
    return None


def record_event(
    connection: Connection,
    actor: str,
    action: str,
    subject: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Append an event, in the transaction of the change that it records."""
    connection.execute(
        insert(AuditEvent).values(actor=actor, action=action, subject=subject, before=before, after=after)
    )


class AuditRow(NamedTuple):
    """Who did what to which subject, with the state before and after."""

    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def newest_event_id(engine: Engine) -> int:
    """Return the key of the newest event; 0: there is none."""
    with engine.connect() as connection:
        return int(connection.execute(select(func.coalesce(func.max(AuditEvent.audit_event_id), 0))).scalar_one())


def events_since(engine: Engine, audit_event_id: int, subjects: Sequence[str]) -> list[AuditRow]:
    """Return the events of some subjects after an event, oldest first."""
    columns = [getattr(AuditEvent, name) for name in AuditRow._fields]
    statement = select(*columns).where(AuditEvent.audit_event_id > audit_event_id, AuditEvent.subject.in_(subjects))
    with engine.connect() as connection:
        rows = connection.execute(statement.order_by(AuditEvent.audit_event_id))
        return [AuditRow._make(row) for row in rows]


def asked_about(engine: Engine, question: str, try_number: int | None) -> str | None:
    """Return what a question of this Airflow run was about when it was asked; None if that was not stored.

    It is read from the store, because a user of Airflow may edit the results of tasks while the question waits.
    """
    asked = _newest(engine, "approval asked", question)
    # The attempt tells a question whose event was lost from an earlier one of the same run.
    return asked.get("of") if asked.get("try_number") == try_number else None


def approval(
    engine: Engine, approved_by: str | None, comment: str | None, *, of: str, question: str | None = None
) -> dict[str, str]:
    """Return the approver and the comment, as an event stores them; empty without an approval.

    Args:
        engine: The store.
        approved_by: Approver, where no question was asked.
        comment: Comment of that approver.
        of: What is to be published or promoted: the title of a subset version, or the name of a rater.
        question: Task of this Airflow run, as DAG.TASK, whose stored answer approves it.

    Raises:
        ConfigError: The newest answer to `question` that this Airflow run stored is not an approval of `of`, or there is none.
    """
    given = {"approved_by": approved_by, "comment": comment}
    if question is not None:
        stored = _newest(engine, "approval answered", question)
        _require_approval(stored, question, of)
        given = {name: stored[name] for name in given}
    return {name: value for name, value in given.items() if value}


def _newest(engine: Engine, action: str, subject: str) -> dict[str, Any]:
    """Return what the newest event of this kind that the current actor stored contains; empty if there is none."""
    events = (
        select(AuditEvent.after)
        .where(AuditEvent.action == action, AuditEvent.subject == subject, AuditEvent.actor == current_actor())
        .order_by(AuditEvent.audit_event_id.desc())
    )
    with engine.connect() as connection:
        return connection.scalar(events.limit(1)) or {}


def _require_approval(stored: dict[str, Any], question: str, of: str) -> None:
    if stored.get("answer") != "Approve":
        raise ConfigError(
            f"No approval of {question} is stored for this run. Clear this task in Airflow, and answer its question again."
        )
    if stored.get("of") is None:
        raise ConfigError(
            f"The answer that {stored['approved_by']} gave to {question} does not name what was approved: an earlier version stored "
            f"it, or the question could not be stored. Clear {question} in Airflow, and answer the question about {of}."
        )
    if stored["of"] != of:
        raise ConfigError(
            f"{stored['approved_by']} approved {stored['of']} in this run, not {of}. In Airflow, clear the task before {question} with "
            f"all tasks after it, and answer the question about {of}."
        )
