"""A lease that was written before the database's clock was set back does not lock its resource until that time."""

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import LeaseLostError
from alchemist_core.settings import Settings
from alchemist_core.store.leases import LeaseClaim, claim_lease, consume_lease, find_holder, renew_leases

pytestmark = pytest.mark.db


def claim(engine: Engine, run_id: int, ttl_s: float = 60) -> LeaseClaim | None:
    with engine.begin() as connection:
        return claim_lease(connection, "shard:1:1", run_id=run_id, ttl_s=ttl_s)


def set_clock_back(engine: Engine) -> None:
    """By a day, as its rows see it."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.leases SET expires_at = expires_at + interval '1 day'"))


def test_the_lease_of_the_dead_can_be_claimed_and_fences_them_off(engine: Engine) -> None:
    dead = claim(engine, run_id=1)
    set_clock_back(engine)
    taken = claim(engine, run_id=2)
    assert dead is not None
    assert taken is not None
    assert taken.fencing_token > dead.fencing_token
    with engine.begin() as connection, pytest.raises(LeaseLostError):
        consume_lease(connection, dead)


def test_no_reader_waits_for_it(engine: Engine) -> None:
    claim(engine, run_id=1)
    with engine.begin() as connection:
        assert find_holder(connection, "shard:1:1") is not None
    set_clock_back(engine)
    with engine.begin() as connection:
        assert find_holder(connection, "shard:1:1") is None


def test_its_holder_makes_it_an_ordinary_one_by_the_next_heartbeat(engine: Engine) -> None:
    held = claim(engine, run_id=1)
    assert held is not None
    set_clock_back(engine)
    with engine.begin() as connection:
        assert renew_leases(connection, 1, ttl_s=60) == {held.fencing_token}
    assert claim(engine, run_id=2) is None
    with engine.begin() as connection:
        consume_lease(connection, held)


def test_the_longest_lease_that_settings_allow_is_none_of_them(engine: Engine) -> None:
    longest_s = max(limit.le for limit in Settings.model_fields["lease_ttl_s"].metadata if hasattr(limit, "le"))
    assert claim(engine, run_id=1, ttl_s=longest_s) is not None
    assert claim(engine, run_id=2) is None
