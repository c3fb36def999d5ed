"""How to reach the store: the given server, or the embedded one, started on first use."""

import os
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, create_engine, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from alchemist_core.errors import ConfigError
from alchemist_core.local.postgres_passwords import LOGINS, Role, has_server
from alchemist_core.settings import Settings, load_settings

if TYPE_CHECKING:
    from alchemist_core.local.postgres import EmbeddedPostgres

_MOST_SILENCE_MS = 30_000
DatabaseError = DBAPIError
"""What a refused statement or a lost server raises, for those who go on without it."""


def database_url(settings: Settings | None = None) -> str:
    """Return the libpq URL of the store; without `ALCHEMIST_DATABASE_URL` the home's embedded server is started if it is down.

    Raises:
        ConfigError: The setting is not a valid URL of a Postgres server, or the home has no store.
    """
    settings = settings or load_settings()
    if settings.database_url is not None:
        return _require_postgres(settings.database_url.get_secret_value())
    return _embedded(settings).url()


def role_url(role: Role) -> str:
    """Return the store's libpq URL for one role; it has no password where only the server's administrator knows that."""
    settings = load_settings()
    if settings.database_url is None:
        return _embedded(settings).url(role=role)
    address = make_url(database_url(settings)).set(drivername="postgresql")
    # Whoever is neither the writer nor the reader is the owner, as `sql/roles.sql` has it.
    own = next((name for name, login in LOGINS.items() if login == address.username), "owner")
    if role != own:
        given = address.set(username=LOGINS[role])
        # `set` takes None for "unchanged".
        address = URL.create("postgresql", given.username, None, given.host, given.port, given.database, given.query)
    return address.render_as_string(hide_password=False)


def create_store() -> None:
    """Create the home's embedded server unless it exists; `open_store` fills it. A server of the user's own exists already."""
    settings = load_settings()
    if settings.database_url is None:
        from alchemist_core.local.postgres import start_postgres  # noqa: PLC0415  not needed with a given server

        start_postgres(settings.home)


def _embedded(settings: Settings) -> "EmbeddedPostgres":
    from alchemist_core.local.postgres import start_postgres  # noqa: PLC0415  not needed with a given server

    # Whoever only reads, and mistyped a folder, must not get an empty store and be told that there are no subsets.
    if not has_server(settings.home):
        raise ConfigError(
            f"There is no store in {settings.home.resolve()} (ALCHEMIST_HOME, or .alchemist in the current folder). Change to your "
            "store's folder or set ALCHEMIST_HOME; to create a store: alchemist ingest --dataset NAME --root FOLDER, or alchemist up."
        )
    return start_postgres(settings.home)


def _require_postgres(url: str) -> str:
    try:
        name = make_url(url).drivername
    except (ArgumentError, ValueError):
        name = ""
    if name.partition("+")[0] not in {"postgres", "postgresql"}:
        # Without its value: it holds a password.
        raise ConfigError(
            "ALCHEMIST_DATABASE_URL is no URL of a Postgres server, such as postgresql://user:password@host:5432/name; "
            "signs like / or @ in a password are written %2F, %40."
        )
    return url


def make_engine(url: str) -> Engine:
    """Return an engine over psycopg2 for a libpq or SQLAlchemy URL; options that the URL gives are kept."""
    address = make_url(url).set(drivername="postgresql+psycopg2")
    given = address.normalized_query.get("options", ())
    arguments = {
        "application_name": f"alchemist-{os.getpid()}",
        "options": " ".join((*given, "-c timezone=UTC")),
        # A server that is gone without a word must not keep a heartbeat waiting for the quarter of an hour that is usual.
        **({} if "tcp_user_timeout" in address.query else {"tcp_user_timeout": _MOST_SILENCE_MS}),
    }
    return create_engine(address, pool_pre_ping=True, connect_args=arguments)


def read_clock(connection: Connection) -> datetime:
    """Return the present moment by the database's clock, which all machines share; what is decided by time is decided by it."""
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def open_store() -> Engine:
    """Return this process's engine on the store, whose schema must be this code's.

    Raises:
        StoreError: The schema is older, newer or another one; only `alchemist db migrate` changes it.
    """
    settings = load_settings()
    url = database_url(settings)
    if url not in _OPEN:
        _OPEN[url] = _open(url, is_embedded=settings.database_url is None)
    return _OPEN[url]


def close_stores() -> None:
    """Close the connections of every store that this process has opened; `open_store` opens them again."""
    while _OPEN:
        _OPEN.popitem()[1].dispose()


_OPEN: dict[str, Engine] = {}


def _open(url: str, *, is_embedded: bool) -> Engine:
    from alchemist_core.store.migrate import check_schema  # noqa: PLC0415  it imports this module

    # The embedded server is the user's own, so its empty database is filled here. On a server of theirs, `db migrate` does it.
    check_schema(url, may_create=is_embedded)
    return make_engine(url)
