"""Nights that were read once are not read again, and no selection gets what has changed since from their files."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.selection.config import EligibleOptions
from alchemist_core.settings import load_settings
from alchemist_core.store import eligible, night_files, subsets
from alchemist_core.store.eligible import EligibleSamples, forget_kept, frozen
from alchemist_core.store.night_files import NightRows
from alchemist_core.store.raters import find_rater
from alchemist_core.store.snapshots import Snapshot, reload_snapshot, take_snapshot
from alchemist_core.store.subsets import find_subset, store_members
from alchemist_core.subsets.selected import load_manifest
from tests.given import insert_rows
from tests.scored_nights import add_night
from tests.selectable_store import BOOKS, WEB, change, draw, fill, set_duplicates

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The nights that each query for scored samples reads."""
    found: list[list[int]] = []
    read = night_files._read

    def note(connection: Any, parameters: dict[str, Any]) -> NightRows:
        found.append(parameters["night_ids"])
        return read(connection, parameters)

    monkeypatch.setattr(night_files, "_read", note)
    return found


def take(engine: Engine, *datasets: str, should_store: bool = True, **options: Any) -> Snapshot:
    rater = find_rater(engine, "r")
    assert rater is not None
    names = list(datasets) or ["web", "books"]
    return take_snapshot(engine, rater, names, options=EligibleOptions(**options), should_store=should_store)


def folder() -> Path:
    return load_settings().home / "snapshots" / "nights-1"


def forget_sets() -> None:
    """Delete what is kept of moments, but not the nights."""
    for path in (load_settings().home / "snapshots").iterdir():
        if not path.name.startswith("nights-"):
            shutil.rmtree(path)


def ids_of(engine: Engine, pairs: EligibleSamples) -> dict[int, float]:
    """The scores by sample."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT pair_hash, sample_id FROM alchemist.samples")).all()
    id_of = {bytes(row.pair_hash): row.sample_id for row in rows}
    return {
        id_of[pairs.pair_hash_N32[i].tobytes()]: float(pairs.score_N[i]) for i in np.flatnonzero(pairs.eligible_mask())
    }


def from_store(engine: Engine, monkeypatch: pytest.MonkeyPatch, **options: Any) -> EligibleSamples:
    """Read the same moment without files of nights, by the query that all moments with a condition use."""
    with monkeypatch.context() as patch:
        patch.setattr(eligible.Moment, "has_night_files", False)
        forget_sets()
        pairs = take(engine, should_store=False, **options).pairs
    forget_sets()
    return pairs


def same(one: EligibleSamples, other: EligibleSamples) -> bool:
    counts = [(found.n_taken_down, found.n_unscored) for found in (one, other)]
    columns = zip(one.columns().values(), other.columns().values(), strict=True)
    return counts[0] == counts[1] and all(
        (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b)) for a, b in columns
    )


def members_of(engine: Engine, subset_id: int) -> list[tuple[int, float]]:
    statement = text(
        "SELECT sample_id, rank FROM alchemist.subset_samples WHERE subset_id = :subset_id ORDER BY sample_id"
    )
    with engine.connect() as connection:
        return [(row.sample_id, row.rank) for row in connection.execute(statement, {"subset_id": subset_id})]


def publish_drawn(engine: Engine, **policy: Any) -> list[tuple[int, float]]:
    drawn = draw(**policy)
    subset = find_subset(engine, drawn.name)
    store_members(engine, subset.subset_id, load_manifest(engine, subset))
    assert len(members_of(engine, subset.subset_id)) == drawn.n_samples
    return members_of(engine, subset.subset_id)


def test_membership_from_files_is_that_of_the_store(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    copy = subsets._copy_ids
    monkeypatch.setattr(subsets, "_copy_ids", lambda *given: copied.append(given[1]) or copy(*given))
    by_files = publish_drawn(store, name="one", seed=3)
    assert len(copied) == 1
    monkeypatch.setattr(night_files, "find_ids", lambda *_given: None)
    assert publish_drawn(store, name="two", seed=3) == by_files
    assert len(copied) == 1


def test_membership_of_another_database_is_not_taken_from_files(store: Engine) -> None:
    draw(name="one")
    subset = find_subset(store, "one")
    manifest = load_manifest(store, subset)
    with store.connect() as connection:
        known = night_files.find_ids(connection, subset.subset_id, manifest.pair_hash_K32)
        assert known is not None
        # Everything that the files depend on is the same, but other samples have these ids.
        connection.execute(text("UPDATE alchemist.samples SET pair_hash = sha256(pair_hash)"))
        assert night_files.find_ids(connection, subset.subset_id, manifest.pair_hash_K32) is None
        connection.rollback()


def test_other_selections_do_not_delete_what_a_selection_has_read_so_far(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = take(store).pairs
    forget_kept()
    map_run = night_files._map_run

    def finish_others(stem: Path) -> NightRows:
        for number in range(eligible.MAX_POOLS + 1):
            eligible.keep_eligible(f"{number}", "hash", expected)
        return map_run(stem)

    monkeypatch.setattr(night_files, "RANGE", 100)
    monkeypatch.setattr(night_files, "_map_run", finish_others)
    assert same(take(store).pairs, expected)


def test_of_finished_sets_the_newest_are_kept_and_of_unfinished_ones_those_of_the_last_day(store: Engine) -> None:
    pairs = take(store).pairs
    for name, days in ((".killed", 2), (".running", 0.5)):
        aside = folder().parent / name
        aside.mkdir()
        os.utime(aside, (time.time() - days * 24 * 3600,) * 2)
    for number in range(eligible.MAX_POOLS):
        eligible.keep_eligible(f"{number}", "hash", pairs)
    assert {path.name for path in folder().parent.iterdir()} == {"nights-1", ".running", "0", "1", "2", "3"}


def test_a_new_night_is_the_only_one_that_is_read(store: Engine, queries: list[list[int]]) -> None:
    take(store)
    assert {night_id for nights in queries for night_id in nights} == {1, 2, 3}
    queries.clear()
    night_id = add_night(store, "2026-01-03", {"a.tar": [0.5, 0.6]}, state="selectable", dataset_id=WEB)
    assert len(take(store).pairs) == 402
    assert queries == [[night_id]]
    forget_sets()
    assert len(take(store).pairs) == 402
    assert len(take(store, "books").pairs) == 100
    assert queries == [[night_id]]


def test_nights_are_read_by_ranges_only_if_they_hold_most_samples_of_them(store: Engine) -> None:
    """In a range of few samples each is looked up, instead of joining whole tables."""
    night_id = add_night(store, "2026-01-03", {"a.tar": [0.5]}, dataset_id=WEB)
    add_night(store, "2026-01-04", {"b.tar": [0.5] * 50}, dataset_id=WEB)
    assert add_night(store, "2026-01-03", {"c.tar": [0.6]}, dataset_id=WEB) == night_id
    with store.connect() as connection:
        assert not night_files._plan(connection, {night_id: 2}, 1)[1]
        assert night_files._plan(connection, {1: 200, 2: 100, 3: 100, night_id: 2}, 1)[1]


def test_another_moment_of_the_same_nights_reads_none(store: Engine, queries: list[list[int]]) -> None:
    take(store)
    queries.clear()
    for options in (
        {"duplicates": "near"},
        {"duplicates": "keep"},
        {"with_sources": True},
        {"decontaminate": ("bench",)},
    ):
        take(store, should_store=False, **options)
    assert queries == []


@pytest.mark.parametrize(
    ("n_range", "options"),
    [
        (60, {"duplicates": "near"}),
        (1_000_000, {}),
        (1_000_000, {"with_sources": True, "duplicates": "keep"}),
        (1_000_000, {"keeps_best": True}),
    ],
)
def test_files_give_what_the_store_gives(
    store: Engine, monkeypatch: pytest.MonkeyPatch, n_range: int, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(night_files, "RANGE", n_range)
    monkeypatch.setattr(night_files, "PIECE_ROWS", max(n_range // 3, 2))
    set_duplicates(store, [(11, 10), (350, 10), (21, 20)])
    again = """
        INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, file_exts, file_offsets, file_sizes)
        SELECT shard_id, 500 + sample_id, sample_id, 'again ' || sample_id, '{jpg,txt}', '{512,1536}', '{9,9}'
        FROM alchemist.shards, generate_series(1, 60) AS sample_id WHERE shard_id = 2;
        INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)
        SELECT image_hash, 'asked', 'ann' FROM alchemist.samples WHERE sample_id IN (4, 5, 301)
    """
    take(store, should_store=False, **options)
    change(store, again)
    # The rows of a decided night never change; these were added by hand.
    shutil.rmtree(folder())
    wanted = from_store(store, monkeypatch, **options)
    assert same(take(store, should_store=False, **options).pairs, wanted)
    add_night(store, "2026-01-04", {"a.tar": [0.1] * 40, "b.tar": [0.2]}, state="selectable", dataset_id=BOOKS)
    wanted = from_store(store, monkeypatch, **options)
    assert len(wanted) == 438
    assert same(take(store, should_store=False, **options).pairs, wanted)
    assert same(take(store, should_store=False, **options).pairs, wanted)


def test_an_image_that_was_taken_down_is_gone_at_once(store: Engine) -> None:
    assert 20 in ids_of(store, take(store).pairs)
    change(store, """
        INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)
        SELECT image_hash, 'asked', 'ann' FROM alchemist.samples WHERE sample_id = 20
    """)  # fmt: skip
    for should_store in (False, True):
        later = take(store, should_store=should_store)
        assert 20 not in ids_of(store, later.pairs)
        assert later.pairs.n_taken_down == 1


def test_a_duplicate_that_was_found_later_is_excluded(store: Engine) -> None:
    assert 11 in ids_of(store, take(store).pairs)
    set_duplicates(store, [(11, 10)])
    assert 11 not in ids_of(store, take(store, duplicates="near").pairs)


def test_a_flag_that_changed_is_read_again(store: Engine) -> None:
    take(store)
    change(
        store,
        "INSERT INTO alchemist.sample_flags (sample_id, label, is_set, flagged_by) VALUES (9, 'bad', true, 'ann')",
    )
    assert 9 not in ids_of(store, take(store, where="not flagged_bad").pairs)
    assert 9 in ids_of(store, take(store).pairs)


def test_samples_of_a_retired_shard_are_gone_and_a_snapshot_of_before_still_has_them(store: Engine) -> None:
    first = take(store)
    change(store, "UPDATE alchemist.shards SET state = 'retired', retirement_id = 1 WHERE shard_id = 2")
    later = take(store)
    assert (len(first.pairs), len(later.pairs)) == (400, 300)
    forget_sets()
    assert first.snapshot_id is not None
    assert reload_snapshot(store, first.snapshot_id).eligible_hash == first.eligible_hash
    assert len(take(store).pairs) == 300


@pytest.mark.parametrize("changed", [
    "UPDATE alchemist.scores SET score = score + 1 WHERE sample_id = 7",
    "UPDATE alchemist.scores_1 SET score = score + 1 WHERE sample_id = 7",
    "DELETE FROM alchemist.scores WHERE sample_id = 7; INSERT INTO alchemist.scores (rater_id, sample_id, score) VALUES (1, 7, 99)",
])  # fmt: skip
def test_a_score_that_was_changed_is_read_again(store: Engine, changed: str) -> None:
    before = ids_of(store, take(store).pairs)[7]
    with store.begin() as connection:
        connection.execute(text(changed))
        # A session that ends reports at once what it changed; one that stays connected after ten seconds at the latest.
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    forget_sets()
    assert ids_of(store, take(store).pairs)[7] != before


@pytest.mark.parametrize("restored", [
    "UPDATE alchemist.shard_scores SET scored_at = scored_at + interval '1 s' WHERE shard_id = 1",
    "UPDATE alchemist.nights SET created_at = created_at + interval '1 s' WHERE night_id = 1",
    "UPDATE alchemist.shard_scores SET run_id = run_id + 1 WHERE shard_id = 1",
])  # fmt: skip
def test_a_night_that_was_scored_at_another_time_is_read_again(
    store: Engine, queries: list[list[int]], restored: str
) -> None:
    """As in a restored database, in which the night was scored again: the numbers of nights and samples repeat there."""
    take(store)
    queries.clear()
    change(store, restored)
    forget_sets()
    take(store)
    assert queries == [[1]]


def test_a_restore_forgets_all_files(store: Engine, queries: list[list[int]]) -> None:
    take(store)
    assert folder().exists()
    forget_kept()
    assert not folder().exists()
    queries.clear()
    take(store)
    assert queries != []


def damage_byte(path: Path) -> None:
    stamp, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-8])


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (damage_byte, "score_N.npy"),
        (damage_byte, "sample_id_N.npy"),
        (cut_short, "pair_hash_N32.npy"),
        (Path.unlink, "night_N.npy"),
    ],
)
def test_damaged_files_are_never_used_and_are_replaced(store: Engine, harm: Callable[[Path], None], name: str) -> None:
    first = take(store).pairs
    harm(folder() / name)
    forget_sets()
    assert same(take(store).pairs, first)
    forget_sets()
    assert same(take(store).pairs, first)


def test_a_preview_of_a_new_night_merges_no_damaged_byte(store: Engine) -> None:
    first = ids_of(store, take(store).pairs)
    damage_byte(folder() / "score_N.npy")
    forget_sets()
    add_night(store, "2026-01-03", {"a.tar": [0.5]}, state="selectable", dataset_id=WEB)
    for should_store in (False, True):
        found = ids_of(store, take(store, should_store=should_store).pairs)
        assert len(found) == 401
        assert first.items() <= found.items()


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}"])
def test_files_without_their_note_are_never_used(store: Engine, note: bytes) -> None:
    first = take(store).pairs
    (folder() / "nights.json").write_bytes(note)
    forget_sets()
    assert same(take(store).pairs, first)
    assert set(json.loads((folder() / "nights.json").read_text())["nights"]) == {"1", "2", "3"}


def test_a_full_disk_keeps_nothing_and_the_selection_works(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = take(store).pairs
    forget_kept()

    def refuse(*_given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(night_files, "_write", refuse)
    monkeypatch.setattr(night_files, "RANGE", 100)
    assert same(take(store).pairs, wanted)
    assert not folder().exists()
    assert [path for path in folder().parent.iterdir() if path.name.startswith(".")] == []


def test_samples_with_the_same_64_bits_are_in_the_order_of_their_whole_hashes() -> None:
    words = [b"a" * 8 + bytes([last]) * 24 for last in (9, 3, 3, 7)] + [b"\xff" * 32, b"\0" * 32]
    hashes = np.frombuffer(b"".join(words), np.uint8).reshape(-1, 32)
    ids = np.array([9, 3, 3, 7, 255, 0])
    rows = night_files._in_order(NightRows(hashes, ids, ids.astype(np.float32), np.arange(6, dtype=np.int32)))
    assert rows.sample_id_N.tolist() == [0, 3, 3, 7, 9, 255]
    parts = [rows.take([0, 3]), rows.take([1, 4]), rows.take([2, 5])]
    merged = list(night_files._merge(parts, 6))
    assert np.concatenate([part.sample_id_N for part in merged]).tolist() == [0, 3, 3, 7, 9, 255]


def test_rows_are_read_in_one_state_of_the_store_by_all_connections(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that are changed while nights are read are in none of the rows, whichever connection comes later."""
    monkeypatch.setattr(night_files, "RANGE", 50)
    read = night_files._read

    def disturb(connection: Any, parameters: dict[str, Any]) -> NightRows:
        change(
            store, "UPDATE alchemist.scores SET score = 77 WHERE sample_id % 2 = 0; SELECT pg_stat_force_next_flush()"
        )
        return read(connection, parameters)

    monkeypatch.setattr(night_files, "_read", disturb)
    with frozen(store) as connection:
        which = {"rater_id": 1, "night_ids": [1, 2, 3], "last_retirement_id": 0}
        place = load_settings().home / "snapshots"
        rows = night_files.read_scored(connection, place, should_verify=True, **which)
    assert 77 not in rows.score_N.tolist()
    assert len(rows.score_N) == 400
    monkeypatch.setattr(night_files, "_read", read)
    # The next selection sees that they were changed.
    assert set(ids_of(store, take(store).pairs).values()) >= {77.0}


def test_a_retried_sample_comes_with_its_later_night(store: Engine, queries: list[list[int]]) -> None:
    place = {"shard_id": 1, "ordinal": 3, "rater_id": 1}
    with store.begin() as connection:
        insert_rows(connection, {"quarantined_samples": [place]})
    assert len(take(store).pairs) == 399
    queries.clear()
    night = {
        "night_id": 9,
        "dataset_id": WEB,
        "crawl_date": "2026-01-01",
        "rater_id": 1,
        "revision": 2,
        "decided_at": "now",
    }
    with store.begin() as connection:
        connection.execute(text("DELETE FROM alchemist.quarantined_samples"))
        insert_rows(
            connection, {"nights": [night | {"state": "selectable"}], "retried_samples": [place | {"night_id": 9}]}
        )
    assert len(take(store).pairs) == 400
    assert queries == [[9]]
