"""Connections of the roles that migrations make."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, make_url, text

from alchemist_core.store.engine import make_engine

PASSWORD = "for-this-test-server-only"


@pytest.fixture
def log_in(database_url: str, server_url: str) -> Iterator[Callable[[str], Connection]]:
    """log_in(role): a connection of that role, so that its own settings count."""
    engines = []

    def connect(role: str) -> Connection:
        owner = make_engine(server_url)
        with owner.begin() as connection:
            # Roles are the whole server's: another worker of xdist may be at the same line.
            connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
            connection.execute(text(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'"))
        owner.dispose()
        address = make_url(database_url).set(username=role, password=PASSWORD)
        engines.append(make_engine(address.render_as_string(hide_password=False)))
        return engines[-1].connect()

    yield connect
    for engine in engines:
        engine.dispose()
