"""Connections with the roles that migrations create."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection

from alchemist_core.store.engine import make_engine


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
