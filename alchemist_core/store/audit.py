"""Who did what, when: append-only."""

import getpass
import os
from typing import Any

from sqlalchemy import Connection, insert

from alchemist_core.store.tables import AuditEvent


def current_actor() -> str:
    """Name who acts: the Airflow run that started this process, or the user of the operating system."""
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
    """Append an event, in the transaction of the act."""
    connection.execute(
        insert(AuditEvent).values(actor=actor, action=action, subject=subject, before=before, after=after)
    )
