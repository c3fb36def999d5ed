"""Converts errors of Postgres to one line for the user: what happened, and what to do.

A wrong statement is a defect of the code: its exception keeps its traceback, because the user has no remedy.
"""

import psycopg2
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from alchemist_core.errors import AlchemistError, ConfigError, StoreError

AGAIN = "then run the same command again"
# By SQLSTATE, or by its class of two characters; the longest match counts. {} is the first line of the server's message.
REMEDIES = {
    "08": f"Postgres ended the connection: {{}}. Start it (`alchemist db start`) or check ALCHEMIST_DATABASE_URL, {AGAIN}.",
    "22": "Postgres refused a value: {}. Correct the value.",
    "25006": "Postgres is read-only for this user: {}. Set ALCHEMIST_DATABASE_URL to a user with write access, on the primary server.",
    "28": "Postgres refused the login: {}. Check user and password in ALCHEMIST_DATABASE_URL.",
    "2BP01": "Objects that are not of the store depend on what this command replaces: {}. Drop them and run the command again.",
    "3F000": "The store lacks what this code needs: {}. Run `alchemist db migrate`; if that changes nothing, restore a backup.",
    "40": "Other sessions changed the same rows: {}. Run the command again.",
    "42501": "This database user may not do that: {}. Stages need the URL of the writer, `alchemist db migrate` that of the owner.",
    "42703": "The store lacks what this code needs: {}. Run `alchemist db migrate`; if that changes nothing, restore a backup.",
    "42883": "The store lacks what this code needs: {}. Run `alchemist db migrate`; if that changes nothing, restore a backup.",
    "42P01": "The store lacks what this code needs: {}. Run `alchemist db migrate`; if that changes nothing, restore a backup.",
    "53": f"Postgres has no resources left: {{}}. Close sessions or give it more memory, {AGAIN}.",
    "53100": f"The disk of Postgres is full: {{}}. Free space there, {AGAIN}.",
    "55": "Other sessions hold locks that this command needs: {}. Run the command again when they have ended.",
    "57014": "Postgres cancelled a statement: {}. Raise the timeout or wait for other work to end, then run the command again.",
    "57": f"Postgres is stopping or starting: {{}}. Wait, or start it (`alchemist db start`), {AGAIN}.",
    "58": f"Postgres cannot access its files: {{}}. Check its disk and its log, {AGAIN}.",
    "XX001": "Postgres found damaged data: {}. Restore a backup (`alchemist db restore`).",
    "XX002": "Postgres found a damaged index: {}. Run REINDEX as the owner, then the command again.",
}  # fmt: skip


def explain_refusal(error: BaseException) -> AlchemistError | None:
    """Return an error with a remedy if the server or the connection caused it; None for a defect of the code."""
    if isinstance(error, PendingRollbackError):
        return _because("08", "the transaction was lost")
    original = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(original, psycopg2.Error):
        return None
    lines = str(original).strip().splitlines()
    message = lines[0].rstrip(".") if lines else type(original).__name__
    state = original.pgcode or _state_of(original, message)
    return None if state is None else _because(state, message)


def _state_of(original: psycopg2.Error, message: str) -> str | None:
    """Return a SQLSTATE for errors of the driver, which have none: a lost connection, a login, a value that it cannot encode."""
    if "authentication failed" in message or "does not exist" in message:
        return "28"
    if isinstance(original, (psycopg2.OperationalError, psycopg2.InterfaceError)):
        return "08"
    return "08" if "server closed" in message or "connection" in message else None


def _because(state: str, message: str) -> AlchemistError | None:
    text = REMEDIES.get(state) or REMEDIES.get(state[:2])
    if text is None:
        return None
    return (ConfigError if state.startswith("22") else StoreError)(text.format(message))
