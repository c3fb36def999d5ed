"""Events that a person should hear of: written in the transaction of the act, sent after it, each key once.

A command that is killed between the two leaves the event waiting, and the next command sends it. Killed while it sends, it sends twice.
"""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.notifications import Event, NotSentError, receivers, send_at_end
from alchemist_core.store.engine import DatabaseError
from alchemist_core.store.tables import AnyRow, Notification
from alchemist_core.telemetry import say

MAX_ATTEMPTS = 3
"""Commands that try to send an event before it is given up; each of them tries a web address three times."""


def announce(connection: Connection, event: Event) -> bool:
    """Write an event in the transaction of the act; it is sent when the command ends. False where its key was announced before."""
    values = {"key": event.key, "kind": event.kind, "event": asdict(event)}
    statement = insert(Notification).values(values).on_conflict_do_nothing(index_elements=["key"])
    engine = connection.engine
    send_at_end(engine, lambda: deliver(engine))
    return connection.execute(statement).rowcount == 1


def is_delivered(engine: Engine, key: str) -> bool:
    """Tell whether every receiver has taken an event."""
    with engine.connect() as connection:
        return connection.execute(select(Notification.state).where(Notification.key == key)).scalar() == "delivered"


def deliver(engine: Engine) -> None:
    """Send the events that wait. A receiver or a store that fails is reported and stops nothing.

    The first event that a receiver refuses ends the attempt: a server that is down costs a command seconds, not seconds an event.
    """
    try:
        while (row := _send_next(engine)) is not None and row.error is None:
            pass
    except DatabaseError as error:
        say(f"error: Notifications were not sent, the next command tries again: {str(error.orig).strip()}")


def _send_next(engine: Engine) -> AnyRow | None:
    """Send the oldest event that waits, under its row's lock; return its new state, none where no event waits."""
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
    """Send an event to the receivers that have not taken it, and return the columns that changed."""
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
