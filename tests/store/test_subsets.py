"""Subset versions: membership is stored entirely or not at all, and readers see changes at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, make_url, text

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.store import subsets
from alchemist_core.store.engine import make_engine
from alchemist_core.store.leases import take_lock
from alchemist_core.store.manifests import Manifest, hash_rows, write_manifest
from alchemist_core.store.samples import find_reach, take_down
from alchemist_core.store.subsets import (
    SubsetRow,
    find_by_id,
    find_by_spec,
    find_predecessor,
    find_subset,
    forget_copy,
    last_withdrawn,
    list_subsets,
    lock_name,
    mark_materialized,
    note_copy,
    publish_subset,
    published_version,
    store_subset,
    withdraw_subset,
)
from tests.given import insert_rows, sha256
from tests.subset_reader import reading
from tests.waiting import wait_until_blocked

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
                {
                    "subset_id": number, "name": "crawl", "version": number, "snapshot_id": 1, "n_samples": len(sample_ids),
                    "manifest_uri": f"subsets/crawl/{number}.parquet",
                }
                for number, sample_ids in VERSIONS.items()
            ],
        })  # fmt: skip
    for number, sample_ids in VERSIONS.items():
        write_manifest(artifact_path(f"subsets/crawl/{number}.parquet"), manifest(sample_ids))
    return engine


def version(engine: Engine, number: int) -> SubsetRow:
    return find_subset(engine, "crawl", version=number)


def publish(engine: Engine, number: int, action: str = "publish") -> bool:
    return publish_subset(engine, version(engine, number), manifest(VERSIONS[number]), actor="ann", action=action)


def rows(engine: Engine, sql: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(sql)))


@pytest.mark.slow
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
    monkeypatch.setattr(subsets, "CHUNK_ROWS", 7)
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


def test_a_member_that_is_not_in_the_store_stops_the_publish_and_nothing_is_stored(versions: Engine) -> None:
    publish(versions, 1)
    strange = manifest([*VERSIONS[2][:-1], 5_000])
    with pytest.raises(DataError, match="has 601 members, but only 600 of them are in this store"):
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


def test_a_version_with_an_image_that_was_taken_down_is_not_published(versions: Engine) -> None:
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
        # Roles belong to the whole server, so another worker of xdist may run this at the same time.
        connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        connection.execute(text(f"ALTER ROLE alchemist_reader PASSWORD '{password}'"))
    owner.dispose()
    address = make_url(database_url).set(username="alchemist_reader", password=password)
    reader = make_engine(address.render_as_string(hide_password=False))
    assert rows(reader, READ)[0][2] == 300
    reader.dispose()


FIELDS: dict[str, Any] = {
    "name": "crawl", "snapshot_id": 1, "strategy": "gsample", "retention": 0.2, "seed": 0, "spec": {}, "spec_hash": "new",
    "n_samples": 1, "manifest_sha256": "m", "manifest_uri": "m.parquet", "created_by": "ann",
}  # fmt: skip


def withdraw(engine: Engine, number: int, fallback: int | None = None, reason: str = "broken") -> SubsetRow | None:
    back = None if fallback is None else version(engine, fallback)
    return withdraw_subset(engine, version(engine, number), reason=reason, actor="ann", fallback=back)


def test_without_a_number_the_newest_version_is_meant_and_a_withdrawn_one_only_as_the_last(versions: Engine) -> None:
    assert find_subset(versions, "crawl").version == 3
    withdraw(versions, 3)
    assert find_subset(versions, "crawl").version == 2
    assert find_subset(versions, "crawl", version=3).state == "withdrawn"
    withdraw(versions, 1)
    withdraw(versions, 2)
    assert find_subset(versions, "crawl").version == 3


def test_versions_are_listed_oldest_first_and_found_by_state_spec_and_id(versions: Engine) -> None:
    publish(versions, 2)
    assert [row.version for row in list_subsets(versions)] == [1, 2, 3]
    assert [row.version for row in list_subsets(versions, state="selected")] == [1, 3]
    one = find_by_spec(versions, "crawl", "spec 3")
    assert one is not None
    assert (one.version, find_by_id(versions, one.subset_id)) == (3, one)
    assert find_by_spec(versions, "another", "spec 3") is None
    assert published_version(versions, "another") is None


def test_two_who_store_a_version_at_once_get_numbers_of_their_own(versions: Engine) -> None:
    with versions.begin() as connection:
        connection.execute(text("ALTER TABLE alchemist.subsets ALTER COLUMN subset_id RESTART WITH 100"))
    with ThreadPoolExecutor(1) as thread:
        with versions.begin() as other:
            lock_name(other, "crawl")
            second = thread.submit(store_subset, versions, **FIELDS)
            wait_until_blocked(other, second)
            insert_rows(other, {"subsets": [{"subset_id": 90, "name": "crawl", "version": 4, "snapshot_id": 1}]})
        stored, is_new = second.result()
    assert (stored.version, is_new) == (5, True)
    assert store_subset(versions, **FIELDS) == (stored, False)
    assert store_subset(versions, **FIELDS | {"name": "first"})[0].version == 1


def test_a_publish_waits_for_a_withdrawal_of_the_same_name_and_sees_it(versions: Engine) -> None:
    with ThreadPoolExecutor(1) as thread:
        with versions.begin() as other:
            lock_name(other, "crawl")
            second = thread.submit(publish, versions, 2)
            wait_until_blocked(other, second)
            other.execute(
                text("""
                    UPDATE alchemist.subsets SET state = 'withdrawn', withdrawn_at = now(), withdrawn_by = 'bob',
                        withdrawn_reason = 'broken' WHERE version = 2
                """)
            )
        with pytest.raises(DataError, match="withdrawn while it was being published"):
            second.result()
    assert published_version(versions, "crawl") is None


def test_a_publish_waits_for_a_takedown_that_has_begun_and_sees_it(versions: Engine) -> None:
    with ThreadPoolExecutor(1) as thread:
        with versions.begin() as other:
            take_lock(other, "takedowns")
            insert_rows(
                other, {"takedowns": [{"image_hash": sha256("image 7"), "reason": "asked", "requested_by": "bob"}]}
            )
            second = thread.submit(publish, versions, 1)
            wait_until_blocked(other, second)
        with pytest.raises(DataError, match="1 of 300 members of crawl v1 were taken down"):
            second.result()
    assert published_version(versions, "crawl") is None


def test_a_takedown_waits_for_a_publish_that_has_begun_and_finds_its_version(versions: Engine) -> None:
    image = sha256("image 7")
    with ThreadPoolExecutor(2) as threads:
        with versions.begin() as other:
            # The last update of a publish waits for this row.
            other.execute(text("SELECT FROM alchemist.subsets WHERE subset_id = 1 FOR UPDATE"))
            first = threads.submit(publish, versions, 1)
            wait_until_blocked(other, first)
            second = threads.submit(take_down, versions, [image], "asked", actor="bob")
            wait_until_blocked(other, first, second)
        assert (first.result(), second.result()) == (True, (1, 1))
    assert [(row.name, row.version, row.state) for row in find_reach(versions, [image])] == [("crawl", 1, "published")]


def test_a_version_that_is_published_again_does_not_show_its_withdrawal(versions: Engine) -> None:
    publish(versions, 1)
    publish(versions, 2)
    back = withdraw(versions, 2, fallback=1)
    assert back is not None
    assert (back.version, version(versions, 1).state) == (1, "published")
    assert withdraw(versions, 2) is None
    assert publish(versions, 2, "reinstate")
    row = version(versions, 2)
    assert (row.state, row.withdrawn_at, row.withdrawn_by, row.withdrawn_reason) == ("published", None, None, None)
    assert version(versions, 1).state == "superseded"


def test_of_withdrawn_versions_the_last_that_had_been_published_is_named(versions: Engine) -> None:
    publish(versions, 1)
    publish(versions, 2)
    assert last_withdrawn(versions, "crawl") is None
    withdraw(versions, 2)
    withdraw(versions, 1)
    withdraw(versions, 3)  # It was never published.
    found = last_withdrawn(versions, "crawl")
    assert found is not None
    assert found.version == 1


def test_a_withdrawal_that_is_not_of_the_published_version_publishes_nothing(versions: Engine) -> None:
    publish(versions, 1)
    assert withdraw(versions, 2, fallback=3, reason="why") is None
    current = published_version(versions, "crawl")
    assert current is not None
    assert current.version == 1
    events = rows(versions, "SELECT actor, action, subject, before, after FROM alchemist.audit_events ORDER BY 1, 2")
    assert tuple(events[-1]) == (
        "ann", "withdraw", "subset crawl", {"version": 2, "state": "selected"}, {"reason": "why"},
    )  # fmt: skip


def test_a_rollback_passes_over_withdrawn_versions_and_stops_where_there_is_none(versions: Engine) -> None:
    for number in (1, 2, 3):
        publish(versions, number)
    withdraw(versions, 2)
    back = find_predecessor(versions, version(versions, 3))
    assert back is not None
    assert back.version == 1
    assert find_predecessor(versions, back) is None
    withdraw(versions, 1)
    assert find_predecessor(versions, version(versions, 3)) is None


def test_a_copy_is_noted_once_and_forgotten_alone(versions: Engine) -> None:
    number = version(versions, 1).subset_id
    for uri in ("a", "b", "a"):
        note_copy(versions, number, uri)
    assert version(versions, 1).all_materialized_uris == ["a", "b"]
    forget_copy(versions, number, "a")
    assert version(versions, 1).all_materialized_uris == ["b"]
    assert version(versions, 2).all_materialized_uris == []


def test_where_a_version_was_copied_first_and_when_it_was_copied_last_is_noted(versions: Engine) -> None:
    number = version(versions, 1).subset_id
    mark_materialized(versions, number, "first")
    ((before,),) = rows(versions, "SELECT materialized_at FROM alchemist.subsets WHERE version = 1")
    mark_materialized(versions, number, "second")
    assert version(versions, 1).materialized_uri == "first"
    ((after,),) = rows(versions, "SELECT materialized_at FROM alchemist.subsets WHERE version = 1")
    assert after > before
    assert version(versions, 2).materialized_uri is None


def test_a_membership_that_is_stored_is_left_as_it_is(versions: Engine) -> None:
    subsets.store_members(versions, 1, manifest(VERSIONS[1]))
    subsets.store_members(versions, 1, manifest(range(1, 5)))
    assert tuple(
        rows(versions, "SELECT count(*), sum(sample_id) FROM alchemist.subset_samples WHERE subset_id = 1")[0]
    ) == (
        300,
        sum(VERSIONS[1]),
    )


def test_who_stores_a_membership_waits_for_another_who_does(versions: Engine) -> None:
    with ThreadPoolExecutor(1) as thread:
        with versions.begin() as other:
            assert subsets.lock_members(other, 1)
            second = thread.submit(subsets.store_members, versions, 1, manifest(VERSIONS[1]))
            wait_until_blocked(other, second)
            assert not subsets.has_members(other, 1)
        second.result()
    with versions.begin() as connection:
        assert subsets.has_members(connection, 1)
        assert not subsets.has_members(connection, 2)


def test_members_that_were_taken_down_are_counted_in_their_own_version(versions: Engine) -> None:
    for number in (1, 3):
        subsets.store_members(versions, number, manifest(VERSIONS[number]))
    with versions.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)
                SELECT image_hash, 'asked', 'ann' FROM alchemist.samples WHERE sample_id IN (1, 2, 600)
            """)
        )
        assert [subsets.count_taken_down(connection, number) for number in (1, 3)] == [2, 1]


def test_the_result_of_a_version_is_that_of_its_own_run(versions: Engine) -> None:
    with versions.begin() as connection:
        insert_rows(connection, {
            "runs": [{"run_id": number, "stage": "select", "result": {"n_kept": number}} for number in (1, 2)],
        })  # fmt: skip
        connection.execute(text("UPDATE alchemist.subsets SET run_id = version WHERE version < 3"))
    results = [subsets.selection_result(versions, version(versions, number)) for number in VERSIONS]
    assert results == [{"n_kept": 1}, {"n_kept": 2}, {}]


def test_an_epoch_reads_every_member_once_unless_the_version_repeats_them(versions: Engine) -> None:
    with versions.begin() as connection:
        connection.execute(text("UPDATE alchemist.subsets SET epoch_size = 900 WHERE version = 2"))
    assert [version(versions, number).n_reads for number in VERSIONS] == [300, 900, 401]
    assert version(versions, 3).title == "crawl v3"


def test_a_training_costs_what_the_newest_one_took_for_each_member(versions: Engine) -> None:
    assert subsets.seconds_per_member(versions) is None
    with versions.begin() as connection:
        insert_rows(connection, {
            "runs": [{
                "run_id": 1, "stage": "train_downstream", "state": "succeeded", "work_seconds": 400, "finished_at": "2026-01-02T00:00:00Z",
            }],
            "models": [{"model_id": number, "arm": f"arm {number}", "run_id": 1, "n_samples": 100} for number in (1, 2)],
        })  # fmt: skip
    assert subsets.seconds_per_member(versions) == 2.0


@pytest.fixture
def another(versions: Engine) -> Engine:
    """The same store with a published version of the subset `a`, from other datasets under another rater."""
    with versions.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 2, "name": "s", "rule": "loss", "config": {"n": 2}}],
            "rank_scales": [{"rank_scale_id": 2, "rater_id": 2, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{
                "snapshot_id": 2, "rank_scale_id": 2, "dataset_names": ["books", "maps"], "eligible_hash": "f", "n_eligible": 7,
            }],
            "subsets": [{"subset_id": 9, "name": "a", "snapshot_id": 2, "state": "published"}],
        })  # fmt: skip
    return versions


def test_publishing_one_subset_leaves_another_published(another: Engine) -> None:
    publish(another, 1)
    publish(another, 2)
    assert find_subset(another, "a").state == "published"
    assert (version(another, 1).state, version(another, 2).state) == ("superseded", "published")


def test_a_version_has_the_rater_and_the_eligible_samples_that_it_was_selected_with(another: Engine) -> None:
    found = [subsets.rater_of_subset(another, find_subset(another, name)) for name in ("crawl", "a")]
    assert [(one.rater_id, one.name, one.rule, one.config, one.dataset_names) for one in found] == [
        (1, "r", "alignment", {}, ["web"]),
        (2, "s", "loss", {"n": 2}, ["books", "maps"]),
    ]
    assert [(one.checkpoint_uri, one.eligible_hash, one.n_eligible) for one in found] == [
        ("raters/r", "e", 1),
        ("raters/s", "f", 7),
    ]


def test_a_version_from_a_dataset_that_was_removed_is_not_published(versions: Engine) -> None:
    publish(versions, 1)
    datasets = [{"dataset_id": number, "name": name} for number, name in enumerate(("crawls", "web", "x"), 1)]
    with versions.begin() as connection:
        insert_rows(connection, {"datasets": datasets})
        connection.execute(
            text("UPDATE alchemist.datasets SET removed_at = now(), removed_reason = 'asked' WHERE name <> 'web'")
        )
    assert publish(versions, 2)
    with versions.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.datasets SET removed_at = now(), removed_reason = 'asked' WHERE name = 'web'")
        )
    with pytest.raises(
        ConfigError, match=r"crawl v3 was selected from web, which was removed\..* v2 stays published\."
    ):
        publish(versions, 3)
    assert version(versions, 2).state == "published"
