"""Leases with fencing tokens: the right to write to a resource for a time, by the database's clock.

The heartbeat of a run renews its leases. Any run can claim an expired lease; the claim gets a larger token, and a
commit with the old token is refused. A lease that ends more than an hour from now (the limit of `settings.lease_ttl_s`)
was written before the clock was set back. It counts as expired, because it would lock its resource for that long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, text

from alchemist_core.errors import LeaseLostError
from alchemist_core.store.queries import load_query


def take_lock(connection: Connection, name: str) -> None:
    """Wait for a lock."""
    connection.execute(text("SELECT alchemist.take_lock(:name)"), {"name": name})


def try_lock(connection: Connection, name: str) -> bool:
    """Take a lock unless another session holds it."""
    return bool(connection.execute(text("SELECT alchemist.try_lock(:name)"), {"name": name}).scalar_one())


# The first condition keeps unsuccessful claims from locking the row of a live lease, which its holder must renew.
CLAIM = text("""
    SET LOCAL idle_in_transaction_session_timeout = '10s';
    INSERT INTO alchemist.leases (resource, fencing_token, run_id, expires_at)
    SELECT
        CAST(:resource AS varchar), nextval('alchemist.fencing_tokens'), CAST(:run_id AS bigint),
        clock_timestamp() + make_interval(secs => :ttl_s)
    WHERE NOT EXISTS (
        SELECT FROM alchemist.leases AS held
        WHERE held.resource = :resource AND alchemist.is_live_lease(held.expires_at)
    )
    ON CONFLICT (resource) DO UPDATE SET
        fencing_token = excluded.fencing_token,
        run_id = excluded.run_id,
        acquired_at = clock_timestamp(),
        -- Computed again, because the statement may have waited for the holder's transaction since.
        expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
    WHERE NOT alchemist.is_live_lease(leases.expires_at)
    RETURNING fencing_token
""")
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
    # As in `renew_leases`: a process that is stopped before it commits keeps the row locked.
    token = connection.execute(CLAIM, {"resource": resource, "run_id": run_id, "ttl_s": ttl_s}).scalar()
    return None if token is None else LeaseClaim(resource, token)


def claim_together(engine: Engine, resources: Sequence[str], *, run_id: int, ttl_s: float) -> list[LeaseClaim] | None:
    """Claim all resources in one transaction, or none if a live lease holds one of them.

    They are claimed in sorted order, so that two claims of several resources cannot wait for each other.
    """
    claims = []
    with engine.connect() as connection, connection.begin() as transaction:
        for resource in sorted(resources):
            claim = claim_lease(connection, resource, run_id=run_id, ttl_s=ttl_s)
            if claim is None:
                transaction.rollback()
                return None
            claims.append(claim)
    return claims


def renew_leases(connection: Connection, run_id: int, *, ttl_s: float) -> set[int]:
    """Extend every live lease of a run and return their tokens. An expired lease is lost even if no other run claimed it.

    A lease that a commit of the run has locked is held, but not extended: no other run can claim it before the commit ends.
    """
    # A process that is stopped before this commit would keep the rows locked, so the server ends its session.
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10s'"))
    rows = connection.execute(load_query("renew_leases"), {"run_id": run_id, "ttl_s": ttl_s})
    return set(rows.scalars())


def extend_lease(connection: Connection, claim: LeaseClaim, *, ttl_s: float) -> None:
    """Extend a live lease; does nothing if it was lost."""
    statement = text("""
        UPDATE alchemist.leases SET expires_at = greatest(expires_at, clock_timestamp() + make_interval(secs => :ttl_s))
        WHERE resource = :resource AND fencing_token = :token AND expires_at > clock_timestamp()
    """)
    values = {"resource": claim.resource, "token": claim.fencing_token, "ttl_s": ttl_s}
    connection.execute(statement, values)


def consume_lease(connection: Connection, claim: LeaseClaim) -> None:
    """Release a lease first in the transaction that completes its work: a competitor waits for the commit, then finds the work done.

    Raises:
        LeaseLostError: The lease expired, or another process holds it.
    """
    if connection.execute(CONSUME, {"resource": claim.resource, "token": claim.fencing_token}).scalar() is None:
        raise lost(claim)


def lost(claim: LeaseClaim) -> LeaseLostError:
    """Return the error for a writer that lost its lease."""
    return LeaseLostError(
        f"The lease on {claim.resource} (token {claim.fencing_token}) expired or was taken over, so nothing was stored. "
        "Run the command again."
    )


def release_lease(connection: Connection, claim: LeaseClaim) -> None:
    """Release a resource; does nothing if the lease was lost."""
    statement = text("DELETE FROM alchemist.leases WHERE resource = :resource AND fencing_token = :token")
    connection.execute(statement, {"resource": claim.resource, "token": claim.fencing_token})


def find_holder(connection: Connection, resource: str) -> int | None:
    """Return the run that holds the resource now, if any."""
    statement = text("""
        SELECT run_id FROM alchemist.leases WHERE resource = :resource AND alchemist.is_live_lease(expires_at)
    """)
    return connection.execute(statement, {"resource": resource}).scalar()


@dataclass(frozen=True, slots=True)
class Holder:
    """The run that holds a resource, with what a person needs to find its process."""

    resource: str
    run_id: int
    stage: str
    host: str
    pid: int
    acquired_at: datetime

    def describe(self) -> str:
        """Return the run as text, for use in a sentence."""
        since = f"{self.acquired_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"run {self.run_id} ({self.stage}, host {self.host}, pid {self.pid}) since {since}"


def list_holders(connection: Connection, prefix: str) -> list[Holder]:
    """Return the live leases of all resources whose name starts with the prefix, by name."""
    statement = text("""
        SELECT leases.resource, leases.run_id, runs.stage, runs.host, runs.pid, leases.acquired_at
        FROM alchemist.leases INNER JOIN alchemist.runs ON leases.run_id = runs.run_id
        WHERE starts_with(leases.resource, :prefix) AND alchemist.is_live_lease(leases.expires_at)
        ORDER BY leases.resource
    """)
    return [Holder(*row) for row in connection.execute(statement, {"prefix": prefix})]


def is_held(connection: Connection, claim: LeaseClaim) -> bool:
    """Return whether a claim still holds its resource."""
    statement = text("""
        SELECT count(*) FROM alchemist.leases
        WHERE resource = :resource AND fencing_token = :token AND alchemist.is_live_lease(expires_at)
    """)
    values = {"resource": claim.resource, "token": claim.fencing_token}
    return bool(connection.execute(statement, values).scalar_one())
