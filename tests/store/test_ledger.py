"""The ledger's transaction: fenced, exactly once, and correct if another shard scored the same sample first."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date

import numpy as np
import pytest
from psycopg2 import InterfaceError, OperationalError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.errors import LeaseLostError
from alchemist_core.shards.faults import Reason, make_fault
from alchemist_core.store import ledger
from alchemist_core.store.engine import make_engine, read_clock
from alchemist_core.store.leases import claim_lease, consume_lease
from alchemist_core.store.ledger import (
    ClaimedShard,
    Provenance,
    ScoringScope,
    ShardCounts,
    ShardOutcome,
    claim_beside,
    claim_unscored_shard,
    commit_shard,
    count_unscored,
    give_up_shard,
    scoring_speed,
    store_outcome,
)
from alchemist_core.store.nights import decide_night
from alchemist_core.store.queries import load_query
from tests.given import insert_rows

pytestmark = pytest.mark.db
SCOPE = ScoringScope(1, (1,))
PROVENANCE = Provenance(1, "cpu", "float32")


@pytest.fixture
def store(engine: Engine) -> Engine:
    """Two shards of three locations that share sample 3, and one empty shard."""
    rows = {
        "datasets": [{"dataset_id": 1, "name": "web"}],
        "raters": [{"rater_id": 1, "name": "r"}],
        "shards": [
            {"shard_id": number, "dataset_id": 1, "crawl_date": "2026-01-01", "n_samples": n}
            for number, n in ((1, 3), (2, 3), (3, 0))
        ],
        "samples": [{"sample_id": number} for number in range(1, 6)],
        "sample_locations": [
            {"shard_id": shard, "ordinal": at, "sample_id": sample}
            for shard, samples in ((1, (1, 2, 3)), (2, (3, 4, 5)))
            for at, sample in enumerate(samples)
        ],
    }
    with engine.begin() as connection:
        insert_rows(connection, rows)
        connection.execute(text("SELECT alchemist.add_partition('scores', 1)"))
    return engine


def claim(store: Engine, run_id: int = 1, ttl_s: float = 60) -> ClaimedShard:
    claimed = claim_unscored_shard(store, SCOPE, run_id=run_id, ttl_s=ttl_s)
    assert claimed is not None
    return claimed


def outcome(*sample_ids: int, score: float = 0.5, faults: tuple[int, ...] = ()) -> ShardOutcome:
    id_N = np.array(sample_ids, np.int64)
    measure_NM = np.full((len(id_N), 3), 0.25, np.float32)
    found = [make_fault(at, f"{at:06d}", Reason.TRUNCATED_IMAGE, "cut") for at in faults]
    return ShardOutcome(id_N, np.full(len(id_N), score, np.float32), id_N, measure_NM, found)


def expire(store: Engine) -> None:
    with store.begin() as connection:
        connection.execute(text("UPDATE alchemist.leases SET expires_at = clock_timestamp()"))


def ask(store: Engine, statement: str) -> list[tuple]:
    with store.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def test_scores_heuristics_faults_and_the_mark_commit_together(store: Engine) -> None:
    counts = commit_shard(store, claim(store), SCOPE, outcome=outcome(2, 1, faults=(2,)), provenance=PROVENANCE)
    assert (counts.n_samples, counts.n_scored, counts.n_reused, counts.n_quarantined) == (3, 2, 0, 1)
    assert ask(store, "SELECT sample_id, score FROM alchemist.scores ORDER BY 1") == [(1, 0.5), (2, 0.5)]
    assert ask(store, "SELECT sample_id, edge_density FROM alchemist.heuristic_scores ORDER BY 1") == [
        (1, 0.25),
        (2, 0.25),
    ]
    assert ask(store, "SELECT ordinal, reason FROM alchemist.quarantined_samples") == [(2, "truncated_image")]
    assert ask(store, "SELECT count(*) FROM alchemist.leases") == [(0,)]


def test_a_shard_that_lost_a_location_is_refused_whole(store: Engine) -> None:
    with pytest.raises(Exception, match="ck_shard_scores_accounting"):
        commit_shard(store, claim(store), SCOPE, outcome=outcome(1, 2), provenance=PROVENANCE)
    for table in ("scores", "heuristic_scores", "shard_scores", "nights"):
        assert ask(store, f"SELECT count(*) FROM alchemist.{table}") == [(0,)]


def test_of_two_workers_on_one_shard_the_one_whose_lease_expired_stores_nothing(store: Engine) -> None:
    paused = claim(store, run_id=1)
    expire(store)
    taken = claim(store, run_id=2)
    assert taken.shard.shard_id == paused.shard.shard_id
    commit_shard(store, taken, SCOPE, outcome=outcome(1, 2, 3, score=0.5), provenance=PROVENANCE)
    with pytest.raises(LeaseLostError, match="nothing was stored"):
        commit_shard(store, paused, SCOPE, outcome=outcome(1, 2, 3, score=9), provenance=PROVENANCE)
    assert ask(store, "SELECT shard_id, n_scored FROM alchemist.shard_scores") == [(1, 3)]
    assert ask(store, "SELECT DISTINCT score FROM alchemist.scores") == [(0.5,)]


def test_a_stale_commit_is_refused_before_its_successor_has_committed(store: Engine) -> None:
    paused = claim(store, run_id=1)
    expire(store)
    claim(store, run_id=2)
    with pytest.raises(LeaseLostError):
        commit_shard(store, paused, SCOPE, outcome=outcome(1, 2, 3), provenance=PROVENANCE)
    assert count_unscored(store, SCOPE)[0] == 3


def test_a_sample_that_another_shard_scored_meanwhile_is_reused(store: Engine) -> None:
    first, second = claim(store), claim(store)
    commit_shard(store, first, SCOPE, outcome=outcome(1, 2, 3), provenance=PROVENANCE)
    counts = commit_shard(store, second, SCOPE, outcome=outcome(5, 3, 4), provenance=PROVENANCE)
    assert (counts.n_scored, counts.n_reused) == (3, 1)
    assert ask(store, "SELECT count(*), count(DISTINCT sample_id) FROM alchemist.scores") == [(5, 5)]
    assert ask(store, "SELECT count(*) FROM alchemist.heuristic_scores") == [(5,)]


def test_a_lock_that_was_waited_for_too_long_is_waited_for_again(store: Engine) -> None:
    holder = store.connect()
    holder.execute(text("LOCK TABLE alchemist.heuristic_scores"))
    n_tries = 0

    def commit(connection: Connection, given: ShardOutcome) -> ShardCounts:
        nonlocal n_tries
        n_tries += 1
        connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
        try:
            connection.execute(text("LOCK TABLE alchemist.heuristic_scores"))
        finally:
            holder.close()
        return ShardCounts(3, len(given.sample_id_N), 0, 0)

    assert store_outcome(store, claim(store), SCOPE, outcome(1, 2, 3), commit=commit).n_scored == 3
    assert n_tries == 2


def test_an_empty_shard_is_completed_with_nothing(store: Engine) -> None:
    claimed = [claim(store) for _ in range(3)][2]
    counts = commit_shard(store, claimed, SCOPE, outcome=outcome(), provenance=PROVENANCE)
    assert (counts.n_samples, counts.n_scored, counts.n_quarantined) == (0, 0, 0)
    assert ask(store, "SELECT shard_id FROM alchemist.shard_scores") == [(3,)]


def test_what_is_claimed_is_not_claimed_again(store: Engine) -> None:
    claimed = [claim(store).shard.shard_id for _ in range(3)]
    assert sorted(claimed) == [1, 2, 3]
    assert claim_unscored_shard(store, SCOPE, run_id=2, ttl_s=60) is None


def test_a_shard_is_claimed_although_other_raters_scored_it_and_its_rater_other_shards(store: Engine) -> None:
    scored = ((1, 2), (3, 2), (2, 1), (2, 3))
    with store.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 2, "name": "s"}, {"rater_id": 3, "name": "t"}],
            "nights": [
                {"night_id": rater, "dataset_id": 1, "crawl_date": "2026-01-01", "rater_id": rater} for rater in (1, 2, 3)
            ],
            "shard_scores": [{"rater_id": rater, "shard_id": shard, "night_id": rater, "n_scored": 3} for rater, shard in scored],
        })  # fmt: skip
    claimed = claim_unscored_shard(store, ScoringScope(2, (1,)), run_id=1, ttl_s=60)
    assert claimed is not None
    assert claimed.shard.shard_id == 2


def test_quarantine_rows_and_the_mark_store_rater_time_and_reason(store: Engine) -> None:
    commit_shard(
        store, claim(store), SCOPE, outcome=outcome(1, 2, faults=(2,)), provenance=Provenance(7, "cuda", "bfloat16")
    )
    assert ask(store, "SELECT rater_id, shard_id, run_id, device, dtype FROM alchemist.shard_scores") == [
        (1, 1, 7, "cuda", "bfloat16")
    ]
    assert ask(store, "SELECT shard_id, key, stage, rater_id, run_id FROM alchemist.quarantined_samples") == [
        (1, "000002", "score", 1, 7)
    ]
    night = "SELECT dataset_id, crawl_date::text, rater_id, revision, state FROM alchemist.nights"
    assert ask(store, night) == [(1, "2026-01-01", 1, 1, "scored")]
    assert ask(store, "SELECT night_id FROM alchemist.shard_scores") == ask(
        store, "SELECT night_id FROM alchemist.nights"
    )


def test_the_shards_of_a_date_go_into_its_open_night_and_later_ones_into_the_next_revision(store: Engine) -> None:
    first, second = claim(store), claim(store)
    commit_shard(store, first, SCOPE, outcome=outcome(1, 2, 3), provenance=PROVENANCE)
    commit_shard(store, second, SCOPE, outcome=outcome(4, 5), provenance=PROVENANCE)
    assert ask(store, "SELECT count(*), count(DISTINCT night_id) FROM alchemist.shard_scores") == [(2, 1)]
    with store.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.nights SET state = 'selectable', decided_at = now(), decided_by = 'a'")
        )
    commit_shard(store, claim(store), SCOPE, outcome=outcome(), provenance=PROVENANCE)
    assert ask(store, "SELECT revision, state FROM alchemist.nights ORDER BY 1") == [(1, "selectable"), (2, "scored")]


def test_a_shard_is_claimed_only_in_scope(store: Engine) -> None:
    with store.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 2, "name": "books"}],
            "shards": [
                {"shard_id": 4, "dataset_id": 2, "crawl_date": "2026-01-01", "n_samples": 1},
                {"shard_id": 5, "dataset_id": 1, "crawl_date": "2026-01-02", "n_samples": 1},
                {"shard_id": 6, "dataset_id": 1, "crawl_date": "2026-01-02", "n_samples": 1, "state": "missing"},
            ],
        })  # fmt: skip
    claimed = [
        claim_unscored_shard(store, scope, run_id=1, ttl_s=60)
        for scope in (
            ScoringScope(1, (1,), date(2026, 1, 2)),
            ScoringScope(1, (1,), date(2026, 1, 2)),
            ScoringScope(1, (2,)),
            ScoringScope(1, (1,), None, (1, 2)),
        )
    ]
    assert [None if one is None else one.shard.shard_id for one in claimed] == [5, None, 4, 3]


def test_a_shard_that_is_given_up_can_be_claimed_again_unless_it_is_marked(store: Engine) -> None:
    give_up_shard(store, claim(store), state=None, reason="")
    assert ask(store, "SELECT state, state_reason FROM alchemist.shards WHERE shard_id = 1") == [("verified", None)]
    again = claim(store)
    assert again.shard.shard_id == 1
    give_up_shard(store, again, state="missing", reason="no file")
    assert ask(store, "SELECT state, state_reason FROM alchemist.shards WHERE shard_id = 1") == [("missing", "no file")]
    assert ask(store, "SELECT count(*) FROM alchemist.leases") == [(0,)]
    assert claim(store).shard.shard_id == 2


def test_measures_that_are_there_already_stay(store: Engine) -> None:
    with store.begin() as connection:
        insert_rows(connection, {"heuristic_scores": [
            {"sample_id": 1, "clarity": 9, "frequency": 9, "edge_density": 9}, {"sample_id": 2, "aesthetic": 5},
        ]})  # fmt: skip
    commit_shard(store, claim(store), SCOPE, outcome=outcome(1, 2, 3), provenance=PROVENANCE)
    assert ask(store, "SELECT sample_id, clarity, aesthetic FROM alchemist.heuristic_scores ORDER BY 1") == [
        (1, 9, None),
        (2, 0.25, 5),
        (3, 0.25, None),
    ]


def test_a_night_cannot_be_decided_while_a_shard_of_it_is_being_committed(store: Engine) -> None:
    first, second = claim(store), claim(store)
    commit_shard(store, first, SCOPE, outcome=outcome(1, 2, 3), provenance=PROVENANCE)
    ((night_id,),) = ask(store, "SELECT night_id FROM alchemist.nights")

    def commit(connection: Connection, _given: ShardOutcome) -> ShardCounts:
        shard = second.shard
        values = {
            "dataset_id": shard.dataset_id, "crawl_date": shard.crawl_date, "rater_id": 1,
            "resource": second.lease.resource, "token": second.lease.fencing_token,
        }  # fmt: skip
        assert connection.execute(load_query("begin_shard_commit"), values).one().night_id == night_id
        with store.connect() as other:
            other.execute(text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(DBAPIError, match="lock timeout"):
                decide_night(other, night_id, state="selectable", actor="ann")
        return ShardCounts(0, 0, 0, 0)

    store_outcome(store, second, SCOPE, outcome(4, 5), commit=commit)


def test_scores_are_dated_when_they_are_written_so_that_a_check_that_began_during_the_commit_is_outdated(
    store: Engine,
) -> None:
    first, read_at = claim(store), []

    def commit(connection: Connection, given: ShardOutcome) -> ShardCounts:
        read_at.append(read_clock(connection))
        return ledger._commit(connection, first, SCOPE, given, PROVENANCE)

    store_outcome(store, first, SCOPE, outcome(1, 2, 3), commit=commit)
    ((scored_at,),) = ask(store, "SELECT scored_at FROM alchemist.shard_scores")
    assert scored_at > read_at[0]


class StoppedCopy:
    """A COPY whose process was stopped: it waits for rows and gets none until it is ended."""

    def __init__(self) -> None:
        self.is_begun, self.is_over = threading.Event(), threading.Event()

    def read(self, size: int = -1) -> bytes:
        self.is_begun.set()
        self.is_over.wait(60)
        return b""


@pytest.fixture
def as_writer(store: Engine, database_url: str, log_in_at: Callable[[str, str], str]) -> Iterator[Engine]:
    """The same store for the writer's role."""
    engine = make_engine(log_in_at(database_url, "alchemist_writer"))
    yield engine
    engine.dispose()


def commit_and_stop(store: Engine, claimed: ClaimedShard, copy: StoppedCopy) -> None:
    """Begin a commit as a scorer does, and stop inside its COPY."""
    with store.connect() as connection:
        consume_lease(connection, claimed.lease)
        cursor = connection.connection.cursor()
        with suppress(OperationalError, InterfaceError):
            cursor.copy_expert("COPY alchemist.scores (rater_id, score, sample_id) FROM STDIN", copy)
        connection.invalidate()


@pytest.mark.parametrize(("holder", "waiter"), [("owner", "owner"), ("owner", "writer"), ("writer", "owner")])
def test_a_process_that_stops_inside_its_copy_is_ended_by_the_run_that_waits_for_its_lease(
    store: Engine, as_writer: Engine, monkeypatch: pytest.MonkeyPatch, holder: str, waiter: str
) -> None:
    monkeypatch.setattr(ledger, "END_SILENCE", "SET LOCAL lock_timeout = '300ms'")
    engines = {"owner": store, "writer": as_writer}
    first, copy = claim(engines[holder], ttl_s=1), StoppedCopy()
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(commit_and_stop, engines[holder], first, copy)
        assert copy.is_begun.wait(20)
        time.sleep(1.1)
        waits = engines[waiter]
        assert claim_unscored_shard(waits, SCOPE, run_id=2, ttl_s=60) is None, "it waited, and ended the session"
        taken = claim(waits, run_id=2)
        copy.is_over.set()
        stopped.result(20)
    assert taken.shard.shard_id == first.shard.shard_id
    commit_shard(store, taken, SCOPE, outcome=outcome(1, 2, 3), provenance=PROVENANCE)
    assert ask(store, "SELECT n_scored FROM alchemist.shard_scores") == [(3,)]


def test_a_claim_beside_another_ends_a_stopped_session_too(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "END_SILENCE", "SET LOCAL lock_timeout = '300ms'")
    other = claim_unscored_shard(store, SCOPE.of(2), run_id=1, ttl_s=1)
    assert other is not None
    claimed, copy = claim(store), StoppedCopy()
    assert claimed.shard.shard_id == other.shard.shard_id
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(commit_and_stop, store, other, copy)
        assert copy.is_begun.wait(20)
        time.sleep(1.1)
        assert claim_beside(store, claimed, 2, run_id=2, ttl_s=60) is None
        assert claim_beside(store, claimed, 2, run_id=2, ttl_s=60) is not None
        copy.is_over.set()
        stopped.result(20)


COMMITTER = """
from alchemist_core.config import Config, Result
from alchemist_core.stages.execution import execute
from tests.store.test_ledger import PROVENANCE, SCOPE, claim, commit_shard, outcome

class Nothing(Config):
    pass

def work(run):
    claimed = claim(run.engine, run_id=run.run_id, ttl_s=3)
    print("committing", flush=True)
    commit_shard(run.engine, claimed, SCOPE, outcome=outcome(1, 2, 3), provenance=PROVENANCE)
    return Result()

execute("score", Nothing(), work, Result)
"""
EXPIRED = "SELECT count(*) FROM alchemist.leases WHERE resource LIKE 'shard:%' AND expires_at < clock_timestamp()"


def test_a_commit_that_takes_longer_than_its_lease_keeps_its_run_and_stores_its_scores_once(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "3")
    monkeypatch.setattr(ledger, "END_SILENCE", "SET LOCAL lock_timeout = '300ms'")
    command = [sys.executable, "-c", COMMITTER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, store.connect() as holder:
        holder.execute(text("LOCK TABLE alchemist.heuristic_scores"))
        assert process.stdout is not None
        assert process.stdout.readline() == "committing\n"
        deadline = time.monotonic() + 8
        while ask(store, EXPIRED) != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # The run's heartbeats go on, and a run that waits for the shard takes its commit for no stalled one.
        assert claim_unscored_shard(store, SCOPE, run_id=0, ttl_s=60) is None
        time.sleep(2)
        assert process.poll() is None
        holder.rollback()
        assert process.wait(30) == 0
    assert ask(store, "SELECT shard_id, n_scored FROM alchemist.shard_scores") == [(1, 3)]
    assert ask(store, "SELECT sample_id FROM alchemist.scores ORDER BY 1") == [(1,), (2,), (3,)]
    assert ask(store, "SELECT state FROM alchemist.runs") == [("succeeded",)]


@pytest.mark.parametrize(
    ("expired_ago", "run_ttl_s", "is_ended"),
    [("1 second", 60, False), ("59 minutes", 60, False), ("61 minutes", 60, True), ("1 second", -1, True)],
)
def test_a_commit_beyond_its_lease_is_ended_if_its_run_is_not_renewed_and_after_an_hour(
    store: Engine, expired_ago: str, run_ttl_s: float, is_ended: bool
) -> None:
    held = claim(store)
    with store.begin() as connection:
        claim_lease(connection, "device:GPU-1:0", run_id=1, ttl_s=60)
        claim_lease(connection, "run:score:c:0", run_id=1, ttl_s=run_ttl_s)
        claim_lease(connection, "run:score:c:1", run_id=2, ttl_s=60)
        expired = "UPDATE alchemist.leases SET expires_at = clock_timestamp() - CAST(:ago AS interval) WHERE resource = :resource"
        connection.execute(text(expired), {"ago": expired_ago, "resource": held.lease.resource})
    with store.connect() as committing:
        locked = "SELECT FROM alchemist.leases WHERE resource = :resource FOR UPDATE"
        committing.execute(text(locked), {"resource": held.lease.resource})
        with store.begin() as other:
            ended = other.execute(load_query("end_stalled_sessions")).all()
        committing.invalidate()
    assert bool(ended) is is_ended


def test_the_speed_of_a_rater_is_its_own_or_that_of_the_trained_rater_that_scored_last(store: Engine) -> None:
    assert scoring_speed(store, 1, "trained") is None
    with store.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 2, "name": "s"}, {"rater_id": 3, "name": "t", "kind": "scorer"}],
            "nights": [
                {"night_id": rater, "dataset_id": 1, "crawl_date": "2026-01-01", "rater_id": rater} for rater in (1, 2, 3)
            ],
            "runs": [
                {"run_id": rater, "stage": "score", "started_at": f"2026-01-0{rater}T00:00:00Z"} for rater in (1, 2, 3)
            ],
            "shard_scores": [
                {
                    "rater_id": rater, "shard_id": 1, "night_id": rater, "run_id": rater, "n_scored": 60 * rater,
                    "scored_at": f"2026-01-0{rater}T00:00:10Z",
                }
                for rater in (1, 2, 3)
            ],
        })  # fmt: skip
    # The last one is a scorer that has not scored.
    given = ((1, "trained"), (2, "trained"), (3, "scorer"), (9, "trained"), (9, "scorer"))
    found = [scoring_speed(store, rater, kind) for rater, kind in given]
    assert found.pop() is None
    speeds = [(one.pairs_per_s, one.device, one.rater_id) for one in found if one is not None]
    assert speeds == [(6, "cpu", 1), (12, "cpu", 2), (18, "cpu", 3), (12, "cpu", 2)]


@pytest.mark.parametrize(("last", "expected"), [(1015, (0, 1015)), (1016, (1, 0))])
def test_ids_are_scanned_up_to_eight_rows_for_each_and_a_thousand_more(last: int, expected: tuple[int, int]) -> None:
    assert ledger.id_range(np.array([0, last])) == expected


def test_a_slow_holder_of_a_live_lease_is_not_ended(store: Engine) -> None:
    held = claim(store)
    with store.connect() as connection:
        consume_lease(connection, held.lease)
        with store.begin() as other:
            assert other.execute(load_query("end_stalled_sessions")).all() == []
        connection.rollback()
