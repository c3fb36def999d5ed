"""A lease says who may write what now, by the database's clock."""

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import LeaseLostError
from alchemist_core.store.leases import (
    LeaseClaim,
    claim_lease,
    claim_together,
    consume_lease,
    find_holder,
    release_lease,
    renew_leases,
)

pytestmark = pytest.mark.db


def claim(engine: Engine, run_id: int, ttl_s: float = 60) -> LeaseClaim | None:
    with engine.begin() as connection:
        return claim_lease(connection, "shard:1:1", run_id=run_id, ttl_s=ttl_s)


def expire(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.leases SET expires_at = clock_timestamp() - interval '1 second'"))


def test_a_live_lease_cannot_be_claimed_by_another_run(engine: Engine) -> None:
    assert claim(engine, run_id=1) is not None
    assert claim(engine, run_id=2) is None


def test_an_expired_lease_is_claimed_with_a_larger_token(engine: Engine) -> None:
    first = claim(engine, run_id=1)
    expire(engine)
    second = claim(engine, run_id=2)
    assert first is not None
    assert second is not None
    assert second.fencing_token > first.fencing_token


def test_a_writer_whose_lease_was_taken_over_is_refused(engine: Engine) -> None:
    paused = claim(engine, run_id=1)
    expire(engine)
    taken = claim(engine, run_id=2)
    assert paused is not None
    assert taken is not None
    with engine.begin() as connection, pytest.raises(LeaseLostError, match="nothing of it was stored"):
        consume_lease(connection, paused)
    with engine.begin() as connection:
        consume_lease(connection, taken)


def test_a_consumed_lease_is_free_when_its_transaction_ends_and_held_when_it_fails(engine: Engine) -> None:
    held = claim(engine, run_id=1)
    assert held is not None
    with engine.connect() as connection:
        consume_lease(connection, held)
        connection.rollback()
    assert claim(engine, run_id=2) is None
    with engine.begin() as connection:
        consume_lease(connection, held)
    assert claim(engine, run_id=2) is not None


def test_an_expired_writer_is_refused_even_if_nobody_took_its_lease(engine: Engine) -> None:
    paused = claim(engine, run_id=1)
    expire(engine)
    assert paused is not None
    with engine.begin() as connection, pytest.raises(LeaseLostError):
        consume_lease(connection, paused)


def test_a_heartbeat_renews_live_leases_and_never_revives_an_expired_one(engine: Engine) -> None:
    held = claim(engine, run_id=1)
    assert held is not None
    with engine.begin() as connection:
        assert renew_leases(connection, 1, ttl_s=60) == {held.fencing_token}
    expire(engine)
    with engine.begin() as connection:
        assert renew_leases(connection, 1, ttl_s=60) == set()
        assert find_holder(connection, held.resource) is None


def test_releasing_a_lost_lease_leaves_the_new_holder_alone(engine: Engine) -> None:
    lost = claim(engine, run_id=1)
    expire(engine)
    claim(engine, run_id=2)
    assert lost is not None
    with engine.begin() as connection:
        release_lease(connection, lost)
        assert find_holder(connection, lost.resource) is not None


def test_asking_in_vain_does_not_keep_the_holder_from_renewing(engine: Engine) -> None:
    with engine.begin() as connection:
        held = claim_lease(connection, "device:GPU-1:0", run_id=1, ttl_s=30.0)
    assert held is not None
    with engine.connect() as asking, engine.begin() as renewing:
        assert claim_lease(asking, "device:GPU-1:0", run_id=2, ttl_s=30.0) is None
        # The process that asked is stopped here, inside its transaction.
        renewing.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert renew_leases(renewing, 1, ttl_s=30.0) == {held.fencing_token}


def test_several_resources_are_claimed_all_or_none(engine: Engine) -> None:
    assert claim_together(engine, ["device:b:0"], run_id=1, ttl_s=30.0) is not None
    assert claim_together(engine, ["device:a:0", "device:b:0", "device:c:0"], run_id=2, ttl_s=30.0) is None
    with engine.connect() as connection:
        held = connection.execute(text("SELECT resource, run_id FROM alchemist.leases")).all()
    assert [tuple(row) for row in held] == [("device:b:0", 1)]
    claims = claim_together(engine, ["device:c:0", "device:a:0"], run_id=2, ttl_s=30.0)
    assert claims is not None
    assert [claim.resource for claim in claims] == ["device:a:0", "device:c:0"]
