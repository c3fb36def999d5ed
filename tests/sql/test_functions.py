"""Partitions are added and dropped safely; SQL and Python compute the same ranks."""

import threading
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.selection.duplicates import hamming_distance
from alchemist_core.selection.ranks import RankScale, fit_rank_scale
from alchemist_core.store.browsing import lowest_ordered
from alchemist_core.store.export import scores_by_name
from tests.given import insert_rows, sha256

pytestmark = pytest.mark.db

PARTITIONS = """
SELECT relname FROM pg_inherits INNER JOIN pg_class ON inhrelid = pg_class.oid
WHERE inhparent = 'alchemist.scores'::regclass ORDER BY 1
"""


@pytest.fixture
def connection(rolled_back: Connection) -> Connection:
    """In the database of this module; a test that commits takes `engine`, which has its own."""
    return rolled_back


def partitions(connection: Connection) -> list[str]:
    return list(connection.execute(text(PARTITIONS)).scalars())


def test_a_partition_is_added_once_and_holds_what_its_parent_demands(connection: Connection) -> None:
    for _ in range(2):
        connection.execute(text("SELECT alchemist.add_partition('scores', 7)"))
    assert partitions(connection) == ["scores_7"]
    insert_rows(connection, {"scores": [{"rater_id": 7, "sample_id": 1, "score": 0.5}]})
    with pytest.raises(DBAPIError, match="duplicate key"):
        insert_rows(connection, {"scores": [{"rater_id": 7, "sample_id": 1, "score": 0.6}]})


def test_a_partition_has_the_autovacuum_settings_of_a_table_that_only_grows(connection: Connection) -> None:
    connection.execute(
        text("SELECT alchemist.add_partition('scores', 7), alchemist.add_partition('subset_samples', 7)")
    )
    options = "SELECT reloptions FROM pg_class WHERE oid = CAST(:name AS regclass)"
    for name in ("scores_7", "subset_samples_7", "samples", "sample_locations"):
        found = connection.execute(text(options), {"name": f"alchemist.{name}"}).scalar_one()
        assert {"autovacuum_vacuum_insert_scale_factor=0.02", "autovacuum_freeze_min_age=0"} <= set(found), name


def test_a_partition_goes_with_its_rows_and_only_once(connection: Connection) -> None:
    insert_rows(
        connection,
        {"scores": [{"rater_id": 7, "sample_id": 1, "score": 0.5}, {"rater_id": 8, "sample_id": 1, "score": 1}]},
    )
    for _ in range(2):
        connection.execute(text("SELECT alchemist.drop_partition('scores', 7)"))
    assert partitions(connection) == ["scores_8"]
    assert connection.execute(text("SELECT count(*) FROM alchemist.scores")).scalar_one() == 1


def test_the_highest_scores_are_kept_in_order_and_anew_when_the_corpus_has_outgrown_them(engine: Engine) -> None:
    def order(lowest: str, most_rows: int) -> bool:
        with engine.begin() as connection:
            found: bool = connection.execute(
                text(f"SELECT alchemist.order_highest_scores(7, {lowest}, {most_rows})")
            ).scalar_one()
        return found

    assert not order("0.5", 10), "there is no such rater"
    with engine.begin() as connection:
        insert_rows(connection, {"scores": [{"rater_id": 7, "sample_id": i, "score": i / 100} for i in range(100)]})
    assert (order("'-Infinity'", 200), order("0.5", 200)) == (True, False)
    with engine.connect() as connection:
        assert lowest_ordered(connection, 7) == float("-inf")
    assert order("-0.25", 50), "more rows than wanted"
    with engine.begin() as connection:
        assert lowest_ordered(connection, 7) == -0.25
        # Scoring holds the partition: the selection continues without the index.
        insert_rows(connection, {"scores": [{"rater_id": 7, "sample_id": 200, "score": 1}]})
        assert not order("0.75", 50)


@pytest.mark.parametrize(
    "arguments", ["'raters', 1", "'scores', 0", "'scores', NULL", "'scores; DROP SCHEMA alchemist', 1"]
)
def test_anything_else_has_no_partitions(connection: Connection, arguments: str) -> None:
    with pytest.raises(DBAPIError, match="the table must be scores or subset_samples"):
        connection.execute(text(f"SELECT alchemist.add_partition({arguments})"))


def test_a_partition_is_added_beside_an_open_reader_and_twice_at_once(engine: Engine) -> None:
    with engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM alchemist.scores"))  # Its transaction stays open.
        failures: list[DBAPIError] = []

        def add() -> None:
            try:
                with engine.begin() as connection:
                    connection.execute(text("SET LOCAL statement_timeout = '5s'"))
                    connection.execute(text("SELECT alchemist.add_partition('scores', 7)"))
            except DBAPIError as failure:
                failures.append(failure)

        threads = [threading.Thread(target=add) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def ranks_by_sql(connection: Connection, scale: RankScale, scores: np.ndarray) -> np.ndarray:
    knots = {"knot_scores": scale.knot_scores.tolist(), "knot_ranks": scale.knot_ranks.tolist()}
    insert_rows(connection, {
        "raters": [{"rater_id": 1, "name": "r", "state": "production"}],
        "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, **knots}],
    })  # fmt: skip
    query = text(
        "SELECT alchemist.rank_of(score, 1) FROM unnest(CAST(:scores AS float8[])) WITH ORDINALITY AS s (score, i) ORDER BY i"
    )
    return np.array(connection.execute(query, {"scores": scores.tolist()}).scalars().all())


@pytest.mark.parametrize("n_knots", [1, 2, 300])
def test_a_rank_is_the_same_to_the_bit_in_sql_and_in_python(connection: Connection, n_knots: int) -> None:
    rng = np.random.default_rng(0)
    scale = fit_rank_scale(rng.normal(size=5_000), max_knots=n_knots)
    knots = scale.knot_scores
    scores = np.concatenate(
        [rng.normal(scale=2, size=2_000), knots, np.nextafter(knots, -9), np.nextafter(knots, 9), [-1e9, 1e9]]
    )
    assert np.array_equal(ranks_by_sql(connection, scale, scores), scale.rank(scores))


def test_a_hamming_distance_is_the_same_in_sql_and_in_python(connection: Connection) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        (0, 0),
        (-1, 0),
        (2**63 - 1, -(2**63)),
        *rng.integers(-(2**63), 2**63, size=(50, 2), dtype=np.int64).tolist(),
    ]
    for one, other in pairs:
        query = text("SELECT alchemist.hamming_distance(:one, :other)")
        found = connection.execute(query, {"one": int(one), "other": int(other)}).scalar_one()
        assert found == hamming_distance(int(one), int(other))


@pytest.mark.parametrize("has_ties", [False, True], ids=["distinct", "ties"])
def test_a_score_bound_divides_the_scores_as_the_rank_does(connection: Connection, has_ties: bool) -> None:
    """rank < r exactly where score > bound, for knots, between them and outside the scale."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=400).astype(np.float32).astype(np.float64)
    if has_ties:
        scores = np.round(scores * 2) / 2
    scale = fit_rank_scale(scores)
    tried = np.concatenate([scores, rng.normal(scale=3, size=400).astype(np.float32)])
    ranks = ranks_by_sql(connection, scale, tried)
    wanted = [-0.5, 0.0, 1e-9, *rng.uniform(size=40), *rng.choice(scale.knot_ranks, 20), scale.knot_ranks[0], 1.0, 1.5]
    for rank in map(float, wanted):
        bound = connection.execute(text("SELECT alchemist.score_bound(:rank, 1)"), {"rank": rank}).scalar_one()
        assert np.array_equal(ranks < rank, tried > bound), rank


@pytest.mark.slow
def test_current_scores_rank_a_hundred_thousand_samples_in_a_second(connection: Connection) -> None:
    insert_rows(connection, {"raters": [{"rater_id": 1, "name": "r", "state": "production"}]})
    connection.execute(text("SELECT alchemist.add_partition('scores', 1)"))
    connection.execute(
        text("""
        INSERT INTO alchemist.samples (image_hash, caption_hash, pair_hash, caption, width, height, format)
        SELECT sha256(i::text::bytea), sha256('c'), sha256(i::text::bytea), 'c', 1, 1, 'JPEG' FROM generate_series(1, 100000) AS i;
        INSERT INTO alchemist.scores (rater_id, sample_id, score) SELECT 1, sample_id, random() FROM alchemist.samples;
        INSERT INTO alchemist.rank_scales (rater_id, knot_scores, knot_ranks, n_reference)
        SELECT 1, array_agg(i / 65535.0 ORDER BY i), array_agg(1 - i / 65535.0 ORDER BY i), 65536 FROM generate_series(0, 65535) AS i;
    """)
    )
    connection.execute(text("SET LOCAL statement_timeout = '5s'"))
    mean = connection.execute(text("SELECT avg(rank) FROM alchemist.current_scores")).scalar_one()
    assert mean == pytest.approx(0.5, abs=0.01)


def scalar(connection: Connection, expression: str, **given: Any) -> Any:
    return connection.execute(text(f"SELECT {expression}"), given).scalar_one()


def test_the_quantiles_are_students_to_four_digits_and_that_of_30_is_used_for_more(connection: Connection) -> None:
    found = [scalar(connection, "alchemist.student_quantile(:n)", n=n) for n in range(1, 31)]
    assert found == pytest.approx(stats.t.ppf(0.975, np.arange(1, 31)), abs=6e-5)
    for many in (31, 1000):
        assert scalar(connection, "alchemist.student_quantile(:n)", n=many) == found[-1]
    for none in (0, -1):
        assert scalar(connection, "alchemist.student_quantile(:n)", n=none) is None


@pytest.mark.parametrize(
    ("metric", "gain"),
    [
        ("heldout_loss", 2),
        ("fid", 2),
        ("fid_clip", 2),
        ("kid", 2),
        ("clip_score", -2),
        ("geneval", -2),
        ("not_fid", -2),
    ],
)
def test_a_gain_is_positive_where_a_value_is_better(connection: Connection, metric: str, gain: float) -> None:
    assert scalar(connection, "alchemist.gain_over(:metric, 3, 5)", metric=metric) == gain


@pytest.mark.parametrize(
    ("ends_in", "is_live"), [("-1 s", False), ("10 s", True), ("3650 s", True), ("3670 s", False), ("1 day", False)]
)
def test_a_lease_is_live_between_now_and_the_longest_that_can_be(
    connection: Connection, ends_in: str, is_live: bool
) -> None:
    expression = "alchemist.is_live_lease(clock_timestamp() + CAST(:ends_in AS interval))"
    assert scalar(connection, expression, ends_in=ends_in) is is_live


def test_the_first_place_of_a_sample_is_its_first_live_location(connection: Connection) -> None:
    insert_rows(connection, {
        "datasets": [
            {"dataset_id": 1, "name": "web"},
            {"dataset_id": 2, "name": "books", "removed_at": "2026-01-02T00:00:00Z", "removed_reason": "licence"},
        ],
        "shards": [
            {"shard_id": 0, "dataset_id": 2, "crawl_date": "2026-01-01"},
            {"shard_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01", "state": "missing"},
            {"shard_id": 2, "dataset_id": 1, "crawl_date": "2026-01-02"},
            {"shard_id": 3, "dataset_id": 1, "crawl_date": "2026-01-03"},
        ],
        "samples": [{"sample_id": 1}, {"sample_id": 2}],
        "sample_locations": [
            {"shard_id": shard_id, "ordinal": ordinal, "sample_id": 1, "key": f"{shard_id}-{ordinal}"}
            for shard_id, ordinal in ((3, 0), (2, 5), (2, 4), (1, 0), (0, 0))
        ] + [{"shard_id": 0, "ordinal": 1, "sample_id": 2}],
    })  # fmt: skip
    found = connection.execute(text("SELECT * FROM alchemist.first_location(1)")).all()
    assert [(row.dataset, str(row.crawl_date), row.shard, row.key) for row in found] == [
        ("web", "2026-01-02", "000002.tar", "2-4")
    ]
    assert connection.execute(text("SELECT * FROM alchemist.first_location(2)")).all() == []


def version(subset_id: int, **fields: Any) -> dict[str, Any]:
    return {"subset_id": subset_id, "name": "s", "version": subset_id, "snapshot_id": 1, **fields}


SNAPSHOT: dict[str, Any] = {
    "raters": [{"rater_id": 1, "name": "r"}],
    "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
    "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
}


def test_a_version_is_free_unless_it_is_published_gone_back_to_trained_on_or_at_work(connection: Connection) -> None:
    rows = {
        "subsets": [
            version(1, state="superseded"),
            version(2, state="superseded", predecessor_id=1),
            version(3, state="withdrawn", predecessor_id=2),
            version(4, state="published", predecessor_id=3),
            version(5), version(6), version(7, state="withdrawn"), version(8, name="busy"), version(9, name="was_busy"),
        ],
        "models": [{"model_id": 1, "arm": "subset", "subset_id": 6}, {"model_id": 2, "arm": "random", "subset_id": 7}],
        "runs": [
            {"run_id": 1, "stage": "materialize", "config": {"subset": "busy"}, "state": "running"},
            {"run_id": 2, "stage": "materialize", "config": {"subset": "was_busy"}, "state": "lost", "finished_at": "now"},
        ],
    }  # fmt: skip
    insert_rows(connection, SNAPSHOT | rows)
    found = {n: scalar(connection, "alchemist.is_version_collectable(:n)", n=n) for n in range(1, 10)}
    # 3 was withdrawn, so a rollback of 4 passes over it and goes back to 2, and not on to 1.
    assert found == {1: True, 2: False, 3: True, 4: False, 5: True, 6: False, 7: False, 8: False, 9: True}
    assert connection.execute(text("SELECT alchemist.is_version_collectable(99)")).scalar_one() is None


def test_a_name_without_a_published_version_reports_the_last_withdrawal_and_no_other(connection: Connection) -> None:
    insert_rows(connection, SNAPSHOT | {"subsets": [
        version(1, state="withdrawn", withdrawn_at="2026-01-05", withdrawn_reason="first"),
        version(2, state="withdrawn", withdrawn_at="2026-01-09", withdrawn_reason="last"),
        version(3, state="withdrawn", withdrawn_at="2026-01-07", withdrawn_reason="middle"),
        version(4, name="other", state="published"),
        version(5, name="never", state="withdrawn", published_at=None),
    ]})  # fmt: skip
    assert scalar(connection, "alchemist.published_subset_id('other')") == 4
    assert scalar(connection, "alchemist.published_subset_id('never')") is None
    assert scalar(connection, "alchemist.published_subset_id('unknown')") is None
    with pytest.raises(DBAPIError, match=r"subset s v2 was withdrawn on 2026-01-09 by ann: last"):
        scalar(connection, "alchemist.published_subset_id('s')")


@pytest.mark.parametrize(
    ("bits", "is_near"),
    [
        # Two bits in two of the bands (63-42, 41-21, 20-0), so that the samples agree only in the third one.
        ((42, 21), True), ((63, 41), True), ((42, 20), True), ((63, 0), True), ((41, 20), True), ((21, 0), True),
        ((0, 20), True), ((21, 41), True), ((42, 63), True),
        # A third one is too many, whichever band still agrees.
        ((63, 42, 41), False), ((63, 42, 20), False), ((21, 41, 0), False), ((42, 50, 63), False), ((21, 30, 41), False),
        ((0, 10, 20), False),
    ],
)  # fmt: skip
def test_an_image_looks_like_one_of_an_evaluation_set_if_two_bits_differ_wherever_they_are(
    connection: Connection, bits: tuple[int, ...], is_near: bool
) -> None:
    one = 0x0123456789ABCDEF
    other = one ^ sum(1 << bit for bit in bits)
    insert_rows(connection, {
        "datasets": [{"dataset_id": 1, "name": "bench", "role": "evaluation"}],
        "shards": [{"shard_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01"}],
        "samples": [
            {"sample_id": 1, "perceptual_hash": one},
            {"sample_id": 2, "perceptual_hash": other - 2**64 if other >= 2**63 else other},
            {"sample_id": 3},
        ],
        "sample_locations": [{"shard_id": 1, "ordinal": 0, "sample_id": 1}],
    })  # fmt: skip
    found = connection.execute(text("SELECT alchemist.contaminated_samples(ARRAY['bench'], 1)")).scalars().all()
    assert sorted(found) == ([1, 2] if is_near else [1])
    for nothing in ("ARRAY['bench'], 0", "ARRAY['another'], 1"):
        assert connection.execute(text(f"SELECT alchemist.contaminated_samples({nothing})")).all() == []


def test_a_lock_is_held_until_its_transaction_ends_and_only_its_own_name_is(engine: Engine) -> None:
    for _ in range(2):  # Its row is there the second time.
        with engine.connect() as holder, engine.begin() as other:
            holder.execute(text("SELECT alchemist.take_lock('a')"))
            assert holder.execute(text("SELECT alchemist.try_lock('a')")).scalar_one() is True
            holder.commit()
            holder.execute(text("SELECT alchemist.take_lock('a')"))
            assert other.execute(text("SELECT alchemist.try_lock('a')")).scalar_one() is False
            assert other.execute(text("SELECT alchemist.try_lock('b')")).scalar_one() is True
            other.execute(text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(DBAPIError, match="lock timeout"), other.begin_nested():
                other.execute(text("SELECT alchemist.take_lock('a')"))
            holder.commit()
            assert other.execute(text("SELECT alchemist.try_lock('a')")).scalar_one() is True


@pytest.mark.parametrize(("state", "is_kept"), [("candidate", True), ("production", True), ("retired", False)])
def test_the_scores_of_a_rater_that_is_in_use_are_never_dropped(
    connection: Connection, state: str, is_kept: bool
) -> None:
    insert_rows(connection, {
        "raters": [{"rater_id": 7, "name": "r", "state": state}], "scores": [{"rater_id": 7, "sample_id": 1, "score": 1}],
    })  # fmt: skip
    if is_kept:
        with pytest.raises(DBAPIError, match="Rater 7 is not retired"), connection.begin_nested():
            connection.execute(text("SELECT alchemist.drop_partition('scores', 7)"))
    else:
        connection.execute(text("SELECT alchemist.drop_partition('scores', 7)"))
    assert partitions(connection) == (["scores_7"] if is_kept else [])


def test_the_members_of_a_version_that_is_in_use_are_never_dropped(connection: Connection) -> None:
    members = [{"subset_id": n, "sample_id": 1, "rank": 0.5} for n in (1, 2)]
    versions = [version(1, state="superseded"), version(2, state="published")]
    insert_rows(connection, SNAPSHOT | {"subsets": versions, "subset_samples": members})
    with pytest.raises(DBAPIError, match="Subset version 2 is in use"), connection.begin_nested():
        connection.execute(text("SELECT alchemist.drop_partition('subset_samples', 2)"))
    connection.execute(text("SELECT alchemist.drop_partition('subset_samples', 1)"))
    assert connection.execute(text("SELECT subset_id FROM alchemist.subset_samples")).scalars().all() == [2]


def test_sql_and_python_mean_the_same_rater_by_the_name_of_a_score(connection: Connection) -> None:
    trained = ("clip-score", "Web-2026-loss", "2026-loss", "old-loss", "old.loss", "_x", "rater", "aesthetic")
    raters = [{"rater_id": number, "name": name} for number, name in enumerate(trained, start=1)]
    raters += [
        {"rater_id": 20, "name": "clip_score", "kind": "scorer"},
        {"rater_id": 21, "name": "mine", "kind": "imported"},
    ]
    insert_rows(connection, {"raters": raters})
    expected = scores_by_name(connection)
    assert expected == {
        "clip_score": 20, "mine": 21, "web_2026_loss": 2, "rater_2026_loss": 3, "old_loss": 4, "rater__x": 6,
    }  # fmt: skip
    for name in (*expected, *trained, "imported.likes", "mine+clip_score", "unknown"):
        found = connection.execute(text("SELECT alchemist.score_rater_id(:name)"), {"name": name}).scalar()
        assert found == expected.get(name), name


DRAWABLE = """
    SELECT sample_id, score, night_id, first_sample_id, is_taken_down FROM alchemist.candidate_samples(
        1, CAST(:night_ids AS integer[]), :last_takedown_id, :last_compared_id, :duplicates, :score, :after, :last,
        CAST(:last_retirement_id AS integer), CAST(:score_rater_id AS integer)
    ) ORDER BY sample_id
"""


def drawable(connection: Connection, **given: Any) -> list[tuple[Any, ...]]:
    defaults = {
        "night_ids": [1, 2], "last_takedown_id": 9, "last_compared_id": 99, "duplicates": "exact", "score": "rater", "after": 0,
        "last": 99, "last_retirement_id": 0, "score_rater_id": None,
    }  # fmt: skip
    return [tuple(row) for row in connection.execute(text(DRAWABLE), defaults | given)]


@pytest.fixture
def pool(connection: Connection) -> Connection:
    """Six samples in the shards 1 (of night 2) and 2 (of night 1) of one rater; sample 1 is in both."""
    insert_rows(connection, {
        "datasets": [{"dataset_id": 1, "name": "web"}],
        "raters": [{"rater_id": 1, "name": "r"}, {"rater_id": 2, "name": "s"}],
        "shards": [
            {"shard_id": 1, "dataset_id": 1, "crawl_date": "2026-01-02", "state": "retired", "retirement_id": 5},
            {"shard_id": 2, "dataset_id": 1, "crawl_date": "2026-01-01"},
        ],
        "nights": [
            {"night_id": 1, "dataset_id": 1, "crawl_date": "2026-01-01", "rater_id": 1, "state": "selectable"},
            {"night_id": 2, "dataset_id": 1, "crawl_date": "2026-01-02", "rater_id": 1, "state": "selectable"},
        ],
        "samples": [
            {"sample_id": n, **({"image_hash": sha256("equal")} if n in (4, 6) else {})} for n in range(1, 7)
        ],
        "sample_locations": [
            {"shard_id": shard, "ordinal": at, "sample_id": n}
            for shard, samples in ((1, (1, 2)), (2, (1, 3, 4, 5, 6))) for at, n in enumerate(samples)
        ],
        "shard_scores": [
            {"rater_id": 1, "shard_id": 1, "night_id": 2, "n_scored": 2},
            {"rater_id": 1, "shard_id": 2, "night_id": 1, "n_scored": 5},
        ],
        "scores": [{"rater_id": 1, "sample_id": n, "score": n} for n in (1, 2, 3, 4, 6)]
        + [{"rater_id": 2, "sample_id": n, "score": 9} for n in range(1, 7)],
    })  # fmt: skip
    return connection


def test_a_sample_counts_under_the_first_of_the_nights_that_are_asked_for(pool: Connection) -> None:
    assert [(row[0], row[2]) for row in drawable(pool)] == [(1, 1), (2, 2), (3, 1), (4, 1), (6, 1)]
    assert [(row[0], row[2]) for row in drawable(pool, night_ids=[2])] == [(1, 2), (2, 2)]
    assert [row[0] for row in drawable(pool, after=1, last=4)] == [2, 3, 4]


def test_a_shard_that_was_retired_by_then_gives_no_sample(pool: Connection) -> None:
    assert [row[0] for row in drawable(pool, last_retirement_id=4)] == [1, 2, 3, 4, 6]
    assert [row[0] for row in drawable(pool, last_retirement_id=5)] == [1, 3, 4, 6]


def test_a_takedown_counts_up_to_the_last_one_that_was_known(pool: Connection) -> None:
    taken = {"takedown_id": 3, "image_hash": sha256("image 3"), "reason": "asked", "requested_by": "ann"}
    insert_rows(pool, {"takedowns": [taken]})
    assert [row[0] for row in drawable(pool, last_takedown_id=3) if row[4]] == [3]
    assert [row[0] for row in drawable(pool, last_takedown_id=2) if row[4]] == []


def test_a_duplicate_is_of_the_first_sample_of_its_group_as_far_as_was_compared(pool: Connection) -> None:
    insert_rows(pool, {"distinct_images": [{"sample_id": 1}, {"sample_id": 3}], "duplicate_samples": [
        {"sample_id": 2, "first_sample_id": 1, "distance": 0, "is_same_image": True},
        {"sample_id": 4, "first_sample_id": 3, "distance": 1, "is_same_image": False},
        {"sample_id": 6, "first_sample_id": 3, "distance": 1, "is_same_image": False},
    ]})  # fmt: skip

    def first_of(**given: Any) -> dict[int, int]:
        return {row[0]: row[3] for row in drawable(pool, **given)}

    assert first_of(duplicates="near") == {1: 0, 2: 1, 3: 0, 4: 3, 6: 3}
    # 4 and 6 look like 3, and have the same bytes among themselves.
    assert first_of(duplicates="exact") == {1: 0, 2: 1, 3: 0, 4: 0, 6: 4}
    assert first_of(duplicates="near", last_compared_id=4) == {1: 0, 2: 1, 3: 0, 4: 3, 6: 0}


def test_the_score_is_the_one_that_is_named_and_none_that_no_float_can_hold(pool: Connection) -> None:
    insert_rows(pool, {"heuristic_scores": [
        {"sample_id": 1, "aesthetic": 1, "clarity": 2, "frequency": 3, "edge_density": 4, "imported": {"likes": 5}},
        {"sample_id": 2, "imported": {"likes": 0, "x": 1}},
        {"sample_id": 3, "imported": {"x": 1}},
    ]})  # fmt: skip
    pool.execute(text("UPDATE alchemist.heuristic_scores SET imported = '{\"likes\": 1e400}' WHERE sample_id = 3"))
    pool.execute(text(
        "INSERT INTO alchemist.heuristic_scores (sample_id, imported) VALUES (4, '{\"likes\": -1e-301}'), (6, '{\"likes\": -1e300}')"
    ))  # fmt: skip

    def scores(name: str) -> list[Any]:
        return [row[1] for row in drawable(pool, score=name)]

    for value, name in enumerate(("aesthetic", "clarity", "frequency", "edge_density"), start=1):
        assert scores(name) == [value, None, None, None, None]
    assert scores("imported.likes") == [5, 0, None, None, -1e300]
    assert scores("rater") == [1, 2, 3, 4, 6]
