"""Quarantined samples are scored again under the lease of scoring; scored ones join a night that is still open."""

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import LeaseLostError
from alchemist_core.shards.faults import Reason, make_fault
from alchemist_core.store.ledger import (
    TRANSIENT,
    Provenance,
    Retry,
    ScoringScope,
    ShardCounts,
    ShardOutcome,
    claim_retry,
    commit_retry,
    count_at_ingest,
    find_retryable,
    known_reasons,
)
from tests.given import insert_rows

pytestmark = pytest.mark.db
SCOPE, TRUNCATED = ScoringScope(1, (1,)), Reason.TRUNCATED_IMAGE.value


@pytest.fixture
def store(engine: Engine) -> Engine:
    """Shard 1: positions 0 to 3 with samples 1 to 4; 1 is scored, 2 and 3 were quarantined by the rater, 4 by ingest."""
    with engine.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 1, "name": "web"}, {"dataset_id": 2, "name": "books"}],
            "raters": [{"rater_id": 0, "name": "q"}, {"rater_id": 1, "name": "r"}, {"rater_id": 2, "name": "s"}],
            "shards": [
                {"shard_id": 0, "dataset_id": 2, "crawl_date": "2026-01-01", "n_samples": 2},
                {"shard_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01", "n_samples": 4},
                {"shard_id": 2, "dataset_id": 2, "crawl_date": "2026-01-01", "n_samples": 1},
            ],
            "samples": [{"sample_id": n} for n in range(1, 5)],
            "sample_locations": [{"shard_id": 1, "ordinal": n, "sample_id": n + 1} for n in range(3)],
            "quarantined_samples": [
                {"shard_id": 1, "ordinal": 2, "rater_id": 1, "reason": TRUNCATED},
                {"shard_id": 1, "ordinal": 1, "rater_id": 1, "reason": "unreadable", "is_transient": True},
                {"shard_id": 1, "ordinal": 3, "reason": TRUNCATED},
                {"shard_id": 1, "ordinal": 1, "rater_id": 2, "reason": "other"},
                {"shard_id": 1, "ordinal": 1, "rater_id": 0, "stage": "score", "reason": "other"},
                {"shard_id": 0, "ordinal": 1, "rater_id": 1, "reason": "absent"},
                {"shard_id": 2, "ordinal": 0, "reason": TRUNCATED},
                {"shard_id": 2, "ordinal": 1, "rater_id": 1, "reason": "unreadable", "is_transient": True},
            ],
            "nights": [{"night_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01", "rater_id": 1}],
            "shard_scores": [{"rater_id": 1, "shard_id": 1, "night_id": 1, "n_scored": 1, "n_quarantined": 3}],
            "scores": [{"rater_id": 1, "sample_id": 1, "score": 9}],
        })  # fmt: skip
        connection.execute(text("ALTER TABLE alchemist.nights ALTER COLUMN night_id RESTART WITH 100"))
        connection.execute(
            text("ALTER TABLE alchemist.quarantined_samples ALTER COLUMN quarantine_id RESTART WITH 100")
        )
    return engine


def claim(store: Engine, reason: str, run_id: int = 1) -> Retry | None:
    return claim_retry(store, SCOPE, 1, reason=reason, run_id=run_id, ttl_s=60)


def commit(store: Engine, retry: Retry, *sample_ids: int, faults: tuple[int, ...] = ()) -> ShardCounts:
    id_N = np.array(sample_ids, np.int64)
    measure_NM = np.full((len(id_N), 3), 0.25, np.float32)
    found = [make_fault(at, f"{at:06d}", Reason.TRUNCATED_IMAGE, "still cut") for at in faults]
    outcome = ShardOutcome(id_N, np.full(len(id_N), 0.5, np.float32), id_N, measure_NM, found)
    return commit_retry(store, retry, SCOPE, outcome=outcome, provenance=Provenance(5, "cpu", "float32"))


def ask(store: Engine, statement: str) -> list[tuple]:
    with store.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def test_what_a_rater_quarantined_is_counted_by_reason_and_what_ingest_did_apart(store: Engine) -> None:
    assert find_retryable(store, SCOPE, TRUNCATED) == {1: 1}
    assert find_retryable(store, SCOPE, TRANSIENT) == {1: 1}
    assert find_retryable(store, ScoringScope(2, (1,)), TRANSIENT) == {}
    # Dataset 2 has one of an earlier and one of a later reason.
    assert find_retryable(store, ScoringScope(1, (2,)), TRUNCATED) == {}
    assert known_reasons(store, 1) == sorted(["absent", TRUNCATED, "unreadable"])
    assert (count_at_ingest(store, SCOPE, TRUNCATED), count_at_ingest(store, SCOPE, TRANSIENT)) == (1, 0)
    assert count_at_ingest(store, SCOPE, "unreadable") == 0
    with store.begin() as connection:
        connection.execute(text("UPDATE alchemist.shards SET state = 'missing'"))
    assert count_at_ingest(store, SCOPE, TRUNCATED) == 0
    assert find_retryable(store, SCOPE, TRUNCATED) == {}


def test_only_the_places_that_are_meant_are_tried_and_only_by_one(store: Engine) -> None:
    retry = claim(store, TRANSIENT)
    assert retry is not None
    assert retry.ordinals == (1,)
    assert [row.sample_id for row in retry.rows] == [2]
    assert claim(store, TRUNCATED, run_id=2) is None


def test_the_places_of_one_reason_are_tried_alone(store: Engine) -> None:
    retry = claim(store, "unreadable")
    assert retry is not None
    assert retry.ordinals == (1,)


@pytest.mark.parametrize(("shard_id", "dataset_id"), [(1, 1), (2, 2)])
def test_only_the_places_of_the_shard_itself_are_tried(store: Engine, shard_id: int, dataset_id: int) -> None:
    scope = ScoringScope(1, (dataset_id,))
    retry = claim_retry(store, scope, shard_id, reason=TRANSIENT, run_id=1, ttl_s=60)
    assert retry is not None
    assert (retry.claimed.shard.shard_id, retry.ordinals) == (shard_id, (1,))


def test_where_nothing_is_left_to_try_the_lease_is_given_back(store: Engine) -> None:
    assert claim(store, "no such reason") is None
    assert ask(store, "SELECT count(*) FROM alchemist.leases") == [(0,)]


def test_what_is_scored_joins_the_open_night_and_what_still_fails_keeps_todays_reason(store: Engine) -> None:
    with store.begin() as connection:
        connection.execute(text("UPDATE alchemist.quarantined_samples SET reason = 'unreadable' WHERE ordinal = 2"))
    retry = claim(store, "unreadable")
    assert retry is not None
    assert retry.ordinals == (1, 2)
    counts = commit(store, retry, 2, faults=(2,))
    assert (counts.n_samples, counts.n_scored, counts.n_reused, counts.n_quarantined) == (4, 2, 0, 2)
    bad = "SELECT ordinal, rater_id, reason, stage, run_id FROM alchemist.quarantined_samples WHERE shard_id = 1 ORDER BY 1, 2"
    assert ask(store, bad) == [
        (1, 0, "other", "score", None), (1, 2, "other", "score", None), (2, 1, TRUNCATED, "score", 5), (3, None, TRUNCATED, "ingest", None),
    ]  # fmt: skip
    others = (
        "SELECT shard_id, ordinal FROM alchemist.quarantined_samples WHERE shard_id <> 1 AND rater_id = 1 ORDER BY 1"
    )
    assert ask(store, others) == [(0, 1), (2, 1)]
    assert ask(store, "SELECT count(*) FROM alchemist.retried_samples") == [(0,)]
    assert ask(store, "SELECT sample_id FROM alchemist.scores WHERE rater_id = 1 ORDER BY 1") == [(1,), (2,)]
    assert ask(store, "SELECT count(*) FROM alchemist.leases") == [(0,)]


@pytest.mark.parametrize("state", ["selectable", "held", "released"])
def test_a_night_that_was_decided_stays_and_its_next_revision_gets_what_is_scored(store: Engine, state: str) -> None:
    with store.begin() as connection:
        decided = "UPDATE alchemist.nights SET state = :state, decided_at = now(), decided_by = 'ann', reason = 'why'"
        connection.execute(text(decided), {"state": state})
    retry = claim(store, TRANSIENT)
    assert retry is not None
    commit(store, retry, 2)
    assert ask(store, "SELECT rater_id, shard_id, ordinal, night_id FROM alchemist.retried_samples") == [(1, 1, 1, 100)]
    assert ask(store, "SELECT night_id, revision, state FROM alchemist.nights ORDER BY 1") == [
        (1, 1, state),
        (100, 2, "scored"),
    ]


STORED_AT = "2026-01-02 00:00:00+00"


@pytest.mark.parametrize(
    ("state", "n_scored", "is_dated_anew"),
    [("scored", 1, True), ("scored", 0, False), ("selectable", 1, False), ("rejected", 1, False)],
)
def test_scores_that_a_retry_adds_to_an_open_night_are_newer_than_its_checks(
    store: Engine, state: str, n_scored: int, is_dated_anew: bool
) -> None:
    with store.begin() as connection:
        decided = """
            UPDATE alchemist.nights SET state = CAST(:state AS varchar), reason = 'why', decided_by = 'ann',
                decided_at = CASE WHEN :state <> 'scored' THEN now() END
        """
        connection.execute(text(decided), {"state": state})
        connection.execute(text("UPDATE alchemist.shard_scores SET scored_at = :at"), {"at": STORED_AT})
    retry = claim(store, TRANSIENT)
    assert retry is not None
    commit(store, retry, *(2,) * n_scored, faults=() if n_scored else (1,))
    assert ask(store, f"SELECT scored_at > '{STORED_AT}' FROM alchemist.shard_scores") == [(is_dated_anew,)]


def test_where_all_still_fails_no_night_is_opened(store: Engine) -> None:
    with store.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.nights SET state = 'selectable', decided_at = now(), decided_by = 'ann'")
        )
    retry = claim(store, TRANSIENT)
    assert retry is not None
    commit(store, retry, faults=(1,))
    assert ask(store, "SELECT count(*) FROM alchemist.nights") == [(1,)]


def test_a_retry_whose_lease_expired_stores_nothing(store: Engine) -> None:
    retry = claim(store, TRANSIENT)
    assert retry is not None
    with store.begin() as connection:
        connection.execute(text("UPDATE alchemist.leases SET expires_at = clock_timestamp()"))
    with pytest.raises(LeaseLostError):
        commit(store, retry, 2)
    assert ask(store, "SELECT count(*) FROM alchemist.scores") == [(1,)]
    assert ask(store, "SELECT count(*) FROM alchemist.quarantined_samples WHERE rater_id = 1") == [(4,)]
