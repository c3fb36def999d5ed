"""Bring a database to the schema of this code: migrations, then functions, views and roles.

A migration is frozen and runs once. Functions, views and grants have one text each, in `sql/`, applied again whenever a
file has changed; the hash of what was applied is the schema's comment. Knows nothing of the tables' meaning.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from psycopg2.errors import DeadlockDetected, LockNotAvailable, QueryCanceled
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from alchemist_core.errors import StoreError
from alchemist_core.store.engine import make_engine

SQL = Path(__file__).resolve().parents[2] / "sql"
MIGRATIONS = SQL / "migrations"
UNDEFINED_TABLE, UNDEFINED_SCHEMA = "42P01", "3F000"
# What a statement ends with that waited for others, as our own timeouts let it.
WAITED = (LockNotAvailable, QueryCanceled, DeadlockDetected)


def migrate(url: str) -> str:
    """Bring the database to this code's schema and return its revision; at head one query finds that out.

    Raises:
        StoreError: the server does not answer, the database belongs to newer code, others hold what is to be changed, or a
            statement was refused.
    """
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            state = _state(connection)
            if state != (head_revision(), code_hash()):
                _refuse_newer(state[0])
                connection.rollback()
                _upgrade(connection)
                _apply_code(connection)
        return head_revision()
    except OperationalError as refused:
        said = str(refused.orig).strip()
        msg = f"the database refused: {said}; remedy: `alchemist db start`, or check ALCHEMIST_DATABASE_URL"
        if isinstance(refused.orig, WAITED):
            why = said.partition("\n")[0]
            msg = f"others hold what this code's schema must change: {why}; remedy: run the command again when long queries have ended"
        raise StoreError(msg) from refused
    except ProgrammingError as refused:
        msg = f"the database cannot be migrated by this user: {str(refused.orig).strip()}; remedy: run it as the schema's owner"
        raise StoreError(msg) from refused
    finally:
        engine.dispose()


def current_revision(url: str) -> str | None:
    """Return the revision of a database; nothing when it was never migrated."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            return _state(connection)[0]
    finally:
        engine.dispose()


def head_revision() -> str:
    """Return the newest revision of this code: revisions are the ordered numbers before the files' names.

    >>> head_revision() >= "0010"
    True
    """
    names = sorted(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    if not names:
        msg = f"no migrations in {MIGRATIONS}: run from a source checkout (`pip install -e .`)"
        raise StoreError(msg)
    return names[-1].split("_", 1)[0]


def code_hash() -> str:
    """Return the hash of everything that is applied again when it changes."""
    digest = hashlib.sha256()
    for path in _code_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _code_files() -> Iterator[Path]:
    # Views read functions, and each other in the order of their names; grants come last.
    yield from sorted((SQL / "functions").glob("*.sql"))
    yield from sorted((SQL / "views").glob("*.sql"))
    yield SQL / "roles.sql"


def _state(connection: Connection) -> tuple[str | None, str | None]:
    query = (
        "SELECT (SELECT version_num FROM alchemist.alembic_version),"
        " obj_description('alchemist'::regnamespace, 'pg_namespace')"
    )
    try:
        revision, applied = connection.execute(text(query)).one()
    except DBAPIError as refused:
        if getattr(refused.orig, "pgcode", None) not in {UNDEFINED_TABLE, UNDEFINED_SCHEMA}:
            raise
        return None, None
    return revision, applied


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision > head_revision():
        msg = f"the database is at revision {revision}, this code ends at {head_revision()}: update the code"
        raise StoreError(msg)


def _upgrade(connection: Connection) -> None:
    # Imported here: a command that finds the schema at head never pays for it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _apply_code(connection: Connection) -> None:
    """Apply functions, views and roles in one transaction; views are dropped first, so that their columns may change."""
    with connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('alchemist.code'))"))
        if _state(connection)[1] == code_hash():
            return
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        for path in sorted((SQL / "views").glob("*.sql"), reverse=True):
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS alchemist.{path.stem}")
        for path in _code_files():
            _execute_file(connection, path)
        connection.exec_driver_sql(f"COMMENT ON SCHEMA alchemist IS '{code_hash()}'")


def _execute_file(connection: Connection, path: Path) -> None:
    # A percent sign or a colon in a file is not a parameter.
    connection.exec_driver_sql(path.read_text(), execution_options={"no_parameters": True})
