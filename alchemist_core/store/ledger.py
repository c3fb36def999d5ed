"""The ledger of scored shards: claims, and the one transaction that stores a shard's scores and marks it as scored.

Exactly once: scores, quarantine rows and the mark commit together, under a fenced lease, or not at all.

Letters: N samples of a shard · M measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg2.errors import LockNotAvailable, UniqueViolation
from sqlalchemy import Connection, Engine, delete, func, insert, select, text
from sqlalchemy.exc import OperationalError

from alchemist_core.code_version import code_version
from alchemist_core.heuristics.measures import MEASURES
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.store.copy import copy_columns
from alchemist_core.store.leases import LeaseClaim, claim_lease, consume_lease, lost, release_lease
from alchemist_core.store.nights import hold_open_night
from alchemist_core.store.queries import load_query
from alchemist_core.store.registry import insert_faults, mark_unreadable, read_shard
from alchemist_core.store.tables import AnyRow, Night, QuarantinedSample, RetriedSample, Shard, ShardScore

# Kept by the session and emptied at each commit: a new table for every shard would bloat the catalogue.
MEASURED_TABLE = """
    CREATE TEMPORARY TABLE IF NOT EXISTS measured (sample_id bigint, clarity real, frequency real, edge_density real)
    ON COMMIT DELETE ROWS
"""
# A process that is stopped inside a transaction would keep its row locks, and with them every other slot, for ever. Between two
# statements of these transactions lie milliseconds.
END_SILENCE = "SET LOCAL idle_in_transaction_session_timeout = '10s'; SET LOCAL lock_timeout = '10s'"
# A row in passing costs an eighth of a look by the index.
SPREAD, SPREAD_FREE = 8, 1_000


@dataclass(frozen=True, slots=True)
class ScoringScope:
    """What a scoring run looks at: one rater over some datasets, one crawl date or all."""

    rater_id: int
    dataset_ids: tuple[int, ...]
    crawl_date: date | None = None
    # Shards that this run could not read: it leaves them to a later one.
    skipped_ids: tuple[int, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Return the scope as query parameters."""
        return {
            "rater_id": self.rater_id, "dataset_ids": list(self.dataset_ids), "crawl_date": self.crawl_date,
            "skipped_ids": list(self.skipped_ids),
        }  # fmt: skip


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
class ShardOutcome:
    """What scoring made of a shard's samples: one score or one fault each, and heuristics of those that had none."""

    sample_id_N: NDArray[np.int64]
    score_N: NDArray[np.float32]
    measured_id_N: NDArray[np.int64]
    measure_NM: NDArray[np.float32]
    faults: Sequence[Fault] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """How scores came about."""

    run_id: int
    device: str
    dtype: str


def claim_unscored_shard(engine: Engine, scope: ScoringScope, *, run_id: int, ttl_s: float) -> ClaimedShard | None:
    """Claim a shard that the rater has not scored and that nobody else is scoring; none where a stopped holder had to be ended."""
    try:
        with engine.begin() as connection:
            return _claim(connection, scope, run_id=run_id, ttl_s=ttl_s)
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        _end_stalled(engine)
        return None


def _claim(connection: Connection, scope: ScoringScope, *, run_id: int, ttl_s: float) -> ClaimedShard | None:
    connection.execute(text(END_SILENCE))
    shard_id = connection.execute(load_query("claim_unscored_shard"), scope.parameters()).scalar()
    if shard_id is None:
        return None
    lease = claim_lease(connection, f"shard:{scope.rater_id}:{shard_id}", run_id=run_id, ttl_s=ttl_s)
    if lease is None:
        return None
    if _is_scored(connection, scope.rater_id, shard_id):
        # The claim waited for a holder whose lease had run out while it was committing.
        release_lease(connection, lease)
        return None
    return ClaimedShard(read_shard(connection, shard_id), lease)


def give_up_shard(engine: Engine, claimed: ClaimedShard, *, state: str | None, reason: str) -> None:
    """Give a claimed shard back unscored; with a state, mark it as missing or changed, so that nobody claims it before it is repaired."""
    with engine.begin() as connection:
        release_lease(connection, claimed.lease)
        if state is not None:
            mark_unreadable(connection, claimed.shard.shard_id, state, reason)


def _end_stalled(engine: Engine) -> None:
    """End whoever holds an expired lease's row; for when a lock was waited for too long."""
    with engine.begin() as connection:
        connection.execute(load_query("end_stalled_sessions"))


def _is_scored(connection: Connection, rater_id: int, shard_id: int) -> bool:
    where = (ShardScore.rater_id == rater_id, ShardScore.shard_id == shard_id)
    return connection.execute(select(ShardScore.shard_id).where(*where)).first() is not None


def count_unscored(engine: Engine, scope: ScoringScope) -> tuple[int, int]:
    """Return how many shards and locations the rater has left to score."""
    with engine.connect() as connection:
        n_shards, n_samples = connection.execute(load_query("count_unscored_shards"), scope.parameters()).one()
        return n_shards, n_samples


def read_unscored_pairs(engine: Engine, shard_id: int, rater_id: int) -> Sequence[AnyRow]:
    """Return a shard's good locations whose sample the rater has not scored, in the tar's order, with the image's bytes."""
    parameters = {"shard_id": shard_id, "rater_id": rater_id, "image_exts": sorted(IMAGE_EXTS)}
    with engine.connect() as connection:
        return connection.execute(load_query("unscored_samples"), parameters).all()


def commit_shard(
    engine: Engine, claimed: ClaimedShard, scope: ScoringScope, *, outcome: ShardOutcome, provenance: Provenance
) -> ShardCounts:
    """Store a shard's scores, heuristics and faults and mark it as scored; scores that others stored meanwhile are reused.

    Raises:
        LeaseLostError: If the lease expired: nothing is stored.
    """
    return store_outcome(
        engine, claimed, scope, outcome,
        commit=lambda connection, kept: _commit(connection, claimed, scope, kept, provenance),
    )  # fmt: skip


def store_outcome(
    engine: Engine, claimed: ClaimedShard, scope: ScoringScope, outcome: ShardOutcome,
    *, commit: Callable[[Connection, ShardOutcome], ShardCounts],
) -> ShardCounts:  # fmt: skip
    """Commit a shard's outcome in one transaction, again for as long as another's transaction stands in its way."""
    while True:
        try:
            with engine.begin() as connection:
                return commit(connection, outcome)
        except UniqueViolation:
            # Another shard with one of these samples was committed first: its scores are there now, and are the same.
            outcome = without_scored(engine, claimed, scope, outcome)
        except (LockNotAvailable, OperationalError) as error:
            # Another transaction is storing some of these samples; the COPY raises it bare, other statements as SQLAlchemy's.
            if not isinstance(getattr(error, "orig", error), LockNotAvailable):
                raise
            _end_stalled(engine)


def _commit(
    connection: Connection, claimed: ClaimedShard, scope: ScoringScope, outcome: ShardOutcome, provenance: Provenance
) -> ShardCounts:
    night_id = _begin_commit(connection, claimed, scope)
    copied = copy_scores(connection, scope.rater_id, outcome)
    store_heuristics(connection, outcome)
    shard_id, run_id = claimed.shard.shard_id, provenance.run_id
    if outcome.faults:
        insert_faults(connection, shard_id, outcome.faults, stage="score", rater_id=scope.rater_id, run_id=run_id)
    values = copied | {
        "shard_id": shard_id, "rater_id": scope.rater_id, "night_id": night_id, "run_id": run_id,
        "code_version": code_version(), "device": provenance.device, "dtype": provenance.dtype,
    }  # fmt: skip
    return ShardCounts(*connection.execute(load_query("write_ledger_row"), values).one())


def _begin_commit(connection: Connection, claimed: ClaimedShard, scope: ScoringScope) -> int:
    """Return the open night that the shard belongs to; its lease is given back, and free once this transaction ends."""
    lease, shard = claimed.lease, claimed.shard
    night = {"dataset_id": shard.dataset_id, "crawl_date": shard.crawl_date, "rater_id": scope.rater_id}
    values = night | {"resource": lease.resource, "token": lease.fencing_token}
    begun = connection.execute(load_query("begin_shard_commit"), values).one()
    if begun.fencing_token is None:
        raise lost(lease)
    return begun.night_id or hold_open_night(connection, **night)


def copy_scores(connection: Connection, rater_id: int, outcome: ShardOutcome) -> dict[str, int]:
    """Return what the ledger row is counted by: the rows as the server counted them, and where their ids lie."""
    # In the order of the key: the index is filled from left to right, and no two shards can lock each other out.
    order = np.argsort(outcome.sample_id_N)
    rater_id_N = np.full(len(order), rater_id, np.int32)
    columns: dict[str, NDArray[Any]] = {
        "rater_id": rater_id_N,
        "score": outcome.score_N[order],
        "sample_id": outcome.sample_id_N[order],
    }
    n_computed = copy_columns(connection, "alchemist.scores", columns)
    first_id, last_id = id_range(columns["sample_id"])
    return {"n_computed": n_computed, "first_id": first_id, "last_id": last_id}


def store_heuristics(connection: Connection, outcome: ShardOutcome) -> None:
    """Store the heuristics of images that had none."""
    if not len(outcome.measured_id_N):
        return
    connection.execute(text(MEASURED_TABLE))
    columns: dict[str, NDArray[Any]] = {"sample_id": outcome.measured_id_N}
    columns |= dict(zip(MEASURES, outcome.measure_NM.T, strict=True))
    copy_columns(connection, "measured", columns)
    connection.execute(load_query("store_heuristics"))


def without_scored(engine: Engine, claimed: ClaimedShard, scope: ScoringScope, outcome: ShardOutcome) -> ShardOutcome:
    """Leave out what another shard scored meanwhile."""
    rows = read_unscored_pairs(engine, claimed.shard.shard_id, scope.rater_id)
    is_left_N = np.isin(outcome.sample_id_N, np.array([row.sample_id for row in rows], np.int64))
    return replace(outcome, sample_id_N=outcome.sample_id_N[is_left_N], score_N=outcome.score_N[is_left_N])


def id_range(sorted_id_N: NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and last id, or (1, 0) where reading all between them would cost more than a look for each.

    >>> id_range(np.array([5, 7, 9])), id_range(np.array([1, 90_000_000])), id_range(np.array([], np.int64))
    ((5, 9), (1, 0), (1, 0))
    """
    if not len(sorted_id_N):
        return 1, 0
    first_id, last_id = int(sorted_id_N[0]), int(sorted_id_N[-1])
    return (first_id, last_id) if last_id - first_id < SPREAD * len(sorted_id_N) + SPREAD_FREE else (1, 0)


TRANSIENT = "transient"


@dataclass(frozen=True, slots=True)
class Retry:
    """A claimed shard, the places in it that are tried again, and those of their samples that have no score yet."""

    claimed: ClaimedShard
    ordinals: tuple[int, ...]
    rows: Sequence[AnyRow]


def find_retryable(engine: Engine, scope: ScoringScope, reason: str) -> dict[int, int]:
    """Return shards in the ledger with locations quarantined for a reason: shard_id and how many."""
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
    """Move what could be scored from quarantined to scored, and keep the rest with the reason that it has now.

    Raises:
        LeaseLostError: If the lease expired: nothing is stored.
    """
    return store_outcome(
        engine, retry.claimed, scope, outcome,
        commit=lambda connection, kept: _commit_retry(connection, retry, scope, kept, provenance),
    )  # fmt: skip


def _commit_retry(
    connection: Connection, retry: Retry, scope: ScoringScope, outcome: ShardOutcome, provenance: Provenance
) -> ShardCounts:
    shard_id, rater_id = retry.claimed.shard.shard_id, scope.rater_id
    consume_lease(connection, retry.claimed.lease)
    bad = QuarantinedSample
    put_back = (bad.shard_id == shard_id, bad.rater_id == rater_id, bad.ordinal.in_(retry.ordinals))
    connection.execute(delete(bad).where(*put_back))
    copied = copy_scores(connection, rater_id, outcome)
    store_heuristics(connection, outcome)
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


RECENT_RUNS = 50


@dataclass(frozen=True, slots=True)
class ScoringSpeed:
    """Samples that one worker slot computes in a second, on which device, and by whose runs that was measured."""

    pairs_per_s: float
    device: str
    rater_id: int


def scoring_speed(engine: Engine, rater_id: int) -> ScoringSpeed | None:
    """Return a rater's recent speed; else that of the rater that scored last; none before anything was scored."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("measure_scoring_speed"), {"n_runs": RECENT_RUNS}).all()
    row = next((row for row in rows if row.rater_id == rater_id), rows[0] if rows else None)
    return None if row is None else ScoringSpeed(row.n_computed / row.seconds, row.device, row.rater_id)
