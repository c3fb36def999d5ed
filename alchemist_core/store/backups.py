"""What a backup needs of a store: one moment of it that several processes see, and an empty place for what is restored."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from alchemist_core.store.checksum import LEFT_OUT
from alchemist_core.store.engine import make_engine

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
