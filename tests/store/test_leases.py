"""A lease decides who may write a resource, by the database's clock."""

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import LeaseLostError
from alchemist_core.settings import Settings
from alchemist_core.store.leases import (
    LeaseClaim,
    claim_lease,
    claim_together,
    consume_lease,
    extend_lease,
    find_holder,
    is_held,
    list_holders,
    release_lease,
    renew_leases,
)
from tests.given import insert_rows

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
    with engine.begin() as connection, pytest.raises(LeaseLostError, match="nothing was stored"):
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


def test_an_expired_writer_is_refused_even_if_no_run_took_its_lease(engine: Engine) -> None:
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
        # The process that claims the lease is stopped here, inside its transaction.
        renewing.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert renew_leases(renewing, 1, ttl_s=30.0) == {held.fencing_token}


def test_a_lease_that_its_commit_has_locked_is_neither_lost_nor_waited_for(engine: Engine) -> None:
    held = claim(engine, run_id=1)
    with engine.begin() as connection:
        device = claim_lease(connection, "device:GPU-1:0", run_id=1, ttl_s=60)
    assert held is not None
    assert device is not None
    with engine.connect() as committing, engine.begin() as renewing:
        consume_lease(committing, held)
        renewing.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert renew_leases(renewing, 1, ttl_s=3000) == {held.fencing_token, device.fencing_token}
    extended = "SELECT resource FROM alchemist.leases WHERE expires_at > clock_timestamp() + interval '2000 seconds'"
    with engine.connect() as connection:
        assert connection.execute(text(extended)).scalars().all() == [device.resource]


def test_a_lease_is_extended_and_never_shortened_or_revived(engine: Engine) -> None:
    held = claim(engine, run_id=1)
    assert held is not None
    left = text("SELECT round(extract(EPOCH FROM expires_at - clock_timestamp()) / 1000) FROM alchemist.leases")
    with engine.begin() as connection:
        for ttl_s in (3000, 60):
            extend_lease(connection, held, ttl_s=ttl_s)
            assert connection.execute(left).scalar_one() == 3
        extend_lease(connection, LeaseClaim(held.resource, held.fencing_token - 1), ttl_s=6000)
        assert connection.execute(left).scalar_one() == 3
    expire(engine)
    with engine.begin() as connection:
        extend_lease(connection, held, ttl_s=3000)
        assert find_holder(connection, held.resource) is None


def test_several_resources_are_claimed_all_or_none(engine: Engine) -> None:
    assert claim_together(engine, ["device:b:0"], run_id=1, ttl_s=30.0) is not None
    assert claim_together(engine, ["device:a:0", "device:b:0", "device:c:0"], run_id=2, ttl_s=30.0) is None
    with engine.connect() as connection:
        held = connection.execute(text("SELECT resource, run_id FROM alchemist.leases")).all()
    assert [tuple(row) for row in held] == [("device:b:0", 1)]
    claims = claim_together(engine, ["device:c:0", "device:a:0"], run_id=2, ttl_s=30.0)
    assert claims is not None
    assert [claim.resource for claim in claims] == ["device:a:0", "device:c:0"]


def test_a_lease_that_is_taken_over_is_held_since_then_and_for_the_new_holders_time(engine: Engine) -> None:
    claim(engine, run_id=1, ttl_s=3000)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.leases SET expires_at = clock_timestamp(), acquired_at = now() - interval '1 day'")
        )
    claim(engine, run_id=2, ttl_s=60)
    with engine.connect() as connection:
        row = connection.execute(
            text("""
                SELECT run_id, clock_timestamp() - acquired_at < interval '1 hour' AS is_new,
                    expires_at BETWEEN clock_timestamp() AND clock_timestamp() + interval '60 s' AS is_bounded
                FROM alchemist.leases
            """)
        ).one()
    assert tuple(row) == (2, True, True)


def test_a_heartbeat_renews_its_own_runs_leases_alone(engine: Engine) -> None:
    claim_together(engine, ["a", "b"], run_id=1, ttl_s=30)
    claim_together(engine, ["c"], run_id=2, ttl_s=30)
    with engine.begin() as connection:
        assert len(renew_leases(connection, 1, ttl_s=3000)) == 2
        late = text(
            "SELECT resource FROM alchemist.leases WHERE expires_at > clock_timestamp() + interval '100 s' ORDER BY 1"
        )
        assert connection.execute(late).scalars().all() == ["a", "b"]


def test_a_claim_is_held_until_it_expires_or_another_token_has_its_resource(engine: Engine) -> None:
    first = claim(engine, run_id=1)
    assert first is not None
    with engine.begin() as connection:
        assert is_held(connection, first)
        assert not is_held(connection, LeaseClaim("another", first.fencing_token))
        assert not is_held(connection, LeaseClaim(first.resource, first.fencing_token + 1))
    expire(engine)
    with engine.begin() as connection:
        assert not is_held(connection, first)
        assert find_holder(connection, first.resource) is None
    claim(engine, run_id=2)
    with engine.begin() as connection:
        assert not is_held(connection, first)
        assert find_holder(connection, first.resource) == 2
        assert find_holder(connection, "another") is None


def test_live_holders_of_a_prefix_are_listed_by_name_with_their_process(engine: Engine) -> None:
    with engine.begin() as connection:
        runs = [{"run_id": number, "stage": f"s{number}", "host": f"h{number}", "pid": number} for number in (1, 2)]
        insert_rows(connection, {"runs": runs})
    claim_together(engine, ["device:b:0", "shard:1:1"], run_id=1, ttl_s=30)
    claim_together(engine, ["device:a:0"], run_id=2, ttl_s=30)
    claim_together(engine, ["device:c:0"], run_id=2, ttl_s=0)
    with engine.connect() as connection:
        found = [
            (one.resource, one.run_id, one.stage, one.host, one.pid) for one in list_holders(connection, "device:")
        ]
    assert found == [("device:a:0", 2, "s2", "h2", 2), ("device:b:0", 1, "s1", "h1", 1)]


@pytest.mark.parametrize("is_claimed_before", [False, True], ids=["new", "expired"])
def test_a_process_that_stops_inside_its_claim_is_ended_by_the_server(engine: Engine, is_claimed_before: bool) -> None:
    if is_claimed_before:
        claim(engine, run_id=1, ttl_s=0)
    with engine.begin() as connection:
        held = claim_lease(connection, "shard:1:1", run_id=2, ttl_s=60)
        assert held is not None
        assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "10s"
    with engine.begin() as connection:
        renew_leases(connection, 2, ttl_s=60)
        assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "10s"


def set_clock_back(engine: Engine) -> None:
    """By a day, as its rows see it."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.leases SET expires_at = expires_at + interval '1 day'"))


def test_a_lease_from_before_the_clock_was_set_back_can_be_claimed_and_fences_off_its_holder(engine: Engine) -> None:
    dead = claim(engine, run_id=1)
    set_clock_back(engine)
    taken = claim(engine, run_id=2)
    assert dead is not None
    assert taken is not None
    assert taken.fencing_token > dead.fencing_token
    with engine.begin() as connection, pytest.raises(LeaseLostError):
        consume_lease(connection, dead)


def test_no_reader_waits_for_a_lease_from_before_the_clock_was_set_back(engine: Engine) -> None:
    claim(engine, run_id=1)
    with engine.begin() as connection:
        assert find_holder(connection, "shard:1:1") is not None
    set_clock_back(engine)
    with engine.begin() as connection:
        assert find_holder(connection, "shard:1:1") is None


def test_the_holder_of_a_lease_from_before_the_clock_was_set_back_keeps_it_by_its_next_heartbeat(
    engine: Engine,
) -> None:
    held = claim(engine, run_id=1)
    assert held is not None
    set_clock_back(engine)
    with engine.begin() as connection:
        assert renew_leases(connection, 1, ttl_s=60) == {held.fencing_token}
    assert claim(engine, run_id=2) is None
    with engine.begin() as connection:
        consume_lease(connection, held)


def test_the_longest_lease_that_settings_allow_is_live(engine: Engine) -> None:
    longest_s = max(limit.le for limit in Settings.model_fields["lease_ttl_s"].metadata if hasattr(limit, "le"))
    assert claim(engine, run_id=1, ttl_s=longest_s) is not None
    assert claim(engine, run_id=2) is None
