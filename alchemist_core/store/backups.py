"""What a backup needs of a store: one moment of it that several processes see, and an empty place for what is restored."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

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


TABLES = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = to_regnamespace('alchemist') AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname
""")


@contextmanager
def frozen_moment(url: str) -> Iterator[str]:
    """Hold one moment of a database; yields the name by which other sessions read that moment too."""
    engine = make_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield str(connection.scalar(text("SELECT pg_export_snapshot()")))
    finally:
        engine.dispose()


def clear_for_restore(url: str) -> bool:
    """Drop the schema of a store without data, as one step; false, and nothing changed, where it holds data.

    A schema without a revision is what a killed restore of older code left: no command could use it.
    """
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            tables = list(connection.execute(TABLES).scalars())
            if (
                "alembic_version" in tables
                and connection.execute(text("SELECT * FROM alchemist.alembic_version")).first()
            ):
                names = ", ".join(f'alchemist."{name}"' for name in tables)
                connection.execute(text("SET LOCAL lock_timeout = '10s'"))
                # Nothing may come between the look and the drop.
                connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
                data = [name for name in tables if name not in {*LEFT_OUT, "alembic_version"}]
                # Names of tables are no parameters; these come from the catalogue.
                looks = [f'SELECT 1 FROM alchemist."{name}" LIMIT 1' for name in data]  # noqa: S608
                if any(connection.exec_driver_sql(look).first() for look in looks):
                    return False
            connection.execute(text("DROP SCHEMA IF EXISTS alchemist CASCADE"))
            return True
    finally:
        engine.dispose()
