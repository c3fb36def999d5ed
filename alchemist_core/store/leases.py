"""Leases with fencing tokens: who may write what now, by the database's clock.

A lease is renewed by its run's heartbeat. An expired one can be claimed by anybody; the claim draws a larger token, and a
commit that still holds the old token is refused. A lease that ends later than any can (`settings.lease_ttl_s` is an hour at
most) was written before the clock was set back: it is as good as expired, or its resource would be locked for that long.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from alchemist_core.errors import LeaseLostError

CONSUME = text("""
    DELETE FROM alchemist.leases
    WHERE resource = :resource AND fencing_token = :token AND expires_at > clock_timestamp()
    RETURNING fencing_token
""")


@dataclass(frozen=True, slots=True)
class LeaseClaim:
    """A resource that this process holds until its lease expires."""

    resource: str
    fencing_token: int


def claim_lease(connection: Connection, resource: str, *, run_id: int, ttl_s: float) -> LeaseClaim | None:
    """Claim a resource unless a live lease holds it."""
    # As in `renew_leases`: whoever is stopped before its commit would keep the row locked.
    statement = text("""
        SET LOCAL idle_in_transaction_session_timeout = '10s';
        INSERT INTO alchemist.leases (resource, fencing_token, run_id, expires_at)
        VALUES (:resource, nextval('alchemist.fencing_tokens'), :run_id, clock_timestamp() + make_interval(secs => :ttl_s))
        ON CONFLICT (resource) DO UPDATE SET
            fencing_token = excluded.fencing_token,
            run_id = excluded.run_id,
            acquired_at = clock_timestamp(),
            -- Not what was to be inserted: that was reckoned before this statement waited for a holder's transaction.
            expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
        WHERE NOT alchemist.is_live_lease(leases.expires_at)
        RETURNING fencing_token
    """)
    token = connection.execute(statement, {"resource": resource, "run_id": run_id, "ttl_s": ttl_s}).scalar()
    return None if token is None else LeaseClaim(resource, token)


def renew_leases(connection: Connection, run_id: int, *, ttl_s: float) -> set[int]:
    """Extend every live lease of a run and return their tokens; an expired one is lost even if nobody took it."""
    # A process that is stopped before it commits this would keep the rows locked; the server ends its session.
    statement = text("""
        SET LOCAL idle_in_transaction_session_timeout = '10s';
        UPDATE alchemist.leases SET expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
        WHERE run_id = :run_id AND expires_at > clock_timestamp()
        RETURNING fencing_token
    """)
    return set(connection.execute(statement, {"run_id": run_id, "ttl_s": ttl_s}).scalars())


def consume_lease(connection: Connection, claim: LeaseClaim) -> None:
    """Give a lease back at the begin of the transaction that ends what it guards: a competitor waits for the commit, then finds it done.

    Raises:
        LeaseLostError: If the lease expired or another process holds it.
    """
    if connection.execute(CONSUME, {"resource": claim.resource, "token": claim.fencing_token}).scalar() is None:
        raise lost(claim)


def lost(claim: LeaseClaim) -> LeaseLostError:
    """Return the error of a writer whose lease is not its own any more."""
    return LeaseLostError(
        f"The lease on {claim.resource} (token {claim.fencing_token}) expired or was taken over; nothing of it was stored. "
        "Run the command again: it goes on with what is left."
    )


def release_lease(connection: Connection, claim: LeaseClaim) -> None:
    """Give a resource back; a no-op when the lease was lost."""
    statement = text("DELETE FROM alchemist.leases WHERE resource = :resource AND fencing_token = :token")
    connection.execute(statement, {"resource": claim.resource, "token": claim.fencing_token})


def find_holder(connection: Connection, resource: str) -> int | None:
    """Return the run that holds the resource now, if any."""
    statement = text("""
        SELECT run_id FROM alchemist.leases WHERE resource = :resource AND alchemist.is_live_lease(expires_at)
    """)
    return connection.execute(statement, {"resource": resource}).scalar()
