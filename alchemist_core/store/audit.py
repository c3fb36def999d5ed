"""The audit log: who did what, and when. Append-only."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

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
    if dag_id := os.environ.get("AIRFLOW_CTX_DAG_ID"):
        return f"airflow:{dag_id}:{os.environ.get('AIRFLOW_CTX_DAG_RUN_ID', '')}"
    return getpass.getuser()


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


def approval(
    engine: Engine, approved_by: str | None, comment: str | None, *, question: str | None = None
) -> dict[str, str]:
    """Return the approver and the comment, as an event stores them; empty without an approval.

    Raises:
        ConfigError: The newest answer to `question` that this Airflow run stored is not an approval, or there is none.
    """
    given = {"approved_by": approved_by, "comment": comment}
    if question is not None:
        answers = (
            select(AuditEvent.after)
            .where(AuditEvent.action == "approval answered", AuditEvent.subject == question)
            .where(AuditEvent.actor == current_actor())
            .order_by(AuditEvent.audit_event_id.desc())
        )
        with engine.connect() as connection:
            stored = connection.scalar(answers.limit(1)) or {}
        if stored.get("answer") != "Approve":
            raise ConfigError(
                f"No approval of {question} is stored for this run. Clear this task in Airflow, and answer its question again."
            )
        given = {name: stored[name] for name in given}
    return {name: value for name, value in given.items() if value}
