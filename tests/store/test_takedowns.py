"""Takedowns: a snapshot knows them by their last number, so numbers have to be committed in their order."""

from threading import Thread

import pytest
from sqlalchemy import Engine, insert, text

from alchemist_core.store.leases import take_lock
from alchemist_core.store.samples import take_down
from alchemist_core.store.tables import Takedown

pytestmark = pytest.mark.db


def test_a_takedown_waits_for_one_that_has_begun(engine: Engine) -> None:
    first, second = bytes(32), bytes([1] * 32)
    later = Thread(target=take_down, args=(engine, [second], "asked"), kwargs={"actor": "ann"})
    with engine.begin() as connection:
        take_lock(connection, "takedowns")
        later.start()
        later.join(0.3)
        assert later.is_alive()
        connection.execute(insert(Takedown).values(image_hash=first, reason="asked", requested_by="bob"))
    later.join(20)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT image_hash FROM alchemist.takedowns ORDER BY takedown_id")).scalars()
        assert [bytes(one) for one in found] == [first, second]
