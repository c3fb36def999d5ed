"""A checksum over all data of a store, equal for equal data: the proof that a rerun changed nothing and a kill lost nothing.

Keys made by the database, runs, times and the places of files are left out, so that two stores can be compared that came to
the same data by different ways. Knows the tables only by three queries, one for each module of `store/tables`.
"""

import hashlib
import re

from sqlalchemy import Connection, text

from alchemist_core.errors import StoreError
from alchemist_core.store.engine import make_engine
from alchemist_core.store.queries import load_query

QUERIES = ("checksum_sources", "checksum_ratings", "checksum_subsets")
# What ran and who did what: not data.
LEFT_OUT = frozenset({"runs", "leases", "locks", "check_results", "audit_events", "notifications"})
# Text of numbers, bytes and dates depends on these settings.
SETTINGS = ("extra_float_digits = 1", "bytea_output = 'hex'", "datestyle = 'ISO'", "timezone = 'UTC'")
ROWS_A_FETCH = 10_000


def checksum(url: str, *, moment: str | None = None) -> str:
    """Return one hash over all data tables of a database, now or at the moment that another session holds."""
    digest = hashlib.sha256()
    for table_name, table_hash in sorted(table_checksums(url, moment=moment).items()):
        digest.update(f"{table_name} {table_hash}\n".encode())
    return digest.hexdigest()


def table_checksums(url: str, *, moment: str | None = None) -> dict[str, str]:
    """Return a hash of each data table that has rows; comparing two stores, it names the table that differs."""
    engine = make_engine(url)
    try:
        # One snapshot of all tables, even while stages write.
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            if moment is not None:
                connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT {_quoted(moment)}")
            for setting in SETTINGS:
                connection.execute(text(f"SET LOCAL {setting}"))
            return {name: digest.hexdigest() for name, digest in _digests(connection).items()}
    finally:
        engine.dispose()


def _quoted(moment: str) -> str:
    # This statement takes no parameters.
    if not re.fullmatch(r"[0-9A-F]+(-[0-9A-F]+)+", moment):
        raise StoreError(f"{moment!r} is not a moment's name: pg_export_snapshot() gives such names.")
    return f"'{moment}'"


def _digests(connection: Connection) -> dict[str, "hashlib._Hash"]:
    digests: dict[str, hashlib._Hash] = {}
    for name in QUERIES:
        for table_name, line in connection.execute(load_query(name), execution_options={"yield_per": ROWS_A_FETCH}):
            digests.setdefault(table_name, hashlib.sha256()).update(line.encode() + b"\0")
    return digests
