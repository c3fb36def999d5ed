"""Waiting until other sessions of a test's database wait for a lock."""

import time
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, text

# Sessions of this database alone: tests of other processes wait on the same server.
# Not by pg_stat_activity: a transaction reads that only once.
WAITING = text("""
    SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid IN (
        SELECT own.pid FROM pg_locks AS own JOIN pg_database AS d ON d.oid = own.database WHERE d.datname = current_database()
    )
""")


def wait_until_blocked(connection: Connection, *works: Future[Any]) -> None:
    """Return when as many sessions of the connection's database as works wait for a lock; fail if a work ends before."""
    while connection.execute(WAITING).scalar_one() < len(works):
        for work in works:
            assert not work.done(), f"it did not wait for a lock: {work}"
        time.sleep(0.01)
