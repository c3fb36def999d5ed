"""Tests of locks see who waits in their own database alone."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from alchemist_core.store.engine import make_engine
from alchemist_core.store.leases import take_lock
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db


def lock(engine: Engine) -> None:
    with engine.begin() as connection:
        take_lock(connection, "takedowns")


def test_a_session_that_waits_in_another_database_is_not_taken_for_one_of_this(
    engine: Engine, make_database: Callable[..., str]
) -> None:
    elsewhere, ended = make_engine(make_database()), Future[None]()
    ended.set_result(None)
    with ThreadPoolExecutor(1) as thread, elsewhere.begin() as holder:
        take_lock(holder, "takedowns")
        wait_until_blocked(holder, thread.submit(lock, elsewhere))
        with engine.connect() as connection, pytest.raises(AssertionError, match="it did not wait"):
            wait_until_blocked(connection, ended)
    elsewhere.dispose()
