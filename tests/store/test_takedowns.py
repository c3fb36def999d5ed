"""Takedowns: a snapshot knows them by their last number, so numbers have to be committed in their order."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, insert, text

from alchemist_core.store.leases import take_lock
from alchemist_core.store.samples import take_down
from alchemist_core.store.tables import Takedown
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db


def test_a_takedown_waits_for_one_that_has_begun(engine: Engine) -> None:
    first, second = bytes(32), bytes([1] * 32)
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as connection:
            take_lock(connection, "takedowns")
            later = thread.submit(take_down, engine, [second], "asked", actor="ann")
            wait_until_blocked(connection, later)
            connection.execute(insert(Takedown).values(image_hash=first, reason="asked", requested_by="bob"))
        later.result()
    with engine.connect() as connection:
        found = connection.execute(text("SELECT image_hash FROM alchemist.takedowns ORDER BY takedown_id")).scalars()
        assert [bytes(one) for one in found] == [first, second]
