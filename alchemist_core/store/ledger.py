"""The ledger of scored shards: claims, and the transaction that stores a shard's scores and marks it as scored.

Each shard is scored exactly once: scores, quarantine rows and ledger row commit together, under a fenced lease, or not at all.

Letters: N samples of a shard · M measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple

from psycopg2.errors import LockNotAvailable, UniqueViolation
from sqlalchemy import Connection, Engine, delete, func, insert, select, text
from sqlalchemy.exc import OperationalError

from alchemist_core.code_version import code_version
from alchemist_core.heuristics.measures import MEASURES
from alchemist_core.lazy import NDArray, np
from alchemist_core.settings import load_settings
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.store.copy import copy_columns
from alchemist_core.store.embeddings import EmbeddingFile, insert_file
from alchemist_core.store.leases import LeaseClaim, claim_lease, consume_lease, extend_lease, lost, release_lease
from alchemist_core.store.nights import hold_open_night
from alchemist_core.store.queries import load_query
from alchemist_core.store.registry import StoredShard, insert_faults, mark_unreadable, read_shard
from alchemist_core.store.tables import Night, QuarantinedSample, RetriedSample, Shard, ShardScore

# One table per session, emptied at each commit: a new table for every shard would bloat the catalogue.
MEASURED_TABLE = """
    CREATE TEMPORARY TABLE IF NOT EXISTS measured (sample_id bigint, clarity real, frequency real, edge_density real)
    ON COMMIT DELETE ROWS
"""
# A process that is stopped inside a transaction would keep its row locks and block all other slots. These transactions
# never pause for more than milliseconds, so the server can end an idle one.
END_SILENCE = "SET LOCAL idle_in_transaction_session_timeout = '10s'; SET LOCAL lock_timeout = '10s'"
# Reading a row in a scan takes an eighth of the time of an index lookup.
SPREAD, SPREAD_FREE = 8, 1_000


class UnscoredLocation(NamedTuple):
    """A readable location whose sample has no score, with the byte range of its image (None if the record has no image)."""

    ordinal: int
    key: str
    sample_id: int
    caption: str
    image_hash: bytes
    byte_offset: int | None
    size_bytes: int | None
    is_measured: bool
    is_withheld: bool = False
    """Whether the image was taken down and the rater is a scorer, which does not get it."""


@dataclass(frozen=True, slots=True)
class ScoringScope:
    """Scope of a scoring run: a rater, datasets, and one crawl date or all."""

    rater_id: int
    dataset_ids: tuple[int, ...]
    crawl_date: date | None = None
    # Shards that this run could not read; a later run tries them again.
    skipped_ids: tuple[int, ...] = ()

    def of(self, rater_id: int) -> ScoringScope:
        """Return the same scope for another rater."""
        return replace(self, rater_id=rater_id)

    def parameters(self) -> dict[str, Any]:
        """Return the scope as query parameters."""
        return {
            "rater_id": self.rater_id, "dataset_ids": list(self.dataset_ids), "crawl_date": self.crawl_date,
            "skipped_ids": list(self.skipped_ids),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClaimedShard:
    """A shard that this run scores."""

    shard: StoredShard
    lease: LeaseClaim


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """Counts of a ledger row, as the database counted them."""

    n_samples: int
    n_scored: int
    n_reused: int
    n_quarantined: int


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """Outcome of a shard: a score or a fault for each sample, and heuristics of samples that had none."""

    sample_id_N: NDArray[np.int64]
    score_N: NDArray[np.float32]
    measured_id_N: NDArray[np.int64]
    measure_NM: NDArray[np.float32]
    faults: Sequence[Fault] = ()
    embeddings: EmbeddingFile | None = None
    """The file of the samples' embeddings, which was written before."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How scores were computed: code version, device, number format and run."""

    run_id: int
    device: str
    dtype: str


def claim_unscored_shard(engine: Engine, scope: ScoringScope, *, run_id: int, ttl_s: float) -> ClaimedShard | None:
    """Claim a shard that the rater has not scored and no other run is scoring. None if there is none, or a stalled session was ended."""
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
        # The claim waited for a holder that committed after its lease had expired: the shard is scored.
        release_lease(connection, lease)
        return None
    return ClaimedShard(read_shard(connection, shard_id), lease)


def claim_beside(
    engine: Engine, claimed: ClaimedShard, rater_id: int, *, run_id: int, ttl_s: float
) -> ClaimedShard | None:
    """Claim a shard that this run has claimed for one rater for another rater too, so that both score it in one pass.

    None if that rater has scored it, another run is scoring it with that rater, or a stalled session was ended.
    """
    try:
        with engine.begin() as connection:
            lease = _claim_beside(connection, claimed.shard.shard_id, rater_id, run_id=run_id, ttl_s=ttl_s)
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        _end_stalled(engine)
        return None
    return None if lease is None else ClaimedShard(claimed.shard, lease)


def _claim_beside(
    connection: Connection, shard_id: int, rater_id: int, *, run_id: int, ttl_s: float
) -> LeaseClaim | None:
    connection.execute(text(END_SILENCE))
    lease = claim_lease(connection, f"shard:{rater_id}:{shard_id}", run_id=run_id, ttl_s=ttl_s)
    if lease is not None and _is_scored(connection, rater_id, shard_id):
        release_lease(connection, lease)
        return None
    return lease


def give_up_shard(engine: Engine, claimed: ClaimedShard, *, state: str | None, reason: str) -> None:
    """Release a claimed shard unscored. With a state, mark it as missing or changed, so that it is not claimed until it is repaired."""
    with engine.begin() as connection:
        release_lease(connection, claimed.lease)
        if state is not None:
            mark_unreadable(connection, claimed.shard.shard_id, state, reason)


def _end_stalled(engine: Engine) -> None:
    """End sessions that lock the row of an expired lease; called after a lock timeout."""
    with engine.begin() as connection:
        connection.execute(load_query("end_stalled_sessions"))


def _is_scored(connection: Connection, rater_id: int, shard_id: int) -> bool:
    where = (ShardScore.rater_id == rater_id, ShardScore.shard_id == shard_id)
    return connection.execute(select(ShardScore.shard_id).where(*where)).first() is not None


def count_unscored(engine: Engine, scope: ScoringScope) -> tuple[int, int]:
    """Return the number of shards and of locations that the rater has not scored."""
    with engine.connect() as connection:
        n_shards, n_samples = connection.execute(load_query("count_unscored_shards"), scope.parameters()).one()
        return n_shards, n_samples


def read_unscored_pairs(engine: Engine, shard_id: int, rater_id: int) -> list[UnscoredLocation]:
    """Return a shard's readable locations whose sample the rater has not scored, in the tar's order, with the image's byte range."""
    parameters = {"shard_id": shard_id, "rater_id": rater_id, "image_exts": sorted(IMAGE_EXTS)}
    with engine.connect() as connection:
        return [UnscoredLocation._make(row) for row in connection.execute(load_query("unscored_samples"), parameters)]


def commit_shard(
    engine: Engine, claimed: ClaimedShard, scope: ScoringScope, *, outcome: ShardOutcome, provenance: Provenance
) -> ShardCounts:
    """Store a shard's scores, heuristics and faults and mark it as scored. Scores that other runs stored meanwhile are reused.

    Raises:
        LeaseLostError: The lease expired; nothing is stored.
    """
    return store_outcome(
        engine, claimed, scope, outcome,
        commit=lambda connection, kept: _commit(connection, claimed, scope, kept, provenance),
    )  # fmt: skip


def store_outcome(
    engine: Engine, claimed: ClaimedShard, scope: ScoringScope, outcome: ShardOutcome,
    *, commit: Callable[[Connection, ShardOutcome], ShardCounts],
) -> ShardCounts:  # fmt: skip
    """Commit a shard's outcome in one transaction; repeat it after a conflict with another transaction."""
    while True:
        try:
            with engine.begin() as connection:
                return commit(connection, outcome)
        except UniqueViolation:
            _extend(engine, claimed)
            # A shard with some of the same samples was committed first, so their scores are stored already, and are equal.
            outcome = without_scored(engine, claimed, scope, outcome)
        except (LockNotAvailable, OperationalError) as error:
            # Another transaction is storing some of these samples. COPY raises psycopg2's error, other statements SQLAlchemy's.
            if not isinstance(getattr(error, "orig", error), LockNotAvailable):
                raise
            _extend(engine, claimed)
            _end_stalled(engine)


def _extend(engine: Engine, claimed: ClaimedShard) -> None:
    """Extend the lease between two tries of a commit: the heartbeat could not while the first one locked it."""
    with engine.begin() as connection:
        extend_lease(connection, claimed.lease, ttl_s=load_settings().lease_ttl_s)


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
    counts = ShardCounts(*connection.execute(load_query("write_ledger_row"), values).one())
    if outcome.embeddings is not None:
        insert_file(connection, scope.rater_id, shard_id, outcome.embeddings)
    return counts


def _begin_commit(connection: Connection, claimed: ClaimedShard, scope: ScoringScope) -> int:
    """Release the shard's lease, which is free when this transaction ends, and return the open night that the shard belongs to."""
    lease, shard = claimed.lease, claimed.shard
    values = {
        "dataset_id": shard.dataset_id, "crawl_date": shard.crawl_date, "rater_id": scope.rater_id,
        "resource": lease.resource, "token": lease.fencing_token,
    }  # fmt: skip
    begun = connection.execute(load_query("begin_shard_commit"), values).one()
    if begun.fencing_token is None:
        raise lost(lease)
    return begun.night_id or hold_open_night(connection, shard.dataset_id, shard.crawl_date, scope.rater_id)


def copy_scores(connection: Connection, rater_id: int, outcome: ShardOutcome) -> dict[str, int]:
    """COPY the scores; return the parameters for counting the ledger row: the number of rows, and the range of their ids."""
    # In the order of the key, so that the index grows in order and two shards cannot deadlock.
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
    """Return the outcome without samples that another shard scored meanwhile."""
    rows = read_unscored_pairs(engine, claimed.shard.shard_id, scope.rater_id)
    is_left_N = np.isin(outcome.sample_id_N, np.array([row.sample_id for row in rows], np.int64))
    return replace(outcome, sample_id_N=outcome.sample_id_N[is_left_N], score_N=outcome.score_N[is_left_N])


def id_range(sorted_id_N: NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and last id, or (1, 0) if a scan of all ids between them would cost more than a lookup of each.

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
    """A claimed shard, the locations to retry, and those of their samples that have no score yet."""

    claimed: ClaimedShard
    ordinals: tuple[int, ...]
    rows: Sequence[UnscoredLocation]


def find_retryable(engine: Engine, scope: ScoringScope, reason: str) -> dict[int, int]:
    """Return the number of locations quarantined for a reason, by shard_id."""
    parameters = {"rater_id": scope.rater_id, "dataset_ids": list(scope.dataset_ids), "reason": reason}
    with engine.connect() as connection:
        rows = connection.execute(load_query("find_retryable_shards"), parameters)
        return {row.shard_id: row.n_locations for row in rows}


def count_at_ingest(engine: Engine, scope: ScoringScope, reason: str) -> int:
    """Count the locations that ingest quarantined for a reason: scoring cannot retry these."""
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
    """Return the reasons for which the rater has quarantined locations."""
    statement = select(QuarantinedSample.reason).where(QuarantinedSample.rater_id == rater_id).distinct()
    with engine.connect() as connection:
        return sorted(connection.execute(statement).scalars())


def claim_retry(
    engine: Engine, scope: ScoringScope, shard_id: int, *, reason: str, run_id: int, ttl_s: float
) -> Retry | None:
    """Claim a shard by the same lease as scoring. None if another run holds it, or nothing is left to retry."""
    bad = QuarantinedSample
    is_meant = bad.is_transient if reason == TRANSIENT else bad.reason == reason
    where = (bad.shard_id == shard_id, bad.rater_id == scope.rater_id, is_meant)
    with engine.begin() as connection:
        lease = claim_lease(connection, f"shard:{scope.rater_id}:{shard_id}", run_id=run_id, ttl_s=ttl_s)
        if lease is None:
            return None
        # The lease keeps other runs from changing these rows.
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
    """Move locations that could be scored from quarantined to scored; the others stay quarantined with their new reason.

    Raises:
        LeaseLostError: The lease expired; nothing is stored.
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
    if outcome.embeddings is not None:
        insert_file(connection, rater_id, shard_id, outcome.embeddings)
    values = {"shard_id": shard_id, "rater_id": rater_id, "n_computed": copied["n_computed"]}
    return ShardCounts(*connection.execute(load_query("rewrite_ledger_row"), values).one())


def _join_night(connection: Connection, shard: StoredShard, rater_id: int, ordinals: Sequence[int]) -> None:
    """Assign retried locations to the shard's night if it is open, else to the next revision."""
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
    """Samples per second of one worker slot, the device, and the rater whose runs were measured."""

    pairs_per_s: float
    device: str
    rater_id: int


def scoring_speed(engine: Engine, rater_id: int, kind: str) -> ScoringSpeed | None:
    """Return a rater's recent speed, else, of a trained one, that of the trained rater that scored last; None if none has scored yet.

    Scorers are too unlike for the speed of another one to say anything.
    """
    with engine.connect() as connection:
        rows = connection.execute(load_query("measure_scoring_speed"), {"n_runs": RECENT_RUNS}).all()
    other = next((row for row in rows if row.kind == kind == "trained"), None)
    row = next((row for row in rows if row.rater_id == rater_id), other)
    return None if row is None else ScoringSpeed(row.n_computed / row.seconds, row.device, row.rater_id)
