"""Locations that a rater set aside, tried again: put back and counted anew in one transaction, under the shard's lease.

A decided night stays as it is, so that a snapshot of it can be read for ever: what a retry adds belongs to the next revision.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, insert, select

from alchemist_core.store.leases import claim_lease, consume_lease
from alchemist_core.store.ledger import (
    ClaimedShard,
    Provenance,
    ScoringScope,
    ShardCounts,
    ShardOutcome,
    copy_scores,
    read_unscored_pairs,
    store_measures,
    store_outcome,
)
from alchemist_core.store.nights import hold_open_night
from alchemist_core.store.queries import load_query
from alchemist_core.store.registry import insert_faults, read_shard
from alchemist_core.store.tables import AnyRow, Night, QuarantinedSample, RetriedSample, Shard, ShardScore

TRANSIENT = "transient"


@dataclass(frozen=True, slots=True)
class Retry:
    """A claimed shard, the places in it that are tried again, and those of their pairs that have no score yet."""

    claimed: ClaimedShard
    ordinals: tuple[int, ...]
    rows: Sequence[AnyRow]


def find_retryable(engine: Engine, scope: ScoringScope, reason: str) -> dict[int, int]:
    """Return shards in the ledger with locations set aside for a reason: shard_id and how many."""
    parameters = {"rater_id": scope.rater_id, "dataset_ids": list(scope.dataset_ids), "reason": reason}
    with engine.connect() as connection:
        rows = connection.execute(load_query("find_retryable_shards"), parameters)
        return {row.shard_id: row.n_locations for row in rows}


def count_at_ingest(engine: Engine, scope: ScoringScope, reason: str) -> int:
    """Count the locations that ingest quarantined for a reason: they were never a rater's to try again."""
    bad = QuarantinedSample
    is_meant = bad.is_transient if reason == TRANSIENT else bad.reason == reason
    statement = (
        select(func.count(bad.quarantine_id))
        .join(Shard, Shard.shard_id == bad.shard_id)
        .where(bad.rater_id.is_(None), is_meant, Shard.state == "verified", Shard.dataset_id.in_(scope.dataset_ids))
    )
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def known_reasons(engine: Engine, rater_id: int) -> list[str]:
    """Return the reasons for which the rater has set anything aside."""
    statement = select(QuarantinedSample.reason).where(QuarantinedSample.rater_id == rater_id).distinct()
    with engine.connect() as connection:
        return sorted(connection.execute(statement).scalars())


def claim_retry(
    engine: Engine, scope: ScoringScope, shard_id: int, *, reason: str, run_id: int, ttl_s: float
) -> Retry | None:
    """Claim a shard by the lease that scoring claims too; none when somebody holds it or nothing is left to try."""
    bad = QuarantinedSample
    is_meant = bad.is_transient if reason == TRANSIENT else bad.reason == reason
    where = (bad.shard_id == shard_id, bad.rater_id == scope.rater_id, is_meant)
    with engine.begin() as connection:
        lease = claim_lease(connection, f"shard:{scope.rater_id}:{shard_id}", run_id=run_id, ttl_s=ttl_s)
        if lease is None:
            return None
        # Under the lease: nobody else moves these rows now.
        ordinals = tuple(connection.execute(select(bad.ordinal).where(*where).order_by(bad.ordinal)).scalars())
        if not ordinals:
            consume_lease(connection, lease)
            return None
        claimed = ClaimedShard(read_shard(connection, shard_id), lease)
    tried = set(ordinals)
    rows = [row for row in read_unscored_pairs(engine, shard_id, scope.rater_id) if row.ordinal in tried]
    return Retry(claimed, ordinals, rows)


def commit_retry(
    engine: Engine, retry: Retry, scope: ScoringScope, *, outcome: ShardOutcome, provenance: Provenance
) -> ShardCounts:
    """Move what could be scored from set aside to scored, and keep the rest with the reason that it has now.

    Raises:
        LeaseLostError: If the lease expired: nothing is stored.
    """
    return store_outcome(
        engine, retry.claimed, scope, outcome,
        commit=lambda connection, kept: _commit(connection, retry, scope, kept, provenance),
    )  # fmt: skip


def _commit(
    connection: Connection, retry: Retry, scope: ScoringScope, outcome: ShardOutcome, provenance: Provenance
) -> ShardCounts:
    shard_id, rater_id = retry.claimed.shard.shard_id, scope.rater_id
    consume_lease(connection, retry.claimed.lease)
    bad = QuarantinedSample
    put_back = (bad.shard_id == shard_id, bad.rater_id == rater_id, bad.ordinal.in_(retry.ordinals))
    connection.execute(delete(bad).where(*put_back))
    copied = copy_scores(connection, rater_id, outcome)
    store_measures(connection, outcome)
    insert_faults(connection, shard_id, outcome.faults, stage="score", rater_id=rater_id, run_id=provenance.run_id)
    still_bad = {fault.ordinal for fault in outcome.faults}
    _join_night(connection, retry.claimed.shard, rater_id, [i for i in retry.ordinals if i not in still_bad])
    values = {"shard_id": shard_id, "rater_id": rater_id, "n_computed": copied["n_computed"]}
    return ShardCounts(*connection.execute(load_query("rewrite_ledger_row"), values).one())


def _join_night(connection: Connection, shard: AnyRow, rater_id: int, ordinals: Sequence[int]) -> None:
    """Let retried locations belong to the shard's night while it is open, else to the next revision."""
    find = (
        select(Night.state)
        .join(ShardScore, ShardScore.night_id == Night.night_id)
        .where(ShardScore.shard_id == shard.shard_id, ShardScore.rater_id == rater_id)
        .with_for_update(read=True, of=Night)
    )
    if not ordinals or connection.execute(find).scalar_one() == "scored":
        return
    night_id = hold_open_night(connection, shard.dataset_id, shard.crawl_date, rater_id)
    place = {"rater_id": rater_id, "shard_id": shard.shard_id, "night_id": night_id}
    connection.execute(insert(RetriedSample), [place | {"ordinal": ordinal} for ordinal in ordinals])
