"""Subset versions: membership is stored whole or not at all, and what readers see changes at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, make_url, text

from alchemist_core.data.manifests import Manifest, hash_rows
from alchemist_core.errors import DataError
from alchemist_core.store import members
from alchemist_core.store.engine import make_engine
from alchemist_core.store.subsets import SubsetRow, find_subset, publish_subset, published_version
from tests.given import insert_rows, sha256
from tests.subset_reader import reading

pytestmark = pytest.mark.db

N_SAMPLES, N_SWAPS = 900, 300
# Versions of different sizes that overlap: whatever is mixed of two has other sums than either.
VERSIONS = {1: range(1, 301), 2: range(200, 801), 3: range(500, 901)}
READ = "SELECT min(subset_id), max(subset_id), count(*), sum(sample_id) FROM alchemist.current_subset_samples('crawl')"


def manifest(sample_ids: Sequence[int]) -> Manifest:
    ranks = np.linspace(0, 1, len(sample_ids))
    return Manifest(hash_rows([sha256(i) for i in sample_ids]), ranks, np.zeros(len(sample_ids)))


@pytest.fixture
def versions(engine: Engine) -> Engine:
    """Three selected versions of the subset `crawl`."""
    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "samples": [{"sample_id": i} for i in range(1, N_SAMPLES + 1)],
            "subsets": [
                {"subset_id": number, "name": "crawl", "version": number, "snapshot_id": 1, "n_samples": len(sample_ids)}
                for number, sample_ids in VERSIONS.items()
            ],
        })  # fmt: skip
    return engine


def version(engine: Engine, number: int) -> SubsetRow:
    return find_subset(engine, "crawl", version=number)


def publish(engine: Engine, number: int, action: str = "publish") -> bool:
    return publish_subset(engine, version(engine, number), manifest(VERSIONS[number]), actor="ann", action=action)


def rows(engine: Engine, sql: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(sql)))


def test_a_reader_during_hundreds_of_publishes_and_rollbacks_never_sees_a_mixed_version(
    versions: Engine, database_url: str
) -> None:
    """A thousand of them: tests/benchmarks/publish.py."""
    whole = {number: (number, number, len(ids), sum(ids)) for number, ids in VERSIONS.items()}
    for number in VERSIONS:
        publish(versions, number)
    rng = np.random.default_rng(0)
    with reading(database_url, "crawl") as found:
        for _ in range(N_SWAPS):
            current = published_version(versions, "crawl")
            assert current is not None
            number = int(rng.choice([other for other in VERSIONS if other != current.version]))
            assert publish(versions, number, "rollback" if number < current.version else "publish")
    assert found.seen == set(whole.values())
    assert found.n_reads > N_SWAPS // 10
    (count,) = rows(versions, "SELECT count(*) FROM alchemist.audit_events WHERE subject = 'subset crawl'")
    assert count == (N_SWAPS + 3,)


def test_what_is_published_is_what_the_manifest_names_to_the_last_bit(
    versions: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "CHUNK_ROWS", 7)
    given = manifest(VERSIONS[2])
    publish(versions, 2)
    sql = """
        SELECT pair_hash, rank FROM alchemist.current_subset_samples('crawl') INNER JOIN alchemist.samples USING (sample_id)
    """
    found = {bytes(row.pair_hash): row.rank for row in rows(versions, sql)}
    assert found == dict(zip(given.pair_hashes(), given.rank_K.tolist(), strict=True))


def test_a_subset_without_a_published_version_has_no_current_samples(versions: Engine) -> None:
    assert rows(versions, READ)[0][2] == 0
    assert published_version(versions, "crawl") is None


def test_a_member_that_the_store_does_not_know_stops_the_publish_and_nothing_stays(versions: Engine) -> None:
    publish(versions, 1)
    strange = manifest([*VERSIONS[2][:-1], 5_000])
    with pytest.raises(DataError, match="names 601 members, 600 of them are in this store"):
        publish_subset(versions, version(versions, 2), strange, actor="ann")
    assert rows(versions, "SELECT count(*) FROM alchemist.subset_samples WHERE subset_id = 2") == [(0,)]
    assert [row.state for row in rows(versions, "SELECT state FROM alchemist.subsets ORDER BY 1")] == [
        "published",
        "selected",
        "selected",
    ]


def test_a_version_without_members_is_not_published(versions: Engine) -> None:
    with versions.begin() as connection:
        connection.execute(text("UPDATE alchemist.subsets SET n_samples = 0 WHERE subset_id = 1"))
    with pytest.raises(DataError, match="crawl v1 has no members"):
        publish_subset(versions, version(versions, 1), manifest([]), actor="ann")
    assert version(versions, 1).state == "selected"


def test_a_version_with_a_picture_that_was_taken_down_is_not_published(versions: Engine) -> None:
    publish(versions, 1)
    publish(versions, 2)
    with versions.begin() as connection:
        insert_rows(
            connection,
            {"takedowns": [{"image_hash": sha256("image 7"), "reason": "asked for", "requested_by": "ann"}]},
        )
    with pytest.raises(DataError, match="1 of 300 members of crawl v1 were taken down"):
        publish(versions, 1, "rollback")
    assert version(versions, 2).state == "published"


def test_a_version_goes_back_to_the_one_that_it_replaced_whatever_happened_in_between(versions: Engine) -> None:
    publish(versions, 1)
    publish(versions, 2)
    publish(versions, 1, "rollback")
    publish(versions, 3)
    ids = {row.subset_id: row.predecessor_id for row in rows(versions, "SELECT * FROM alchemist.subsets")}
    assert ids == {1: None, 2: 1, 3: 1}


def test_publishing_twice_is_publishing_once(versions: Engine) -> None:
    assert publish(versions, 1)
    assert not publish(versions, 1)
    assert rows(versions, "SELECT count(*) FROM alchemist.audit_events") == [(1,)]


def test_who_reads_the_current_samples_reads_one_partition(versions: Engine) -> None:
    for number in VERSIONS:
        publish(versions, number)
    ask = "EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM alchemist.current_subset_samples('crawl') WHERE sample_id = 600"
    scans = [row[0] for row in rows(versions, ask) if " on subset_samples_" in row[0]]
    (read,) = [line for line in scans if "never executed" not in line]
    assert "on subset_samples_3" in read


def test_analysts_may_read_what_is_current(versions: Engine, database_url: str, server_url: str) -> None:
    publish(versions, 1)
    owner, password = make_engine(server_url), "for-this-test-server-only"
    with owner.begin() as connection:
        # Roles are the whole server's: another worker of xdist may be at the same line.
        connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        connection.execute(text(f"ALTER ROLE alchemist_reader PASSWORD '{password}'"))
    owner.dispose()
    address = make_url(database_url).set(username="alchemist_reader", password=password)
    reader = make_engine(address.render_as_string(hide_password=False))
    assert rows(reader, READ)[0][2] == 300
    reader.dispose()
