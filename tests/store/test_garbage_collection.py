"""Garbage collection removes tars first and membership last, checks each again under its locks, and leaves nothing half removed."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.store.subsets import (
    collect,
    find_by_id,
    find_collectable,
    find_tars_with_taken_down,
    has_members,
    lock_members,
    manifest_uris,
    note_copy,
)
from alchemist_core.store.tables import AnyRow
from tests.given import insert_rows

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    """An unused version, with a materialized dataset and a member whose image was taken down."""
    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "samples": [{"sample_id": 1}],
            "subsets": [{
                "subset_id": 1, "name": "s", "snapshot_id": 1, "state": "superseded", "all_materialized_uris": ["tars/1"],
                "materialized_uri": "tars/1", "materialized_at": "2026-01-01", "created_at": "2026-01-01",
            }],
            "subset_samples": [{"subset_id": 1, "sample_id": 1, "rank": 0.5}],
        })  # fmt: skip
        connection.execute(
            text("""
                INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)
                SELECT image_hash, 'asked', 'ann' FROM alchemist.samples
            """)
        )
    return engine


def found(store: Engine, *, is_of_takedowns: bool = False) -> AnyRow:
    with store.connect() as connection:
        (row,) = find_tars_with_taken_down(connection, "s") if is_of_takedowns else find_collectable(connection, "s", 0)
    return row


def noted(store: Engine) -> list[str]:
    return find_by_id(store, 1).all_materialized_uris


def is_stored(store: Engine) -> bool:
    with store.connect() as connection:
        return has_members(connection, 1)


class Removals:
    """The order of removals, and what other sessions saw of the store at each."""

    def __init__(self, store: Engine, *, free: tuple[bool, ...] = (True, True)) -> None:
        self.store, self.answers, self.done = store, list(free), list[Any]()

    def run(self, row: AnyRow, *, copies: Callable[[], None] | None = None) -> bool:
        return collect(
            self.store, row, is_still_free=self._is_free, remove_copies=copies or self._copies, remove_manifest=self._manifest
        )  # fmt: skip

    def _is_free(self, _connection: Connection) -> bool:
        return self.answers.pop(0)

    def _copies(self) -> None:
        self.done.append(("copies", noted(self.store)))

    def _manifest(self) -> None:
        self.done.append("manifest")


def test_tars_go_first_and_are_forgotten_only_when_they_are_gone(store: Engine) -> None:
    removals = Removals(store)
    assert removals.run(found(store))
    assert removals.done == [("copies", ["tars/1"]), "manifest"]
    row = find_by_id(store, 1)
    assert (row.all_materialized_uris, row.materialized_uri, is_stored(store)) == ([], None, False)
    assert manifest_uris(store) == {"m.parquet"}


@pytest.mark.parametrize(("free", "n_removed"), [((False,), 0), ((True, False), 1)], ids=["at first", "later"])
def test_a_version_that_is_wanted_again_keeps_what_it_still_has(
    store: Engine, free: tuple[bool, ...], n_removed: int
) -> None:
    removals = Removals(store, free=free)
    assert not removals.run(found(store))
    assert len(removals.done) == n_removed
    assert (noted(store) == ["tars/1"], is_stored(store)) == (n_removed == 0, True)


def test_tars_that_could_not_be_removed_stay_noted(store: Engine) -> None:
    def fail() -> None:
        raise OSError("read-only")

    with pytest.raises(OSError, match="read-only"):
        Removals(store).run(found(store), copies=fail)
    assert (noted(store), is_stored(store)) == (["tars/1"], True)


def test_a_copy_that_came_meanwhile_is_not_forgotten(store: Engine) -> None:
    row, removals = found(store), Removals(store)
    note_copy(store, 1, "tars/2")
    assert not removals.run(row)
    assert (removals.done, noted(store)) == ([], ["tars/1", "tars/2"])


def test_while_a_run_stores_the_membership_nothing_is_removed(store: Engine) -> None:
    removals = Removals(store)
    row = found(store)
    with store.begin() as connection:
        assert lock_members(connection, 1)
    with store.begin() as filling:
        assert lock_members(filling, 1)
        assert not removals.run(row)
    assert (removals.done, noted(store), is_stored(store)) == ([], ["tars/1"], True)


def test_while_a_reader_has_the_members_open_they_and_their_manifest_stay(store: Engine) -> None:
    def is_free(connection: Connection) -> bool:
        connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
        return True

    row, removals = found(store), Removals(store)
    with store.connect() as reader:
        reader.execute(text("SELECT FROM alchemist.subset_samples WHERE subset_id = 1"))
        assert not collect(
            store, row, is_still_free=is_free, remove_copies=removals._copies, remove_manifest=removals._manifest
        )
    assert (removals.done, is_stored(store)) == ([("copies", ["tars/1"])], True)


def test_only_a_lock_is_a_reason_to_try_again_later(store: Engine) -> None:
    def is_free(connection: Connection) -> bool:
        return bool(connection.execute(text("SELECT 1 / 0")))

    row, removals = found(store), Removals(store)
    with pytest.raises(DBAPIError, match="division by zero"):
        collect(store, row, is_still_free=is_free, remove_copies=removals._copies, remove_manifest=removals._manifest)
    assert (removals.done, noted(store)) == ([], ["tars/1"])


def test_of_tars_with_images_that_were_taken_down_only_the_tars_go(store: Engine) -> None:
    removals = Removals(store)
    assert removals.run(found(store, is_of_takedowns=True))
    assert removals.done == [("copies", ["tars/1"])]
    assert (noted(store), is_stored(store)) == ([], True)
