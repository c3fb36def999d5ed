"""Connections with the roles that migrations create, and connections that are rolled back in a database of their module."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine

from alchemist_core.store.engine import make_engine
from tests.conftest import dispose_after, roll_back_after


@pytest.fixture(scope="module")
def shared(make_database: Callable[[], str]) -> Iterator[Engine]:
    """A database of all tests of a module that roll back what they do."""
    yield from dispose_after(make_database())


@pytest.fixture
def rolled_back(shared: Engine) -> Iterator[Connection]:
    """A connection to the module's database, rolled back afterwards."""
    yield from roll_back_after(shared)


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
