"""What a backup needs to know of a store: one moment of it that several processes see, whether it is empty, how to empty it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from alchemist_core.store.checksum import table_checksums
from alchemist_core.store.engine import make_engine


@contextmanager
def frozen_moment(url: str) -> Iterator[str]:
    """Hold one moment of a database; yields the name by which other sessions read that moment too."""
    engine = make_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield str(connection.scalar(text("SELECT pg_export_snapshot()")))
    finally:
        engine.dispose()


def is_empty(url: str) -> bool:
    """Tell whether a migrated database holds no data."""
    return not table_checksums(url)


def drop_schema(url: str) -> None:
    """Remove everything of ours from a database."""
    _run(url, "DROP SCHEMA IF EXISTS alchemist CASCADE")


def _run(url: str, statement: str) -> None:
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
