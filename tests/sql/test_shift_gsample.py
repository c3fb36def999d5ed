"""Selection in SQL gives the members that Python selects from the same snapshot, bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.cli.sample import TakedownConfig, takedown
from alchemist_core.files import artifact_path
from alchemist_core.store.manifests import Manifest, read_manifest
from alchemist_core.store.subsets import find_subset
from tests.selectable_store import add_to_bench, change, draw, fill, pairs, set_duplicates

pytestmark = pytest.mark.db

CALL = """
    SELECT * FROM alchemist.shift_gsample(
        snapshot => :snapshot, retention => :retention, drop_top_ratio => :drop_top_ratio, mean_rank => :mean_rank,
        std_rank => :std_rank, seed => :seed
    )
"""
PAPER = {"retention": 0.2, "drop_top_ratio": 0.25, "mean_rank": 0.625, "std_rank": 0.125, "seed": 7}


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


def by_sql(connection: Connection, snapshot_id: int, **given: Any) -> list[tuple[bytes, float, float]]:
    rows = connection.execute(text(CALL), PAPER | given | {"snapshot": snapshot_id}).all()
    return sorted((bytes(row.pair_hash), row.rank, row.score) for row in rows)


def by_python(engine: Engine, **given: Any) -> tuple[int, list[tuple[bytes, float, float]]]:
    """The snapshot, and each member with its rank and score as the manifest has them."""
    dataset = given.pop("dataset", "web,books")
    draw(dataset=dataset, **(PAPER | given))
    subset = find_subset(engine, "s")
    manifest: Manifest = read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256)
    columns = (manifest.pair_hashes(), manifest.rank_K.tolist(), manifest.score_K.tolist())
    return subset.snapshot_id, sorted(zip(*columns, strict=True))


@pytest.mark.parametrize(
    "given",
    [
        {},
        *({"seed": seed} for seed in (0, 1, 2**31, 2**53 - 1)),
        {"retention": 0.0025},
        {"retention": 0.5},
        {"retention": 0.74},
        {"retention": 1, "drop_top_ratio": 0},
        {"drop_top_ratio": 0, "mean_rank": 0, "std_rank": 10},
        {"mean_rank": 1, "std_rank": 0.01},
        {"dataset": "books", "retention": 0.31},
    ],
    ids=str,
)
def test_sql_selects_the_members_of_python_with_their_ranks_bit_for_bit(store: Engine, given: dict[str, Any]) -> None:
    snapshot_id, expected = by_python(store, **given)
    given.pop("dataset", None)
    with store.connect() as connection:
        assert by_sql(connection, snapshot_id, **given) == expected


def test_a_snapshot_with_everything_left_out_gives_the_same_members(store: Engine) -> None:
    known = list(pairs(store, "sample_id, image_hash, perceptual_hash"))
    # A group whose first sample is taken down, one whose first is in the evaluation dataset, and an ordinary one.
    set_duplicates(store, [(11, 10), (12, 10), (21, 20), (22, 20), (31, 30), (350, 30)])
    takedown(TakedownConfig(image_hash=bytes(known[9].image_hash).hex(), reason="asked"))
    add_to_bench(store, bytes(known[19].image_hash), 1)
    add_to_bench(store, b"x" * 32, known[39].perceptual_hash ^ 3, ordinal=1)
    snapshot_id, expected = by_python(store, decontaminate="bench", retention=0.74)
    with store.connect() as connection:
        excluded = connection.execute(text("SELECT options FROM alchemist.rank_snapshots")).scalar_one()
        assert set(excluded) == {"last_compared_id", "duplicates", "decontaminate", "last_evaluation_shard_id"}
        assert by_sql(connection, snapshot_id, retention=0.74) == expected


def test_a_snapshot_of_a_heuristic_gives_the_same_members(store: Engine) -> None:
    for score in ("aesthetic", "imported.likes"):
        snapshot_id, expected = by_python(store, rank_by=score)
        with store.connect() as connection:
            assert by_sql(connection, snapshot_id) == expected


def test_what_came_after_a_snapshot_changes_nothing(store: Engine) -> None:
    snapshot_id, expected = by_python(store)
    image_hash = next(pairs(store, "image_hash")).image_hash
    takedown(TakedownConfig(image_hash=bytes(image_hash).hex(), reason="asked"))
    set_duplicates(store, [(101, 100), (399, 398)])
    change(store, "UPDATE alchemist.nights SET state = 'held', reason = 'drift' WHERE night_id = 2")
    with store.connect() as connection:
        assert by_sql(connection, snapshot_id) == expected


def test_an_analyst_can_select_too_and_may_leave_defaults_out(
    store: Engine, log_in: Callable[[str], Connection]
) -> None:
    snapshot_id, expected = by_python(store, seed=0)
    with log_in("alchemist_reader") as connection:
        statement = text("SELECT pair_hash FROM alchemist.shift_gsample(snapshot => :id, retention => 0.2)")
        found = {bytes(pair_hash) for pair_hash in connection.execute(statement, {"id": snapshot_id}).scalars()}
    assert found == {pair_hash for pair_hash, _, _ in expected}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"retention": 0.9}, "The largest possible retention is 0.7[0-9]+"),
        ({"retention": 0}, "must be above 0"),
        ({"retention": float("nan")}, "must be above 0"),
        ({"std_rank": 0}, "std_rank 0 from 0.001"),
        ({"std_rank": float("nan")}, "std_rank NaN"),
        ({"mean_rank": float("nan")}, "mean_rank NaN"),
        ({"mean_rank": None}, "mean_rank <NULL>"),
        ({"retention": None}, "[Rr]etention <NULL>"),
        ({"drop_top_ratio": 1.5}, "drop_top_ratio 1.5 from 0 to below 1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**53}, "below 2"),
        ({"snapshot": 999}, "There is no snapshot 999"),
        ({"retention": 1e-9}, "0 of 400"),
    ],
    ids=str,
)
def test_what_select_refuses_sql_refuses(store: Engine, given: dict[str, Any], message: str) -> None:
    snapshot_id, _ = by_python(store)
    with store.connect() as connection, pytest.raises(DBAPIError, match=message):
        connection.execute(text(CALL), PAPER | {"snapshot": snapshot_id} | given)


def test_the_retention_that_a_refusal_names_is_accepted(store: Engine) -> None:
    snapshot_id, _ = by_python(store)
    with store.connect() as connection:
        with pytest.raises(DBAPIError) as refusal:
            by_sql(connection, snapshot_id, retention=1)
        connection.rollback()
        largest = float(str(refusal.value).split("retention is ")[1].split()[0].rstrip("."))
        assert by_sql(connection, snapshot_id, retention=largest)
        with pytest.raises(DBAPIError):
            by_sql(connection, snapshot_id, retention=largest + 0.004)


def test_a_snapshot_with_a_condition_is_referred_to_the_command_line(store: Engine) -> None:
    snapshot_id, _ = by_python(store, where="sample_id > 40")
    with store.connect() as connection, pytest.raises(DBAPIError, match="alchemist select"):
        by_sql(connection, snapshot_id)


def test_a_scale_of_many_knots_is_not_carried_along_with_every_sample(store: Engine) -> None:
    """65,536 knots are 1 MiB: carried by each row of a sort, a million samples would need a terabyte of disk."""
    snapshot_id, _ = by_python(store)
    change(store, """
        UPDATE alchemist.rank_scales SET
            knot_scores = ARRAY(SELECT i / 8192.0 - 4 FROM generate_series(0, 65535) AS i ORDER BY i),
            knot_ranks = ARRAY(SELECT 1 - i / 65535.0 FROM generate_series(0, 65535) AS i ORDER BY i)
    """)  # fmt: skip

    def temporary_bytes() -> int:
        with store.connect() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            connection.commit()
            query = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()"
            return int(connection.execute(text(query)).scalar_one())

    before = temporary_bytes()
    with store.connect() as connection:
        connection.execute(text("SET LOCAL work_mem = '64kB'"))
        assert len(by_sql(connection, snapshot_id)) == 80
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        connection.commit()
    assert temporary_bytes() - before < 32 << 20
