"""Who did what, when: append-only."""

import getpass
import os
from typing import Any

from sqlalchemy import Connection, insert

from alchemist_core.store.tables import AuditEvent

APPROVED_BY = "Name of the person who approved it; kept in the audit log"
COMMENT = "What that person wrote; kept in the audit log"


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


def approval(approved_by: str | None, comment: str | None) -> dict[str, str]:
    """Return what an event keeps of the person who approved it, if one did."""
    given = {"approved_by": approved_by, "comment": comment}
    return {name: value for name, value in given.items() if value}
