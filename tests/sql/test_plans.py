"""On a hundred thousand pairs the hot queries use the indexes that their headers name."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from alchemist_core.store.engine import make_engine
from alchemist_core.store.migrate import SQL

pytestmark = pytest.mark.db

# Both begin with shard_id; which one is a toss-up.
BY_SHARD = {"pk_sample_locations", "uq_sample_locations_shard_id_key"}
STORE = """
INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/data', 'train');
INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256, state)
VALUES ('r', 'loss', '{}', 'r', 'r', sha256('r'), 'production');
SELECT alchemist.add_partition('scores', 1);
INSERT INTO alchemist.shards (dataset_id, uri, sha256, size_bytes, n_samples, crawl_date, state)
SELECT 1, i || '.tar', sha256('s'), 1, 100, DATE '2020-01-01' + i, 'verified' FROM generate_series(1, 1000) AS i;
INSERT INTO alchemist.samples (image_hash, caption_hash, pair_hash, caption, width, height, format)
SELECT sha256(i::text::bytea), sha256('c'), sha256(i::text::bytea), 'c', 1, 1, 'JPEG' FROM generate_series(1, 100000) AS i;
INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, member_exts, member_offsets, member_sizes)
SELECT 1 + sample_id / 101, sample_id, sample_id, sample_id::text, '{jpg}', '{0}', '{1}' FROM alchemist.samples;
INSERT INTO alchemist.scores (rater_id, sample_id, score) SELECT 1, sample_id, random() FROM alchemist.samples;
INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision) VALUES (1, '2020-01-01', 1, 1);
INSERT INTO alchemist.shard_scores (
    rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id
) SELECT 1, shard_id, 1, 100, 100, 0, 0, '1', 'cpu', 'float32', 1 FROM alchemist.shards WHERE shard_id % 10 > 0;
ANALYZE alchemist.shard_scores, alchemist.shards, alchemist.samples, alchemist.sample_locations, alchemist.scores;
"""


@pytest.fixture(scope="module")
def large(make_database: Callable[..., str]) -> Iterator[Connection]:
    engine = make_engine(make_database())
    with engine.connect() as connection:
        connection.execute(text(STORE.replace("::", "\\:\\:")))
        connection.commit()
        yield connection
    engine.dispose()


def indexes(connection: Connection, sql: str, **parameters: Any) -> set[str]:
    found = connection.execute(text(f"EXPLAIN (FORMAT JSON) {sql}"), parameters).scalar_one()
    connection.rollback()
    names: set[str] = set()
    pending = list(found if isinstance(found, list) else json.loads(found))
    while pending:
        node = pending.pop()
        names |= {node["Index Name"]} if "Index Name" in node else set()
        pending += [
            child
            for value in node.values()
            for child in (value if isinstance(value, list) else [value])
            if isinstance(child, dict)
        ]
    return names


def query(name: str) -> str:
    return (SQL / "queries" / f"{name}.sql").read_text()


def test_a_shards_unscored_pairs_are_found_by_its_locations(large: Connection) -> None:
    used = indexes(large, query("unscored_pairs"), shard_id=7, rater_id=1, image_exts=["jpg"])
    assert {"pk_samples", "scores_1_pkey"} <= used
    assert used & BY_SHARD


def test_a_ledger_row_reads_one_shard(large: Connection) -> None:
    parameters = {"night_id": 1, "n_computed": 1, "run_id": 1, "code_version": "1", "device": "cpu", "dtype": "float32"}
    used = indexes(large, query("write_ledger_row"), shard_id=7, rater_id=1, **parameters)
    assert "scores_1_pkey" in used
    assert used & BY_SHARD


def test_a_nights_shard_is_claimed_by_its_date(large: Connection) -> None:
    used = indexes(large, query("claim_unscored_shard"), rater_id=1, dataset_ids=[1], crawl_date="2020-01-08")
    assert "ix_shards_dataset_id_crawl_date" in used


@pytest.mark.parametrize("name", ["check_shards", "check_samples", "check_ledger", "check_scores"])
def test_a_nights_checks_read_that_nights_locations_alone(large: Connection, name: str) -> None:
    assert indexes(large, query(name), dataset="web", crawl_date="2020-01-08") & BY_SHARD


@pytest.mark.parametrize("view", ["current_scores", "sample_history"])
def test_one_pair_is_looked_up_not_searched(large: Connection, view: str) -> None:
    assert "scores_1_pkey" in indexes(large, f"SELECT * FROM alchemist.{view} WHERE sample_id = 77")
