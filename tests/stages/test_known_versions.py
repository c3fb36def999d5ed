"""A selection that equals a version uses that version, also if another session has just stored it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, text

from alchemist_core.errors import AlchemistError, ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.stages import select as stage
from alchemist_core.store.datasets import rename
from alchemist_core.store.subsets import find_subset, lock_name
from alchemist_core.subsets.changes import find_changes
from alchemist_core.subsets.selected import load_manifest, manifest_of, reselect, select_members
from tests.scored_nights import add_dataset, add_night, add_rater
from tests.selectable_store import BOOKS, WEB, change, draw, fill, normal
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


def started(connection: Connection, *works: Callable[[], Any]) -> list[Future[Any]]:
    """Start works in threads of their own; return when all of them wait for a lock that the connection's transaction holds."""
    threads = ThreadPoolExecutor(len(works))
    found = [threads.submit(work) for work in works]
    threads.shutdown(wait=False)
    wait_until_blocked(connection, *found)
    return found


def test_two_selections_of_the_same_spec_at_once_make_one_version(store: Engine) -> None:
    """A takedown names the rater, the form of `build_subset` says `production`: for the run ledger these are two runs."""
    with store.begin() as other:
        lock_name(other, "s")
        selections = started(other, lambda: draw(0.2), lambda: draw(0.2, rater="r"))
    results = [one.result() for one in selections]
    assert sorted((one.version, one.is_new) for one in results) == [(1, False), (1, True)]
    assert len({one.manifest_sha256 for one in results}) == 1
    assert draw(0.2).version == 1


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            "state = 'withdrawn', withdrawn_at = now(), withdrawn_by = 'ann', withdrawn_reason = 'broken'",
            ConfigError, "This selection is s v1. s v1 was withdrawn",
        ),
        ("manifest_sha256 = 'another'", DataError, "now give other members"),
    ],
    ids=["withdrawn", "other members"],
)  # fmt: skip
def test_a_version_that_another_session_has_just_stored_is_refused_like_one_from_before(
    store: Engine, changed: str, error: type[AlchemistError], message: str
) -> None:
    draw(0.2)
    with store.connect() as other:
        with other.begin():
            other.execute(text("CREATE TEMPORARY TABLE kept AS SELECT * FROM alchemist.subsets"))
            other.execute(text(f"UPDATE kept SET {changed}"))
            other.execute(text("DELETE FROM alchemist.subsets"))
        with other.begin():
            lock_name(other, "s")
            other.execute(text("INSERT INTO alchemist.subsets OVERRIDING SYSTEM VALUE SELECT * FROM kept"))
            (selection,) = started(other, lambda: draw(0.2, rater="r"))
    with pytest.raises(error, match=message):
        selection.result()
    assert find_subset(store, "s").version == 1


def test_a_selection_that_gives_other_members_leaves_no_manifest_of_them(store: Engine) -> None:
    draw(0.2)
    path = artifact_path(find_subset(store, "s").manifest_uri)
    path.unlink()
    change(store, "UPDATE alchemist.subsets SET manifest_sha256 = 'another'")
    with pytest.raises(DataError, match="now give other members"):
        draw(0.2)
    assert not path.exists()


def test_a_lost_manifest_is_restored_although_a_dataset_of_its_options_was_renamed(store: Engine) -> None:
    draw(0.2, decontaminate="bench")
    path = artifact_path(find_subset(store, "s").manifest_uri)
    before = path.read_bytes()
    path.unlink()
    rename(store, "bench", "a-bench")
    again = draw(0.2, decontaminate="a-bench")
    assert (again.version, again.is_new) == (1, False)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def moving(engine: Engine) -> Engine:
    """300 samples of web, of which the first 100 are in books too: in a night that began before that of web and is not decided."""
    with engine.begin() as connection:
        add_rater(connection)
        for number, name in ((WEB, "web"), (BOOKS, "books")):
            add_dataset(connection, dataset_id=number, name=name)
    early = add_night(engine, "2026-01-01", {}, dataset_id=BOOKS)
    scores = normal(np.random.default_rng(0), 300)
    add_night(engine, "2026-01-02", {"a.tar": scores}, state="selectable", dataset_id=WEB)
    change(engine, """
        INSERT INTO alchemist.shards (dataset_id, uri, sha256, size_bytes, n_samples, crawl_date, state)
        VALUES (:books, 'b.tar', sha256('b'), 1, 100, '2026-01-01', 'verified');
        INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, file_exts, file_offsets, file_sizes)
        SELECT (SELECT max(shard_id) FROM alchemist.shards), ordinal, sample_id, key, file_exts, file_offsets, file_sizes
        FROM alchemist.sample_locations WHERE ordinal < 100;
        INSERT INTO alchemist.shard_scores (
            rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id
        ) SELECT 1, max(shard_id), :night_id, 100, 100, 100, 0, '1', 'cpu', 'float32', 1 FROM alchemist.shards
    """, books=BOOKS, night_id=early)  # fmt: skip
    return engine


@pytest.mark.parametrize("grouped", [{"stratify": True}, {"max_share": 0.6}], ids=["strata", "cap"])
def test_samples_that_move_to_another_dataset_make_a_new_version_where_datasets_are_groups(
    moving: Engine, grouped: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"strategy": "top_k", "allow_fewer": True}
    plain, before = draw(0.2, name="plain", **options), draw(0.2, **options, **grouped)
    assert before.datasets == {"web": before.n_samples}
    assert before.eligible_hash == plain.eligible_hash, "one dataset makes no groups"
    change(moving, "UPDATE alchemist.nights SET state = 'selectable', decided_at = now() WHERE state = 'scored'")
    after = draw(0.2, **options, **grouped)
    assert (after.version, after.is_new, after.n_eligible) == (2, True, before.n_eligible)
    assert set(after.datasets) == {"web", "books"}
    assert draw(0.2, **options, **grouped).version == 2
    again = draw(0.2, name="plain", **options)
    assert (again.version, again.eligible_hash) == (1, plain.eligible_hash)
    for version in (1, 2):
        subset = find_subset(moving, "s", version=version)
        assert manifest_of(reselect(moving, subset)).sha256() == subset.manifest_sha256


TIED = 82 / 400
"""Of 82 seats, 300 samples of web and 100 of books get 61 and 20, and tie for the last one."""


@pytest.mark.parametrize("retention", [0.2, TIED], ids=["without a tie", "with a tie"])
@pytest.mark.parametrize("new_name", ["a-web", "x-web"])
def test_a_dataset_that_was_renamed_makes_no_new_version_of_its_strata(
    store: Engine, retention: float, new_name: str
) -> None:
    draw(retention, stratify=True)
    rename(store, "web", new_name)
    again = draw(retention, dataset=f"{new_name},books", stratify=True)
    assert (again.version, again.is_new) == (1, False)
    artifact_path(find_subset(store, "s").manifest_uri).unlink()
    assert len(load_manifest(store, find_subset(store, "s"))) == again.n_samples


def test_a_version_whose_tied_seat_went_by_name_keeps_its_members(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions were selected before ties were independent of names."""
    now = draw(TIED, stratify=True, name="now").datasets
    first, last = ("web", "books") if now == {"web": 62, "books": 20} else ("books", "web")
    rename(store, first, f"z-{first}")
    datasets = f"z-{first},{last}"
    with monkeypatch.context() as patch:
        patch.setattr(stage, "select_members", partial(select_members, ties_by_name=True))
        former = draw(TIED, stratify=True, dataset=datasets)
    assert former.datasets[last] == now[last] + 1
    for is_preview in (True, False):
        again = draw(TIED, stratify=True, dataset=datasets, dry_run=is_preview)
        assert (again.is_new, again.datasets, again.manifest_sha256) == (False, former.datasets, former.manifest_sha256)
    subset = find_subset(store, "s")
    artifact_path(subset.manifest_uri).unlink()
    assert load_manifest(store, subset).sha256() == former.manifest_sha256
    # The same size, and the tied seat goes to the other dataset.
    other = draw(TIED, stratify=True, dataset=datasets, allow_fewer=True)
    assert (other.version, other.datasets[last]) == (2, now[last])
    changes = find_changes(store, subset, find_subset(store, "s"))
    assert (changes.leavers, changes.joiners) == ({"better key": 1}, {"better key": 1})
