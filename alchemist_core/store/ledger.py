"""The ledger of scored shards: claims, and the one transaction that stores a shard's scores and marks it as scored.

Exactly once: scores, quarantine rows and the mark commit together, under a fenced lease, or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from alchemist_core.code_version import code_version
from alchemist_core.data.faults import Fault
from alchemist_core.store.copy_in import copy_rows
from alchemist_core.store.leases import LeaseClaim, claim_lease, release_lease, require_lease
from alchemist_core.store.nights import hold_open_night
from alchemist_core.store.queries import load_query
from alchemist_core.store.registry import insert_faults, read_shard
from alchemist_core.store.tables import AnyRow


@dataclass(frozen=True, slots=True)
class ScoringScope:
    """What a scoring run looks at: one rater over some datasets, one crawl date or all."""

    rater_id: int
    dataset_ids: tuple[int, ...]
    crawl_date: date | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the scope as query parameters."""
        return {"rater_id": self.rater_id, "dataset_ids": list(self.dataset_ids), "crawl_date": self.crawl_date}


@dataclass(frozen=True, slots=True)
class ClaimedShard:
    """A shard that this run scores."""

    shard: AnyRow
    lease: LeaseClaim


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """The ledger row as the database counted it."""

    n_samples: int
    n_scored: int
    n_reused: int
    n_quarantined: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """How scores came about."""

    run_id: int
    device: str
    dtype: str


def claim_unscored_shard(engine: Engine, scope: ScoringScope, *, run_id: int, ttl_s: float) -> ClaimedShard | None:
    """Claim a shard that the rater has not scored and that nobody else is scoring."""
    with engine.begin() as connection:
        shard_id = connection.execute(load_query("claim_unscored_shard"), scope.parameters()).scalar()
        if shard_id is None:
            return None
        lease = claim_lease(connection, f"shard:{scope.rater_id}:{shard_id}", run_id=run_id, ttl_s=ttl_s)
        return None if lease is None else ClaimedShard(read_shard(connection, shard_id), lease)


def count_unscored(engine: Engine, scope: ScoringScope) -> tuple[int, int]:
    """Return how many shards and locations the rater has left to score."""
    with engine.connect() as connection:
        n_shards, n_samples = connection.execute(load_query("count_unscored_shards"), scope.parameters()).one()
        return n_shards, n_samples


def read_shard_pairs(engine: Engine, shard_id: int, rater_id: int) -> Sequence[AnyRow]:
    """Return a shard's good locations in the tar's order, each with the mark whether its pair is scored already."""
    with engine.connect() as connection:
        return connection.execute(load_query("shard_pairs"), {"shard_id": shard_id, "rater_id": rater_id}).all()


def commit_shard(
    engine: Engine,
    claimed: ClaimedShard,
    scope: ScoringScope,
    *,
    scores: dict[int, float],
    faults: Sequence[Fault],
    provenance: Provenance,
) -> ShardCounts | None:
    """Store a shard's scores and mark it as scored, or None when a pair was scored elsewhere meanwhile (read it again).

    Raises:
        LeaseLostError: If the lease expired: nothing is stored.
    """
    try:
        with engine.begin() as connection:
            require_lease(connection, claimed.lease)
            rows = ((scope.rater_id, score, sample_id) for sample_id, score in scores.items())
            copy_rows(connection, "alchemist.scores", ("rater_id", "score", "sample_id"), rows)
            shard_id = claimed.shard.shard_id
            insert_faults(
                connection, shard_id, faults, stage="score", rater_id=scope.rater_id, run_id=provenance.run_id
            )
            counts = _write_ledger_row(connection, claimed.shard, scope, n_computed=len(scores), provenance=provenance)
            release_lease(connection, claimed.lease)
            return counts
    except IntegrityError as error:
        if "pk_scores" in str(error.orig) or "_pkey" in str(error.orig):
            return None
        raise


def _write_ledger_row(
    connection: Connection, shard: AnyRow, scope: ScoringScope, *, n_computed: int, provenance: Provenance
) -> ShardCounts:
    night_id = hold_open_night(connection, shard.dataset_id, shard.crawl_date, scope.rater_id)
    values = {
        "shard_id": shard.shard_id, "rater_id": scope.rater_id, "night_id": night_id, "n_computed": n_computed,
        "run_id": provenance.run_id, "code_version": code_version(), "device": provenance.device, "dtype": provenance.dtype,
    }  # fmt: skip
    return ShardCounts(*connection.execute(load_query("write_ledger_row"), values).one())
