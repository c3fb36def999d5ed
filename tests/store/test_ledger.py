"""The ledger row is counted by the database, whatever way the shard's ids lie; a shard that was scored meanwhile is not claimed."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from alchemist_core.data.faults import Fault
from alchemist_core.store import ledger
from alchemist_core.store.leases import claim_lease
from alchemist_core.store.ledger import ClaimedShard, Provenance, ScoringScope, ShardCounts, ShardOutcome
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_rater

pytestmark = pytest.mark.db

SCOPE = ScoringScope(rater_id=1, dataset_ids=(1,))


@pytest.fixture(autouse=True)
def _store(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)


def add_shard(engine: Engine, shard_id: int, sample_ids: Sequence[int], *, scored: Sequence[int] = ()) -> None:
    """A verified shard with one location for each id, in this order; `scored` have their score already."""
    with engine.begin() as connection:
        known = set(connection.execute(text("SELECT sample_id FROM alchemist.samples")).scalars())
        insert_rows(connection, {
            "shards": [{"shard_id": shard_id, "dataset_id": 1, "crawl_date": "2026-01-01", "n_samples": len(sample_ids)}],
            "samples": [{"sample_id": i} for i in sorted(set(sample_ids) - known)],
            "sample_locations": [{"shard_id": shard_id, "ordinal": n, "sample_id": i} for n, i in enumerate(sample_ids)],
            "scores": [{"rater_id": 1, "sample_id": i, "score": 0.5} for i in scored],
        })  # fmt: skip


def commit(engine: Engine, sample_ids: Sequence[int], faults: Sequence[Fault] = ()) -> ShardCounts:
    claimed = ledger.claim_unscored_shard(engine, SCOPE, run_id=1, ttl_s=60)
    assert claimed is not None
    ids = np.array(sample_ids, np.int64)
    nothing = np.empty(0, np.int64), np.empty((0, 3), np.float32)
    outcome = ShardOutcome(ids, np.zeros(len(ids), np.float32), *nothing, faults=faults)
    return ledger.commit_shard(engine, claimed, SCOPE, outcome=outcome, provenance=Provenance(1, "cpu", "float32"))


@pytest.mark.parametrize(
    ("located", "scored", "computed"),
    [
        ([1, 2, 3, 4], [], [1, 2, 3, 4]),  # without a gap
        ([1, 2, 9, 4], [], [9, 4, 2, 1]),  # with gaps
        ([1, 2, 2, 3, 1], [], [1, 2, 3]),  # pairs that lie twice
        ([70_000_000, 1, 2, 3], [70_000_000], [1, 2, 3]),  # one of them scored before, far away
        ([70_000_000, 1, 2, 3], [2], [1, 3, 70_000_000]),  # too far apart to be read as a range
        ([5, 6, 7], [5, 6, 7], []),  # all of them scored before
    ],
)
def test_what_the_ledger_counts_is_what_lies_there(
    engine: Engine, located: list[int], scored: list[int], computed: list[int]
) -> None:
    add_shard(engine, 1, located, scored=scored)
    counts = commit(engine, computed)
    assert counts == ShardCounts(len(located), len(located), len(located) - len(computed), 0)


def test_a_location_that_was_set_aside_counts_once_even_if_its_pair_has_a_score(engine: Engine) -> None:
    add_shard(engine, 1, [1, 2, 3], scored=[2])
    fault = Fault(1, "000001", "truncated_image", "half", is_transient=False)
    assert commit(engine, [1, 3], [fault]) == ShardCounts(3, 2, 0, 1)


@pytest.mark.parametrize("computed", [[1, 2, 4], [1, 2], [1, 2, 3, 5], []])
def test_a_shard_that_lost_a_location_is_refused(engine: Engine, computed: list[int]) -> None:
    """Also where the ids that came make a range of their own, and where an id came that is not the shard's."""
    add_shard(engine, 1, [1, 2, 3, 4])
    with pytest.raises(IntegrityError, match="ck_shard_scores_accounting"):
        commit(engine, computed)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.scores")).scalar_one() == 0
        assert connection.execute(text("SELECT count(*) FROM alchemist.leases")).scalar_one() == 1


def test_a_shard_whose_holder_outlived_its_lease_while_committing_is_not_claimed_again(engine: Engine) -> None:
    add_shard(engine, 1, [1])
    with engine.begin() as connection:
        lease = claim_lease(connection, "shard:1:1", run_id=1, ttl_s=0.3)
        assert lease is not None
        shard = ledger.read_shard(connection, 1)
    claims: list[ClaimedShard | None] = []
    competitor = threading.Thread(
        target=lambda: claims.append(ledger.claim_unscored_shard(engine, SCOPE, run_id=2, ttl_s=60))
    )
    outcome = ShardOutcome(np.array([1]), np.zeros(1, np.float32), np.empty(0, np.int64), np.empty((0, 3), np.float32))
    with engine.begin() as connection:
        ledger._commit(connection, ClaimedShard(shard, lease), SCOPE, outcome, Provenance(1, "cpu", "float32"))
        time.sleep(0.4)
        competitor.start()
        time.sleep(0.3)
        assert claims == []  # it waits for this commit
    competitor.join()
    assert claims == [None]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.leases")).scalar_one() == 0
