"""Partitions come and go without harm; a rank is the same number in SQL and in Python."""

import threading

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.selection.duplicates import hamming_distance
from alchemist_core.selection.ranks import RankScale, fit_rank_scale
from tests.given import insert_rows

pytestmark = pytest.mark.db

PARTITIONS = """
SELECT relname FROM pg_inherits INNER JOIN pg_class ON inhrelid = pg_class.oid
WHERE inhparent = 'alchemist.scores'::regclass ORDER BY 1
"""


def partitions(connection: Connection) -> list[str]:
    return list(connection.execute(text(PARTITIONS)).scalars())


def test_a_partition_is_added_once_and_holds_what_its_parent_demands(connection: Connection) -> None:
    for _ in range(2):
        connection.execute(text("SELECT alchemist.add_partition('scores', 7)"))
    assert partitions(connection) == ["scores_7"]
    insert_rows(connection, {"scores": [{"rater_id": 7, "sample_id": 1, "score": 0.5}]})
    with pytest.raises(DBAPIError, match="duplicate key"):
        insert_rows(connection, {"scores": [{"rater_id": 7, "sample_id": 1, "score": 0.6}]})


def test_a_partition_tells_autovacuum_that_it_only_grows(connection: Connection) -> None:
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


@pytest.mark.parametrize(
    "arguments", ["'raters', 1", "'scores', 0", "'scores', NULL", "'scores; DROP SCHEMA alchemist', 1"]
)
def test_anything_else_has_no_partitions(connection: Connection, arguments: str) -> None:
    with pytest.raises(DBAPIError, match="parents are scores and subset_samples"):
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


def test_current_scores_rank_a_hundred_thousand_pairs_in_a_second(connection: Connection) -> None:
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
