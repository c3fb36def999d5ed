"""Connections to the store (your server, or the embedded one, which is started on first use), and its schema."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, create_engine, func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.schema import SetColumnComment, SetTableComment

from alchemist_core.errors import ConfigError, StoreError
from alchemist_core.resources import resource
from alchemist_core.settings import Settings, load_settings
from alchemist_core.store.postgres import LOGINS, Role, has_server
from alchemist_core.store.refusals import explain_refusal
from alchemist_core.store.tables import Table

if TYPE_CHECKING:
    from alchemist_core.store.postgres import EmbeddedPostgres


_MOST_SILENCE_MS = 30_000
LOGIN_SECRETS = ("sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
"""Secrets among libpq's options, beside the password."""
DatabaseError = DBAPIError
"""Error of a refused statement or a lost connection, for callers that can continue without the store."""


def database_url(settings: Settings | None = None) -> str:
    """Return the libpq URL of the store; without `ALCHEMIST_DATABASE_URL` the home's embedded server is started if it is down.

    Raises:
        ConfigError: The setting is not a valid URL of a Postgres server, or the home has no store.
    """
    settings = settings or load_settings()
    if settings.database_url is not None:
        return require_postgres(settings.database_url.get_secret_value(), "ALCHEMIST_DATABASE_URL")
    return _embedded(settings).url()


def role_url(role: Role) -> str:
    """Return the store's libpq URL for one role. On a given server it has a password only for the role of ALCHEMIST_DATABASE_URL."""
    settings = load_settings()
    if settings.database_url is None:
        return _embedded(settings).url(role=role)
    url = database_url(settings)
    # The query of a URL can have the login too; libpq then uses that one.
    login, address = connection_options(url), make_url(url).difference_update_query(("user", "password"))
    user, password = login.get("user"), login.get("password")
    # Any login other than writer and reader is the owner (`sql/roles.sql`).
    if role != next((name for name, own in LOGINS.items() if own == user), "owner"):
        user, password, address = LOGINS[role], None, address.difference_update_query(LOGIN_SECRETS)
    address = URL.create("postgresql", user, password, address.host, address.port, address.database, address.query)
    return address.render_as_string(hide_password=False)


def connection_options(url: str) -> dict[str, str]:
    """Return the options that the driver gives libpq for a URL, so that programs of Postgres accept what all other commands accept."""
    address = make_url(url).set(drivername="postgresql+psycopg2")
    _, options = address.get_dialect()().create_connect_args(address)
    return {name: " ".join(value) if isinstance(value, tuple) else str(value) for name, value in options.items()}


def has_store() -> bool:
    """Whether there is a store to open: a server is given, or the home has one."""
    settings = load_settings()
    return settings.database_url is not None or has_server(settings.home)


def create_store() -> None:
    """Create the home's embedded server unless it exists; `open_store` creates the schema. A given server is left unchanged."""
    settings = load_settings()
    if settings.database_url is None:
        from alchemist_core.store.postgres import start_postgres  # noqa: PLC0415  not needed with a given server

        start_postgres(settings.home)


def _embedded(settings: Settings) -> "EmbeddedPostgres":
    from alchemist_core.store.postgres import start_postgres  # noqa: PLC0415  not needed with a given server

    # A command that only reads must not create an empty store in a mistyped folder.
    if not has_server(settings.home):
        raise ConfigError(
            f"There is no store in {settings.home.resolve()} (ALCHEMIST_HOME, or .alchemist in the current folder). Change to your "
            "store's folder or set ALCHEMIST_HOME; to create a store: alchemist ingest --dataset NAME --root FOLDER, or alchemist stack up."
        )
    return start_postgres(settings.home)


def require_postgres(url: str, variable: str) -> str:
    """Return a URL unchanged.

    Raises:
        ConfigError: It is not a valid URL of a Postgres server, or its password has an @. The message names the variable only.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        address = None
    if (
        address is None
        or address.drivername.partition("+")[0] not in {"postgres", "postgresql"}
        or _has_password_with_at(url, address)
    ):
        raise ConfigError(
            f"{variable} is not a valid Postgres URL, such as postgresql://user:password@host:5432/name. "
            "Encode characters such as / or @ in a password as %2F, %40."
        )
    return url


def _has_password_with_at(url: str, address: URL) -> bool:
    """Whether a password may go on after its first @, where it ends for the driver: errors show the rest as the host."""
    if address.password is None:
        return False
    query = url.partition("@")[2].partition("?")[2]
    return (
        "@" in (address.host or "")
        or "@" in (address.database or "")
        or any("@" in item and "=" not in item for item in query.split("&"))
    )


def make_engine(url: str) -> Engine:
    """Return an engine over psycopg2 for a libpq or SQLAlchemy URL; options that the URL gives are kept."""
    address = make_url(url).set(drivername="postgresql+psycopg2")
    given = address.normalized_query.get("options", ())
    arguments = {
        "application_name": f"alchemist-{os.getpid()}",
        "options": " ".join((*given, "-c timezone=UTC")),
        # The default is a quarter of an hour: too long for a heartbeat to wait for a server that has vanished.
        **({} if "tcp_user_timeout" in address.query else {"tcp_user_timeout": _MOST_SILENCE_MS}),
    }
    # No column is an hstore, whose type each new connection would look up.
    return create_engine(address, pool_pre_ping=True, connect_args=arguments, use_native_hstore=False)


def read_clock(connection: Connection) -> datetime:
    """Return the time of the database's clock, which all machines share: every decision by time uses it."""
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def open_store() -> Engine:
    """Return this process's engine on the store; its schema must match this code.

    Raises:
        StoreError: The schema is older, newer or another one; only `alchemist db migrate` changes it.
    """
    settings = load_settings()
    url = database_url(settings)
    if url not in _OPEN:
        _OPEN[url] = _open(url, is_embedded=settings.database_url is None)
    return _OPEN[url]


def read_only(url: str, *limits: str) -> str:
    """Return a URL whose transactions cannot write unless they say so, with further options of the server."""
    options = " ".join(("-c default_transaction_read_only=on", *limits))
    given = make_url(url).update_query_dict({"options": options}, append=True)
    return given.render_as_string(hide_password=False)


READ_LIMIT_MS = 10_000
"""Longest statement of a reader that people wait for, in milliseconds."""


def open_reader() -> Engine:
    """Return this process's engine for reading: no statement can change the store or take longer than `READ_LIMIT_MS`.

    On the embedded server it is the role alchemist_reader. On a given server it is the given login in read-only transactions, because
    the reader's password is not known here.

    Raises:
        StoreError: As `open_store`.
    """
    settings = load_settings()
    owner_url = database_url(settings)
    url = role_url("reader") if settings.database_url is None else owner_url
    bounded = read_only(url, f"-c statement_timeout={READ_LIMIT_MS}")
    if bounded not in _OPEN:
        _FOUND.setdefault(owner_url, check_schema(owner_url, may_create=settings.database_url is None))
        _OPEN[bounded] = make_engine(bounded)
    return _OPEN[bounded]


def close_stores() -> None:
    """Close the connections of every store that this process has opened; `open_store` opens them again."""
    while _OPEN:
        _OPEN.popitem()[1].dispose()
    _FOUND.clear()


def was_migrated() -> bool:
    """Return whether the store was migrated since this process opened it; then this process has old code, and must not write.

    The schema is compared with what was found then, not with this code's files: an upgrade replaces the files of a running process.
    """
    engine = open_store()
    url = database_url()
    state, found = schema_state(url, engine), _FOUND[url]
    return (state.revision, state.applied[:1]) != (found.revision, found.applied[:1])


_OPEN: dict[str, Engine] = {}
_FOUND: dict[str, "SchemaState"] = {}
"""The schema of each store, as this process found it when it opened the store."""


def _open(url: str, *, is_embedded: bool) -> Engine:
    engine = make_engine(url)
    try:
        # An empty database of the embedded server gets its schema here. On a given server only `db migrate` creates it.
        _FOUND.setdefault(url, check_schema(url, may_create=is_embedded, engine=engine))
    except BaseException:
        engine.dispose()
        raise
    return engine


SQL = resource("sql")
MIGRATIONS = SQL / "migrations"
UNDEFINED_TABLE, UNDEFINED_SCHEMA = "42P01", "3F000"
HASH = re.compile(r"\b[0-9a-f]{64}\b")
# How many earlier hashes of views and functions the schema's comment keeps.
N_REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class SchemaState:
    """State of a database's schema: revision of the migrations, and hashes of the applied SQL files, newest first."""

    revision: str | None = None
    applied: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether the schema matches this code exactly."""
        return self.revision == head_revision() and self.applied[:1] == (code_hash(),)

    @property
    def is_created(self) -> bool:
        """Whether the schema was created completely: views are applied after the last migration."""
        return bool(self.applied)


def migrate(url: str, *, should_reapply: bool = False) -> bool:
    """Migrate the database to this code's schema; returns whether anything changed. An up-to-date database costs one query.

    Args:
        url: Address of the database; its user owns the schema, or may create it.
        should_reapply: Apply functions, views and grants again even if they are recorded as applied: a restored database has no grants.

    Raises:
        StoreError: The server does not respond, the database belongs to newer code, views that are not the store's depend on
            those that would be replaced, other sessions hold locks that are needed, or a statement was refused.
    """
    with _connected(url) as connection:
        state = _state(connection)
        if state.is_current and not should_reapply:
            return False
        _refuse_newer(state)
        connection.rollback()
        _refuse_views_of_others(connection)
        if state.revision != head_revision():
            _upgrade(connection)
        _apply_code(connection, should_reapply=should_reapply)
        return True


def check_schema(url: str, *, may_create: bool = False, engine: Engine | None = None) -> SchemaState:
    """Refuse a schema that does not match this code, else return its state; an existing schema is never changed.

    Args:
        url: Address of the database.
        may_create: Whether to create the schema in an empty database, or to complete an interrupted creation.
        engine: An engine of that address to use, which stays open; none: one is opened for this.

    Raises:
        StoreError: The server does not respond, or the schema does not match; the message has the command to run.
    """
    state = schema_state(url, engine)
    _refuse_newer(state)
    if state.is_current:
        return state
    if not state.is_created and may_create:
        migrate(url)
        return schema_state(url, engine)
    if not state.is_created:
        raise StoreError(
            "The store has no complete schema yet. Run `alchemist db migrate` as the owner of the database."
        )
    if state.revision != head_revision():
        raise StoreError(
            f"The store's schema is at revision {state.revision}, this code needs {head_revision()}. "
            "Run `alchemist db migrate` as the owner of the schema."
        )
    if code_hash() in state.applied:
        raise StoreError(
            "Newer code has replaced the store's views, and this code needs the former ones. Update the code; "
            "or return to this code for all users: run `alchemist db migrate`."
        )
    raise StoreError(
        "The store's views and functions are not those of this code. Run `alchemist db migrate` as the owner of the schema."
    )


def schema_state(url: str, engine: Engine | None = None) -> SchemaState:
    """Return the state of a database's schema, old or new."""
    with _connected(url, engine) as connection:
        return _state(connection)


@contextmanager
def _connected(url: str, given: Engine | None = None) -> Iterator[Connection]:
    """Connect, and turn refusals of the server into one-line errors with a remedy."""
    engine = given or make_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as refused:
        if (known := explain_refusal(refused)) is not None:
            raise known from refused
        raise
    finally:
        if given is None:
            engine.dispose()


def can_write(url: str) -> bool:
    """Return whether the user of an address may write rows: a reader and a standby server may not."""
    query = "SELECT has_table_privilege('alchemist.runs', 'INSERT') AND NOT pg_is_in_recovery()"
    with _connected(url) as connection:
        return bool(connection.execute(text(query)).scalar_one())


def current_revision(url: str) -> str | None:
    """Return the revision of a database, or None if it was never migrated."""
    return schema_state(url).revision


def head_revision() -> str:
    """Return the newest revision of this code: the number at the start of the last migration's file name.

    >>> head_revision() >= "0010"
    True
    """
    names = sorted(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    if not names:
        msg = f"There are no migrations in {MIGRATIONS}: the installation is incomplete. Install alchemist-platform again."
        raise StoreError(msg)
    return names[-1].split("_", 1)[0]


def code_hash() -> str:
    """Return the hash of functions, views, grants and comments: they are applied again when it changes."""
    digest = hashlib.sha256()
    for path in _code_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for table in Table.metadata.sorted_tables:
        for described in (table, *table.columns):
            digest.update(f"{described}\0{described.comment}\0".encode())
    return digest.hexdigest()


def _code_files() -> Iterator[Path]:
    # Views read functions, and each other in the order of their names; grants come last.
    yield from sorted((SQL / "functions").glob("*.sql"))
    yield from sorted((SQL / "views").glob("*.sql"))
    yield SQL / "roles.sql"
    yield SQL / "limits.sql"


def _state(connection: Connection) -> SchemaState:
    query = (
        "SELECT (SELECT version_num FROM alchemist.alembic_version),"
        " obj_description('alchemist'::regnamespace, 'pg_namespace')"
    )
    try:
        revision, applied = connection.execute(text(query)).one()
    except DBAPIError as refused:
        if getattr(refused.orig, "pgcode", None) not in {UNDEFINED_TABLE, UNDEFINED_SCHEMA}:
            raise
        return SchemaState()
    return SchemaState(revision, tuple(HASH.findall(applied or "")))


def _refuse_newer(state: SchemaState) -> None:
    if state.revision is not None:
        refuse_newer(state.revision)


def refuse_newer(revision: str, *, what: str = "The database") -> None:
    """Refuse a database, or a backup of one, that newer code wrote.

    Raises:
        StoreError: Its revision is newer than that of this code.
    """
    if revision > head_revision():
        raise StoreError(
            f"{what} is at revision {revision}, but this code supports up to {head_revision()}. Update the code."
        )


# Alembic keeps its context in one place of the process, so that two threads would take each other's connection.
_UPGRADING = Lock()


def _upgrade(connection: Connection) -> None:
    # Imported here, because a command on an up-to-date schema does not need it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    with _UPGRADING:
        command.upgrade(config, "head")


# A materialized view counts too.
_VIEWS_OF_OTHERS = text("""
    SELECT DISTINCT theirs.relnamespace::regnamespace || '.' || quote_ident(theirs.relname) AS name
    FROM pg_depend
    INNER JOIN pg_rewrite ON pg_depend.classid = 'pg_rewrite'::regclass AND pg_depend.objid = pg_rewrite.oid
    INNER JOIN pg_class AS theirs ON pg_rewrite.ev_class = theirs.oid
    INNER JOIN pg_class AS ours ON pg_depend.refclassid = 'pg_class'::regclass AND pg_depend.refobjid = ours.oid
    WHERE
        ours.relnamespace = to_regnamespace('alchemist')
        AND ours.relkind = 'v'
        AND ours.relname = ANY(:own)
        AND NOT (theirs.relnamespace = ours.relnamespace AND theirs.relname = ANY(:own))
    ORDER BY name
""")


def _refuse_views_of_others(connection: Connection) -> None:
    """Refuse views of others that depend on ours: ours could not be dropped, but only after the migrations are committed."""
    own = [path.stem for path in (SQL / "views").glob("*.sql")]
    with connection.begin():
        names = list(connection.execute(_VIEWS_OF_OTHERS, {"own": own}).scalars())
    if names:
        raise StoreError(
            f"`alchemist db migrate` replaces the store's views, and other views depend on them: {', '.join(names)}. Drop "
            "these, run it again, then create them again. In dbt, materialized='table' avoids this."
        )


def _apply_code(connection: Connection, *, should_reapply: bool) -> None:
    """Apply functions, views and roles in one transaction; views are dropped first, so that their columns may change."""
    with connection.begin():
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('alchemist.code'))"))
        state = _state(connection)
        if state.is_current and not should_reapply:
            return
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        for path in sorted((SQL / "views").glob("*.sql"), reverse=True):
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS alchemist.{path.stem}")
        for path in _code_files():
            _execute_file(connection, path)
        _apply_comments(connection)
        former = [applied for applied in state.applied if applied != code_hash()]
        connection.exec_driver_sql(
            f"COMMENT ON SCHEMA alchemist IS '{' '.join([code_hash(), *former[:N_REMEMBERED]])}'"
        )


def _apply_comments(connection: Connection) -> None:
    """Write the comments of tables and columns that differ from the models': each one locks its table against a vacuum."""
    query = text("""
        SELECT pg_class.relname, pg_attribute.attname, pg_description.description
        FROM pg_description
        INNER JOIN pg_class ON pg_description.classoid = 'pg_class'::regclass AND pg_description.objoid = pg_class.oid
        LEFT JOIN pg_attribute ON pg_class.oid = pg_attribute.attrelid AND nullif(pg_description.objsubid, 0) = pg_attribute.attnum
        WHERE pg_class.relnamespace = 'alchemist'::regnamespace
    """)
    present = {(table, column): description for table, column, description in connection.execute(query)}
    for table in Table.metadata.sorted_tables:
        if present.get((table.name, None)) != table.comment:
            connection.execute(SetTableComment(table))
        for column in table.columns:
            if present.get((table.name, column.name)) != column.comment:
                connection.execute(SetColumnComment(column))


def _execute_file(connection: Connection, path: Path) -> None:
    # A percent sign or a colon in a file is not a parameter.
    connection.exec_driver_sql(path.read_text(), execution_options={"no_parameters": True})
