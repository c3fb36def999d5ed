"""Notifications: each event is stored in the transaction of its cause and sent afterwards, once per key.

If a command is killed before it sends an event, the next command sends it. If it is killed while sending, the event may be sent twice.
"""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.notifications import Event, NotSentError, receivers, send_at_end
from alchemist_core.store.engine import DatabaseError
from alchemist_core.store.tables import AnyRow, Notification
from alchemist_core.telemetry import say

MAX_ATTEMPTS = 3
"""Number of commands that try to send an event; each tries a web address three times."""


def announce(connection: Connection, event: Event) -> bool:
    """Store an event in the transaction of its cause; it is sent when the command ends. Returns False if its key is stored already."""
    values = {"key": event.key, "kind": event.kind, "event": asdict(event)}
    statement = insert(Notification).values(values).on_conflict_do_nothing(index_elements=["key"])
    engine = connection.engine
    send_at_end(engine, lambda: deliver(engine))
    return connection.execute(statement).rowcount == 1


def settle_failures(connection: Connection, prefix: str, *, run: str | None) -> None:
    """Store in the facts of the failures of a DAG run whose keys begin so that what failed has succeeded since."""
    now = func.to_jsonb(func.clock_timestamp())
    statement = update(Notification).where(
        Notification.kind == "failed_task",
        func.starts_with(Notification.key, prefix),
        Notification.event["facts"]["run"].astext == run,
    )
    connection.execute(statement.values(event=func.jsonb_set(Notification.event, ["facts", "recovered_at"], now)))


def is_delivered(engine: Engine, key: str) -> bool:
    """Return whether every receiver has accepted an event."""
    with engine.connect() as connection:
        return connection.execute(select(Notification.state).where(Notification.key == key)).scalar() == "delivered"


def deliver(engine: Engine) -> None:
    """Send the waiting events. A failing receiver or store is only reported.

    The attempt ends at the first refused event, so that a server that is down delays a command by seconds, not by seconds per event.
    """
    try:
        while (row := _send_next(engine)) is not None and row.error is None:
            pass
    except DatabaseError as error:
        say(f"error: Notifications were not sent. The next command tries again: {str(error.orig).strip()}")


def _send_next(engine: Engine) -> AnyRow | None:
    """Lock and send the oldest waiting event; return its new state, or None if no event is waiting."""
    with engine.begin() as connection:
        found = connection.execute(
            select(Notification)
            .where(Notification.state == "waiting")
            .order_by(Notification.notification_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).one_or_none()
        if found is None:
            return None
        changed = _attempt(found)
        this = Notification.notification_id == found.notification_id
        statement = update(Notification).where(this).values(changed).returning(Notification.state, Notification.error)
        return connection.execute(statement).one()


def _attempt(found: AnyRow) -> dict[str, Any]:
    """Send an event to the receivers that have not accepted it, and return the changed columns."""
    event, taken, errors = Event(**found.event), list(found.delivered_to), []
    named = list(receivers())
    for name, send in named:
        if name in taken:
            continue
        try:
            send(event)
            taken.append(name)
        except NotSentError as error:
            errors.append(f"{name}: {error}")
    n_attempts = found.n_attempts + 1
    if not errors:
        state = "delivered" if named else "no_receiver"
    else:
        state = "failed" if n_attempts >= MAX_ATTEMPTS else "waiting"
        if found.n_attempts == 0:
            say(
                f"error: {event.title} ({event.what_happened}) was not sent to {'; '.join(errors)}. The next commands try again, "
                f"{MAX_ATTEMPTS - 1} times at most; alchemist.notifications keeps the event."
            )
    return {"state": state, "n_attempts": n_attempts, "delivered_to": taken, "error": "; ".join(errors) or None}
