"""Connections with the roles that migrations create."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine

from alchemist_core.store.engine import make_engine


@pytest.fixture(scope="module")
def shared(make_database: Callable[[], str]) -> Iterator[Engine]:
    """A database of all tests of a module that roll back what they do."""
    made = make_engine(make_database())
    yield made
    made.dispose()


@pytest.fixture
def rolled_back(shared: Engine) -> Iterator[Connection]:
    """A connection to the module's database, rolled back afterwards."""
    with shared.connect() as made:
        yield made
        made.rollback()


@pytest.fixture
def log_in(database_url: str, log_in_at: Callable[[str, str], str]) -> Iterator[Callable[[str], Connection]]:
    """log_in(role): a connection of that role, so that its own settings count."""
    engines = []

    def connect(role: str) -> Connection:
        engines.append(make_engine(log_in_at(database_url, role)))
        return engines[-1].connect()

    yield connect
    for engine in engines:
        engine.dispose()
