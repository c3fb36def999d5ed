"""Equal data has an equal checksum for all ids, orders and times; every change of data changes it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.store import backups
from alchemist_core.store.backups import LEFT_OUT, checksum, table_checksums
from alchemist_core.store.engine import make_engine
from alchemist_core.store.tables import Table
from tests.given import insert_rows, sha256

pytestmark = pytest.mark.db


def every_table(
    *, shift: int = 0, is_reversed: bool = False, root: str = "/data"
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The same data in every table; on request with other ids, another order of rows and another location."""

    def k(key: int) -> int:
        return (9 - key if is_reversed else key) + shift

    night = {"dataset_id": k(1), "crawl_date": "2026-01-01"}
    given: dict[str, list[Mapping[str, Any]]] = {
        "datasets": [{"dataset_id": k(1), "name": "web", "root_uri": f"{root}/web"}, {"dataset_id": k(2), "name": "b", "root_uri": root}],
        "shards": [{"shard_id": k(1), **night, "uri": "1.tar", "n_samples": 3}, {"shard_id": k(2), **night, "uri": "2.tar"}],
        "samples": [{"sample_id": k(1), "caption": "a cat"}, {"sample_id": k(2), "caption": "a dog"}],
        "sample_urls": [{"sample_id": k(1), "source_url": "https://b.example"}],
        "sample_locations": [
            {"shard_id": k(1), "ordinal": 0, "sample_id": k(1)},
            {"shard_id": k(1), "ordinal": 1, "sample_id": k(2)},
            {"shard_id": k(2), "ordinal": 0, "sample_id": k(2)},
        ],
        "distinct_images": [{"sample_id": k(1), "perceptual_hash": 7}],
        "duplicate_samples": [{"sample_id": k(2), "first_sample_id": k(1), "distance": 1, "is_same_image": False}],
        "heuristic_scores": [{"sample_id": k(1), "aesthetic": 0.5}],
        "sample_flags": [{"flag_id": k(1), "sample_id": k(1), "label": "bad", "is_set": True, "flagged_by": "ann"}],
        "takedowns": [{"takedown_id": k(1), "image_hash": sha256("gone"), "reason": "asked", "requested_by": "ann"}],
        "raters": [{"rater_id": k(1), "name": "old", "state": "retired"}, {"rater_id": k(2), "name": "new", "state": "production"}],
        "quarantined_samples": [{"shard_id": k(1), "ordinal": 2}, {"shard_id": k(1), "ordinal": 1, "rater_id": k(1)}],
        "nights": [
            {"night_id": k(1), **night, "rater_id": k(1), "state": "held", "reason": "drift"},
            {"night_id": k(2), **night, "rater_id": k(2), "state": "selectable"},
        ],
        "shard_scores": [{"rater_id": k(2), "shard_id": k(1), "night_id": k(2), "n_scored": 2, "n_quarantined": 1}],
        "shard_embeddings": [{"rater_id": k(2), "shard_id": k(1), "n_samples": 2, "dim": 4}],
        "cluster_centroids": [{"rater_id": k(2), "n_clusters": 2, "threshold": 0.9}],
        "clusters": [{"rater_id": k(2), "sample_id": k(i), "cluster": i - 1, "block_id": 1} for i in (1, 2)],
        "semantic_duplicates": [
            {"rater_id": k(2), "sample_id": k(2), "first_sample_id": k(1), "similarity": 0.9375, "block_id": 1}
        ],
        "retried_samples": [{"rater_id": k(2), "shard_id": k(1), "ordinal": 1, "night_id": k(2)}],
        "scores": [{"rater_id": k(i), "sample_id": k(j), "score": i - j / 3} for i in (1, 2) for j in (1, 2)],
        "score_distributions": [{"night_id": k(2), "n": 2, "quantiles": [0.1, 0.9], "histogram": {"counts": [2]}}],
        "rank_scales": [{"rank_scale_id": k(1), "rater_id": k(2), "knot_scores": [0.1, 0.9], "knot_ranks": [1, 0]}],
        "rank_snapshots": [{"snapshot_id": k(1), "rank_scale_id": k(1), "dataset_names": ["web"], "night_ids": [k(2)]}],
        "rank_windows": [{
            "rater_id": k(2), "drop_top_ratio": 0.1, "mean_rank": 0.3, "std_rank": 0.1, "gain": 1, "gain_low": 0, "gain_high": 2,
            "measurements": {},
        }],
        "subsets": [{"subset_id": k(i), "name": "s", "version": i, "snapshot_id": k(1)} for i in (1, 2)],
        "subset_samples": [{"subset_id": k(1), "sample_id": k(2), "rank": 0.25}],
        "models": [{"model_id": k(1), "arm": "subset", "subset_id": k(1)}, {"model_id": k(2), "arm": "full"}],
        "evaluation_protocols": [{"protocol_id": k(1), "protocol_hash": "c"}],
        "evaluations": [{"model_id": k(i), "protocol_id": k(1), "value": i / 7} for i in (1, 2)],
        "experiments": [{"name": "e", "config": {"arms": 2}}],
        "blind_judgements": [{
            "judgement_id": k(1), "subset_id": k(1), "other_subset_id": k(2), "seed": 7, "sample_ids": [k(2)], "other_sample_ids": [k(1)],
            "preferred": "subset", "judged_by": "ann",
        }],
    }  # fmt: skip
    return {name: rows[::-1] if is_reversed else rows for name, rows in given.items()}


def store_of(url: str, given: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    engine = make_engine(url)
    with engine.begin() as connection:
        insert_rows(connection, given)
    engine.dispose()
    return url


def test_the_same_data_by_another_way_has_the_same_checksum(make_database: Callable[..., str]) -> None:
    first = store_of(make_database(), every_table())
    second = store_of(make_database(), every_table(shift=100, is_reversed=True, root="/elsewhere"))
    assert table_checksums(first) == table_checksums(second)
    assert checksum(first) == checksum(second)


def test_every_data_table_counts(database_url: str) -> None:
    # Two tables keep their former names in a checksum, so that checksums of older backups still match.
    former = {"evaluation_protocols": "evaluation_contracts", "rank_windows": "region_probes"}
    tables = {former.get(name, name) for name in (found.name for found in Table.metadata.tables.values())}
    assert set(table_checksums(store_of(database_url, every_table()))) == tables - LEFT_OUT


@pytest.mark.parametrize("change", [
    "UPDATE alchemist.scores SET score = score + 1e-6 WHERE sample_id = 1 AND rater_id = 1",
    "UPDATE alchemist.subset_samples SET sample_id = 1",
    "UPDATE alchemist.subset_samples SET weight = 2",
    "UPDATE alchemist.subsets SET epoch_size = n_samples + 1",
    "UPDATE alchemist.sample_locations SET sample_id = 1 WHERE shard_id = 2",
    "UPDATE alchemist.raters SET state = 'retired' WHERE state = 'production'",
    "UPDATE alchemist.evaluations SET value = nextafter FROM (SELECT 0.28571428571428575::float8 AS nextafter) AS n WHERE model_id = 2",
    "UPDATE alchemist.rank_scales SET knot_ranks = '{1, 0.001}'",
    "DELETE FROM alchemist.takedowns",
])  # fmt: skip
def test_one_changed_row_changes_the_checksum(database_url: str, change: str) -> None:
    before = checksum(store_of(database_url, every_table()))
    engine = make_engine(database_url)
    with engine.begin() as connection:
        assert connection.execute(text(change)).rowcount >= 1
    engine.dispose()
    assert checksum(database_url) != before


def test_a_server_that_ends_idle_sessions_does_not_end_the_snapshot_while_tables_are_hashed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = checksum(store_of(database_url, every_table()))
    hash_table = backups._hash_table

    def slowly(*given: Any) -> str | None:
        time.sleep(0.05)
        return hash_table(*given)

    monkeypatch.setattr(backups, "_hash_table", slowly)
    limit = "options=-c%20idle_in_transaction_session_timeout%3D200ms"
    assert checksum(f"{database_url}{'&' if '?' in database_url else '?'}{limit}") == wanted


def test_runs_checks_and_times_are_not_data(database_url: str) -> None:
    before = checksum(store_of(database_url, every_table()))
    engine = make_engine(database_url)
    with engine.begin() as connection:
        insert_rows(connection, {"runs": [{"run_id": 1, "stage": "score"}], "check_results": [{"suite": "shards"}]})
        connection.execute(text("UPDATE alchemist.samples SET created_at = '1999-01-01'"))
        connection.execute(
            text("UPDATE alchemist.subsets SET run_id = 7, created_by = 'airflow:build_subset:manual__2'")
        )
        connection.execute(text("UPDATE alchemist.nights SET decided_by = 'airflow:nightly_rescore:manual__2'"))
    engine.dispose()
    assert checksum(database_url) == before
