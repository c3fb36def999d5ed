"""With 100,000 samples the frequent queries use the indexes that their headers name."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from alchemist_core.cli.demo import QUERIES
from alchemist_core.quality.limits import CheckLimits
from alchemist_core.store import browsing
from alchemist_core.store.browsing import Band, Conditions, join_by_keys
from alchemist_core.store.checks import OF_DATE, OF_NIGHT, SET_UP
from alchemist_core.store.engine import SQL, make_engine

pytestmark = pytest.mark.db

# Both begin with shard_id; which one is a toss-up.
BY_SHARD = {"pk_sample_locations", "uq_sample_locations_shard_id_key"}
STORE = """
INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/data', 'train');
INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256, state)
VALUES ('r', 'loss', '{}', 'r', 'r', sha256('r'), 'production'), ('s', 'loss', '{}', 's', 's', sha256('s'), 'candidate');
SELECT alchemist.add_partition('scores', 1), alchemist.add_partition('scores', 2);
INSERT INTO alchemist.rank_scales (rater_id, knot_scores, knot_ranks, n_reference)
SELECT rater_id, array_agg(i / 999.0 ORDER BY i), array_agg(1 - i / 999.0 ORDER BY i), 1000
FROM generate_series(0, 999) AS i, generate_series(1, 2) AS rater_id GROUP BY rater_id;
INSERT INTO alchemist.shards (dataset_id, uri, sha256, size_bytes, n_samples, crawl_date, state)
SELECT 1, i || '.tar', sha256('s'), 1, 100, DATE '2020-01-01' + i, 'verified' FROM generate_series(1, 1000) AS i;
INSERT INTO alchemist.samples (image_hash, caption_hash, pair_hash, caption, width, height, format)
SELECT sha256(i::text::bytea), sha256('c'), sha256(i::text::bytea), 'c', 1, 1, 'JPEG' FROM generate_series(1, 100000) AS i;
INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, file_exts, file_offsets, file_sizes)
SELECT 1 + sample_id / 101, sample_id, sample_id, sample_id::text, '{jpg}', '{0}', '{1}' FROM alchemist.samples;
INSERT INTO alchemist.scores (rater_id, sample_id, score)
SELECT rater_id, sample_id, random() FROM alchemist.samples, generate_series(1, 2) AS rater_id ORDER BY sample_id;
SELECT alchemist.order_highest_scores(1, 0.95, 6000);
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


def nodes(connection: Connection, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """Every node of a statement's plan."""
    found = connection.execute(text(f"EXPLAIN (FORMAT JSON) {sql}"), parameters).scalar_one()
    connection.rollback()
    pending, seen = list(found if isinstance(found, list) else json.loads(found)), []
    while pending:
        seen.append(pending.pop())
        for value in seen[-1].values():
            pending += [child for child in (value if isinstance(value, list) else [value]) if isinstance(child, dict)]
    return seen


def indexes(connection: Connection, sql: str, **parameters: Any) -> set[str]:
    return {node["Index Name"] for node in nodes(connection, sql, **parameters) if "Index Name" in node}


def query(name: str) -> str:
    return (SQL / "queries" / f"{name}.sql").read_text()


def test_a_shards_unscored_samples_are_found_by_its_locations(large: Connection) -> None:
    used = indexes(large, query("unscored_samples"), shard_id=7, rater_id=1, image_exts=["jpg"])
    assert {"pk_samples", "scores_1_pkey"} <= used
    assert used & BY_SHARD


@pytest.mark.parametrize(
    "asked",
    [
        {"caption": "x"}, {"source": "x.example"}, {"min_width": 2}, {"band": Band(0.5, 0.6)}, {"dataset_id": 1}, {"subset_id": 1},
        {"outside_subset_id": 1},
    ],
    ids=lambda asked: next(iter(asked)),
)  # fmt: skip
def test_a_page_of_samples_reads_them_by_their_ids(large: Connection, asked: dict[str, Any]) -> None:
    """Not the whole table, which the planner prefers in a store of this size."""
    given = {**Conditions(rater_id=1, **asked).parameters, "sample_ids": list(range(1, 5_801))}
    join_by_keys(large)
    found = nodes(large, f"SELECT * FROM ({query('browse_samples')}) AS found WHERE caption LIKE '%rare%'", **given)
    scanned = {node.get("Relation Name") for node in found if node.get("Node Type") == "Seq Scan"}
    assert scanned <= {"rank_scales", "heuristic_scores", "shards", "subset_samples"}, "small tables"
    assert "pk_samples" in {node.get("Index Name") for node in found}


@pytest.mark.parametrize("name", ["scored_of_nights", "candidate_samples"])
def test_a_range_of_samples_is_read_from_each_large_table_alone(large: Connection, name: str) -> None:
    """Else each of a store's ranges reads the whole table."""
    span = {"after_sample_id": 0, "last_sample_id": 20_000}
    moment = {
        "rater_id": 1, "night_ids": [1], "last_takedown_id": 0, "last_compared_id": 0, "duplicates": "exact", "score": "rater",
        "last_retirement_id": 0, "score_rater_id": None,
    }  # fmt: skip
    found = nodes(large, query(name), **span, **moment)
    scans = [node for node in found if node.get("Relation Name") in {"samples", "scores_1", "sample_locations"}]
    bounded = {node["Relation Name"] for node in scans if "20000" in f"{node.get('Index Cond')} {node.get('Filter')}"}
    assert bounded == {"samples", "scores_1", "sample_locations"}


def test_candidates_of_a_version_are_read_by_their_ids(large: Connection) -> None:
    join_by_keys(large)
    found = nodes(large, query("draw_candidates"), sample_ids=list(range(1, 4_001)), snapshot_id=1)
    scanned = {node.get("Relation Name", "") for node in found if node.get("Node Type") == "Seq Scan"}
    assert not [name for name in scanned if name.startswith(("scores", "samples", "sample_locations"))]
    assert {"ix_sample_locations_sample_id", "scores_1_pkey"} <= {node.get("Index Name") for node in found}


def test_a_ledger_row_reads_one_shard(large: Connection) -> None:
    parameters = {
        "night_id": 1,
        "n_computed": 1,
        "first_id": 600,
        "last_id": 700,
        "run_id": 1,
        "code_version": "1",
        "device": "cpu",
        "dtype": "float32",
    }
    used = indexes(large, query("write_ledger_row"), shard_id=7, rater_id=1, **parameters)
    assert "scores_1_pkey" in used
    assert used & BY_SHARD


def test_a_nights_shard_is_claimed_by_its_date(large: Connection) -> None:
    used = indexes(
        large, query("claim_unscored_shard"), rater_id=1, dataset_ids=[1], crawl_date="2020-01-08", skipped_ids=[]
    )
    assert "ix_shards_dataset_id_crawl_date" in used


@pytest.mark.parametrize("name", ["check_shards", "check_samples", "check_ledger", "check_scores"])
def test_a_nights_checks_read_that_nights_locations_alone(large: Connection, name: str) -> None:
    assert indexes(large, query(name), dataset="web", crawl_date="2020-01-08", **CheckLimits().as_json()) & BY_SHARD


@pytest.mark.parametrize("view", ["crawled_samples", "scored_samples"])
def test_a_users_own_suite_reads_that_nights_locations_alone(large: Connection, view: str) -> None:
    limits = {"dataset": "web", "crawl_date": "2020-01-08", "timeout_ms": "60000"}
    large.execute(SET_UP, limits)
    assert indexes(large, f"SELECT * FROM alchemist.{view} WHERE {OF_NIGHT} AND {OF_DATE}") & BY_SHARD


@pytest.mark.parametrize("view", ["current_scores", "sample_history"])
def test_one_sample_is_looked_up_not_searched(large: Connection, view: str) -> None:
    assert "scores_1_pkey" in indexes(large, f"SELECT * FROM alchemist.{view} WHERE sample_id = 77")


README, IN_ORDER = (
    (SQL.parent / path).read_text(encoding="utf-8") for path in ("README.md", "docs/reference/commands-in-order.md")
)
EXAMPLES = [
    *QUERIES,
    *re.findall(r"^alchemist db psql -c '(select [^']+)'", README + IN_ORDER, re.MULTILINE),
]


@pytest.mark.parametrize("sql", [sql for sql in EXAMPLES if "shift_gsample" not in sql])
def test_no_sql_example_of_readme_and_demo_reads_all_scores(large: Connection, sql: str) -> None:
    """With 30 million samples it would exceed the reader's timeout of 60 s."""
    whole = {node["Relation Name"] for node in nodes(large, sql) if node.get("Node Type") == "Seq Scan"}
    assert not [name for name in whole if name.startswith("scores_")]


def test_the_rank_of_a_sample_is_one_look(large: Connection) -> None:
    assert {"scores_1_pkey", "pk_samples"} <= indexes(large, query("rank_sample"), sample_id=77, rater_id=1)


@pytest.mark.parametrize("width", [0.2, 0.01])
def test_a_page_of_a_rank_band_reads_the_index_in_order_until_it_is_full(large: Connection, width: float) -> None:
    band = {"rater_id": 1, "rank_from": 0.1, "rank_to": 0.1 + width, "after_sample_id": 5_000, "n_rows": 100}
    found = nodes(large, query("page_rank_band"), **band)
    (scan,) = [node for node in found if node.get("Relation Name") == "scores_1"]
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "scores_1_pkey")
    assert (
        sum(node.get("Node Type") == "Limit" for node in found) == 2
    )  # of the scale and of the page; no sort of the band between


@pytest.mark.parametrize("start", [None, (browsing.encode_score(0.97), 50_000)])
@pytest.mark.parametrize("is_back", [False, True])
def test_a_page_by_rank_reads_the_index_of_the_highest_scores_in_order(
    large: Connection, start: Any, is_back: bool
) -> None:
    lowest = browsing.lowest_ordered(large, 1)
    assert lowest == pytest.approx(0.95)
    walk = browsing.ByRank(1, lowest)
    read = walk.statement(start, 192, is_back=is_back).compile(large.engine, compile_kwargs={"literal_binds": True})
    large.execute(browsing._IN_ORDER)
    found = nodes(large, str(read))
    (scan,) = [node for node in found if node.get("Relation Name") == "scores_1"]
    assert scan["Index Name"] == "ix_scores_1_highest"
    assert "Sort" not in {node.get("Node Type") for node in found}
    assert len(walk.read(large, start, 192, is_back=is_back).entries) == 192


def test_the_top_and_bottom_of_a_date_read_that_night_alone(large: Connection) -> None:
    used = indexes(large, query("find_extremes"), dataset_id=1, crawl_date="2020-01-08", rater_id=1, n_rows=10)
    assert {"ix_shards_dataset_id_crawl_date", "scores_1_pkey"} <= used
    assert used & BY_SHARD


def test_moves_between_two_raters_are_paged_by_both_indexes(large: Connection) -> None:
    page = {"from_scale_id": 1, "to_scale_id": 2, "min_move": 0.1, "after_sample_id": 0, "n_scanned": 1_000}
    used = indexes(large, query("compare_ranks"), from_rater_id=1, to_rater_id=2, **page)
    assert {"scores_1_pkey", "scores_2_pkey"} <= used


def test_the_history_of_a_sample_is_looked_up(large: Connection) -> None:
    assert {"scores_1_pkey", "ix_sample_locations_sample_id"} <= indexes(large, query("trace_sample"), sample_id=77)


def test_a_nights_drift_reads_that_night_alone(large: Connection) -> None:
    used = indexes(large, query("night_scores"), rater_id=1, night_ids=[2])
    assert used & BY_SHARD
    assert "scores_1_pkey" in used


def test_the_nightly_overview_reads_ledgers_and_never_scores(large: Connection) -> None:
    read = {node.get("Relation Name", "") for node in nodes(large, "SELECT * FROM alchemist.nightly_overview")}
    assert "shard_scores" in read
    assert not [name for name in read if name.startswith(("scores", "samples", "sample_locations"))]
