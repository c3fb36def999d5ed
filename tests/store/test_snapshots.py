"""Snapshots: the eligible set of a snapshot never changes; a cached set is used only if it is the right one; scales are frozen."""

import errno
import os
import resource
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.selection.config import EligibleOptions
from alchemist_core.settings import load_settings
from alchemist_core.store import eligible
from alchemist_core.store.flags import set_flags
from alchemist_core.store.leases import take_lock
from alchemist_core.store.raters import find_rater
from alchemist_core.store.registry import NewShard, register_shard, reject_shard
from alchemist_core.store.snapshots import Snapshot, read_dataset_names, reload_snapshot, take_snapshot
from tests.given import insert_rows, sha256
from tests.scored_nights import add_night, add_rater
from tests.selectable_store import BENCH, WEB, change, fill, pairs, set_duplicates
from tests.store.test_registry import pair
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db

BOTH = ["web", "books"]


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The moments at which an eligible set was read from the store, not from files."""
    found: list[Any] = []
    read = eligible.read_eligible
    monkeypatch.setattr(
        eligible,
        "read_eligible",
        lambda connection, moment, *scales, **how: found.append(moment) or read(connection, moment, *scales, **how),
    )
    return found


def take(engine: Engine, **given: Any) -> Snapshot:
    rater = find_rater(engine, "r")
    assert rater is not None
    return take_snapshot(engine, rater, given.pop("datasets", BOTH), **given)


def kept_files(pattern: str) -> list[Path]:
    found = (load_settings().home / "snapshots").glob(f"*/{pattern}")
    # The files of nights have tests of their own: test_night_files.py.
    return sorted(path for path in found if not path.parent.name.startswith("nights-"))


def same(one: Snapshot, other: Snapshot) -> bool:
    columns = zip(one.pairs.columns().values(), other.pairs.columns().values(), strict=True)
    return np.array_equal(one.rank_N, other.rank_N) and all(
        (a is None and b is None) or np.array_equal(a, b) for a, b in columns
    )


def test_a_second_selection_reads_no_row_of_the_eligible_set(store: Engine, readings: list[Any]) -> None:
    first = take(store)
    again, preview = take(store), take(store, should_store=False)
    assert len(readings) == 1
    assert again.snapshot_id == first.snapshot_id
    assert same(first, again)
    assert same(first, preview)


@pytest.mark.parametrize("is_stored", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["select", "preview"])
@pytest.mark.parametrize("pattern", ["score_N.npy", "night_N.npy", "pair_hash64_N.npy", "excluded_N.npy", "rank-*.npy"])
@pytest.mark.parametrize("damage", ["flipped byte", "cut short", "emptied", "removed"])
def test_a_damaged_array_is_never_used_and_is_replaced(
    store: Engine, is_stored: bool, pattern: str, damage: str
) -> None:
    first = take(store)
    (path,) = kept_files(pattern)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    written = {"flipped byte": bytes(data), "cut short": bytes(data[:-8]), "emptied": b""}
    if damage == "removed":
        path.unlink()
    else:
        # Another file in its place: a mapped one must not change under its readers.
        path.unlink()
        path.write_bytes(written[damage])
    assert same(take(store, should_store=is_stored), first)
    assert same(take(store, should_store=is_stored), first)


def test_a_stored_selection_finds_a_byte_that_flipped_without_a_trace(store: Engine) -> None:
    first = take(store)
    for path in [*kept_files("score_N.npy"), *kept_files("night_N.npy"), *kept_files("rank-*.npy")]:
        stamp, data = path.stat(), bytearray(path.read_bytes())
        data[-1] ^= 1
        path.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert same(take(store), first)
        assert first.snapshot_id is not None
        assert same(reload_snapshot(store, first.snapshot_id), first)


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}", b'{"arrays": [], "eligible_hash": "e"}'])
def test_a_damaged_note_is_never_used(store: Engine, note: bytes) -> None:
    first = take(store)
    (path,) = kept_files("pool.json")
    path.write_bytes(note)
    assert same(take(store), first)


def test_the_eligible_set_of_another_database_is_never_used(store: Engine, readings: list[Any]) -> None:
    """The same corpus ingested again has the same eligible hash and numbers of nights, but was made at another time."""
    first = take(store)
    change(store, "UPDATE alchemist.nights SET created_at = created_at + interval '1 s'")
    again = take(store)
    assert len(readings) == 2
    assert again.eligible_hash == first.eligible_hash


def test_only_the_newest_eligible_sets_are_kept(store: Engine) -> None:
    for limit in range(6):
        take(store, options=EligibleOptions(where=f"sample_id > {limit}"))
    assert len(kept_files("pool.json")) == 4


def test_a_snapshot_can_be_given_again_when_all_has_changed(store: Engine) -> None:
    set_duplicates(store, [(11, 10)])
    first = take(store)
    set_duplicates(store, [(101, 100)])
    add_night(store, "2026-01-03", {"a.tar": [0.5, 0.6]}, state="selectable", dataset_id=WEB)
    change(store, """
        INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)
        SELECT image_hash, 'asked', 'ann' FROM alchemist.samples WHERE sample_id = 20;
        UPDATE alchemist.nights SET state = 'held', reason = 'drift' WHERE night_id = 2
    """)  # fmt: skip
    later = take(store)
    assert first.snapshot_id is not None
    shutil.rmtree(load_settings().home / "snapshots")
    assert same(reload_snapshot(store, first.snapshot_id), first)
    assert (len(first.pairs), len(later.pairs)) == (400, 400 - 100 + 2 - 1)


@pytest.mark.parametrize("fails", ["as it is written", "as it is closed"])
def test_a_full_disk_keeps_nothing_of_what_was_half_written(
    store: Engine, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    first = take(store)
    (ranks,) = kept_files("rank-*.npy")
    ranks.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(file: BinaryIO, _column: object) -> None:
        file.write(b"half")
        if fails == "as it is written":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Four bytes are in a buffer, and two fit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2, limits[1]))

    monkeypatch.setattr(np, "save", fill_up)
    try:
        again = take(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(again, first)
    assert kept_files(".*") == []


def test_a_score_changed_by_hand_is_found_out(store: Engine) -> None:
    first = take(store)
    shutil.rmtree(load_settings().home / "snapshots")
    change(store, "UPDATE alchemist.scores SET score = score + 1 WHERE sample_id = 7")
    assert first.snapshot_id is not None
    with pytest.raises(DataError, match="The eligible samples differ"):
        reload_snapshot(store, first.snapshot_id)


def test_a_condition_is_evaluated_again_by_every_stored_selection(store: Engine) -> None:
    options = EligibleOptions(where="caption = 'new'")
    with pytest.raises(ConfigError, match="No sample is eligible"):
        take(store, options=options)
    change(store, "UPDATE alchemist.samples SET caption = 'new' WHERE sample_id = 7")
    assert take(store, options=options).n_eligible == 1


def test_a_grown_corpus_keeps_its_scale_until_a_rescale(store: Engine) -> None:
    first = take(store)
    add_night(store, "2026-01-03", {"a.tar": [5.0, 6.0]}, state="selectable", dataset_id=WEB)
    grown = take(store)
    assert np.array_equal(grown.scale.knot_scores, first.scale.knot_scores)
    assert np.array_equal(grown.rank_N[grown.pairs.find(first.pairs.pair_hash_N32)], first.rank_N)
    rescaled = take(store, rescale=True)
    assert rescaled.scale.knot_scores[-1] == 6.0
    assert take(store).scale.is_same_as(rescaled.scale)


def test_a_rescale_of_what_has_not_moved_adds_no_scale(store: Engine) -> None:
    first = take(store)
    assert take(store, rescale=True).snapshot_id == first.snapshot_id
    with store.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.rank_scales")).scalar() == 1


def test_a_preview_leaves_no_scale_and_no_snapshot(store: Engine) -> None:
    take(store, should_store=False)
    take(store, should_store=False, rescale=True)
    with store.connect() as connection:
        for table in ("rank_scales", "rank_snapshots"):
            assert connection.execute(text(f"SELECT count(*) FROM alchemist.{table}")).scalar() == 0


def test_first_selections_at_once_freeze_one_scale(store: Engine) -> None:
    together = threading.Barrier(4, timeout=60)

    def select() -> Snapshot:
        together.wait()
        return take(store)

    with ThreadPoolExecutor(4) as threads:
        # `result` raises what a thread raised, with that thread's traceback.
        first, *others = [future.result() for future in [threads.submit(select) for _ in range(4)]]
    assert all(other.snapshot_id == first.snapshot_id and same(first, other) for other in others)
    with store.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.rank_scales")).scalar() == 1


def test_a_first_selection_waits_for_another_and_takes_its_scale(store: Engine) -> None:
    with ThreadPoolExecutor(1) as thread:
        with store.begin() as other:
            take_lock(other, "rank_scales")
            second = thread.submit(take, store)
            wait_until_blocked(other, second)
            insert_rows(
                other,
                {"rank_scales": [{"rank_scale_id": 7, "rater_id": 1, "knot_scores": [-9, 9], "knot_ranks": [1, 0]}]},
            )
        assert second.result().scale.knot_scores.tolist() == [-9, 9]


def test_each_score_has_a_scale_of_its_own(store: Engine) -> None:
    rater = take(store)
    aesthetic = take(store, options=EligibleOptions(score="aesthetic"))
    assert aesthetic.scale.knot_scores[-1] == 36
    assert take(store).scale.is_same_as(rater.scale)
    with store.connect() as connection:
        found = connection.execute(text("SELECT score, n_reference FROM alchemist.rank_scales ORDER BY rank_scale_id"))
        assert [tuple(row) for row in found] == [("rater", 400), ("aesthetic", 300)]


def test_a_snapshot_notes_what_it_was_taken_of(store: Engine) -> None:
    change(store, """
        UPDATE alchemist.shards SET state = 'retired', retirement_id = 4 WHERE shard_id = 2;
        INSERT INTO alchemist.takedowns (image_hash, reason, requested_by) VALUES (sha256('x'), 'asked', 'ann')
    """)  # fmt: skip
    set_duplicates(store, [(11, 10)])
    one = take(store, options=EligibleOptions(duplicates="near"))
    with store.connect() as connection:
        row = connection.execute(text("SELECT * FROM alchemist.rank_snapshots")).one()
        last_takedown_id = connection.execute(text("SELECT max(takedown_id) FROM alchemist.takedowns")).scalar_one()
    assert (row.dataset_names, row.night_ids) == (["books", "web"], [1, 2, 3])
    assert (row.last_takedown_id, row.n_eligible, row.eligible_hash) == (last_takedown_id, 299, one.eligible_hash)
    assert row.options == {"last_compared_id": 11, "duplicates": "near", "last_retirement_id": 4}
    assert one.n_eligible == 299
    kept = take(store, options=EligibleOptions(duplicates="keep"))
    assert kept.n_eligible == 300
    with store.connect() as connection:
        options = text("SELECT options FROM alchemist.rank_snapshots WHERE snapshot_id = :id")
        assert connection.execute(options, {"id": kept.snapshot_id}).scalar_one() == {"last_retirement_id": 4}


def test_a_condition_that_names_no_flag_does_not_depend_on_flags(store: Engine) -> None:
    set_flags(store, [10], "bad", actor="ann")
    plain, flagged = (
        take(store, options=EligibleOptions(where=where)) for where in ("sample_id > 7", "not flagged_bad")
    )
    assert (plain.n_eligible, flagged.n_eligible) == (393, 399)
    with store.connect() as connection:
        found = connection.execute(text("SELECT options FROM alchemist.rank_snapshots ORDER BY snapshot_id")).scalars()
        assert [options.get("last_flag_id") for options in found] == [None, 1]


def test_each_rater_has_scales_and_snapshots_of_its_own(store: Engine) -> None:
    one = take(store)
    with store.begin() as connection:
        add_rater(connection, rater_id=2, name="s", state="candidate")
    add_night(store, "2026-01-09", {"c.tar": [7.0, 9.0]}, state="selectable", dataset_id=WEB, rater_id=2)
    rater = find_rater(store, "s")
    assert rater is not None
    other = take_snapshot(store, rater, ["web"])
    assert (other.scale.knot_scores.tolist(), other.n_eligible) == ([7, 9], 2)
    assert take(store).scale.is_same_as(one.scale)
    assert other.snapshot_id is not None
    assert one.snapshot_id is not None
    assert [read_dataset_names(store, number) for number in (one.snapshot_id, other.snapshot_id)] == [
        sorted(BOTH),
        ["web"],
    ]


def test_each_sample_is_of_the_dataset_of_its_night(store: Engine) -> None:
    names, number_N = take(store).dataset_of()
    assert names == ["books", "web"]
    assert np.bincount(number_N).tolist() == [100, 300]
    assert np.bincount(take(store).dataset_of(slice(0, 3))[1]).sum() == 3


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 7, 399, 400])
def test_an_eligible_set_is_the_same_in_whatever_ranges_it_is_read(
    store: Engine, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    set_duplicates(store, [(11, 10), (350, 10)])
    options = EligibleOptions(where="sample_id <> 20")
    first = take(store, options=options)
    shutil.rmtree(load_settings().home / "snapshots")
    monkeypatch.setattr(eligible, "RANGE", n)
    assert same(take(store, options=options), first)


def test_what_was_taken_down_or_has_no_score_is_counted_and_not_in_the_eligible_set(store: Engine) -> None:
    change(store, """
        INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)
        SELECT image_hash, 'asked', 'ann' FROM alchemist.samples WHERE sample_id IN (4, 5)
    """)  # fmt: skip
    pairs = take(store, options=EligibleOptions(score="aesthetic")).pairs
    # Every fourth sample has no heuristics; sample 4 is one of them, and was taken down.
    assert (len(pairs), pairs.n_taken_down, pairs.n_unscored) == (299, 2, 99)


@pytest.mark.parametrize(
    ("options", "datasets", "message"),
    [
        ({}, ["nope"], r"'nope' is not registered \(registered: bench, books, goal, web\)"),
        ({}, ["bench"], "bench is an evaluation dataset. Only training datasets"),
        ({}, ["goal"], "goal is a validation dataset. Only training datasets"),
        ({}, ["gone"], "'gone' is not registered"),
        ({"decontaminate": ("web",)}, ["web"], "--decontaminate web: it is a training dataset"),
        ({"decontaminate": ("nope",)}, ["web"], "--decontaminate nope: it is not registered"),
        ({"decontaminate": ("gone",)}, ["web"], "--decontaminate gone: it is not registered"),
    ],
)
def test_only_training_data_is_selected_from_and_only_other_data_compared_with(
    store: Engine, options: dict[str, Any], datasets: list[str], message: str
) -> None:
    with store.begin() as connection:
        insert_rows(connection, {"datasets": [
            {"dataset_id": 8, "name": "goal", "role": "validation"},
            {"dataset_id": 9, "name": "gone", "role": "validation", "removed_at": "now", "removed_reason": "asked"},
        ]})  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        take(store, datasets=datasets, options=EligibleOptions(**options))


def add_shard(engine: Engine, number: int, *samples: Any) -> None:
    """Register a shard of the evaluation dataset."""
    register_shard(engine, new_shard(number), samples, [])


def add_rejected(engine: Engine, number: int) -> None:
    reject_shard(engine, new_shard(number), "not_a_tar")


def new_shard(number: int) -> NewShard:
    return NewShard(BENCH, f"{number}.tar", sha256(number), 1, date(2025, 1, 1), run_id=1)


@pytest.mark.parametrize("add", [add_shard, add_rejected])
def test_an_image_of_an_evaluation_shard_is_excluded_from_its_commit_on_beside_later_shards(
    store: Engine, add: Callable[[Engine, int], None]
) -> None:
    """A moment names the last evaluation shard: those below it must have been committed, or kept files would lack them for ever."""
    options = EligibleOptions(decontaminate=("bench",))
    (image,) = (row.image_hash for row in pairs(store) if row.sample_id == 7)
    with ThreadPoolExecutor(2) as threads:
        with store.begin() as other:
            # The first shard has its id, and waits for this sample.
            insert_rows(other, {"samples": [{"sample_id": 10_000, "caption": "cat", "image_hash": image}]})
            first = threads.submit(add_shard, store, 1, pair(0, "cat"))
            wait_until_blocked(other, first)
            second = threads.submit(add, store, 2)
            wait_until_blocked(other, first, second)
            assert take(store, options=options).n_eligible == 400
        first.result()
        second.result()
    assert take(store, options=options).n_eligible == 399


def test_a_condition_that_excludes_no_sample_is_not_kept(store: Engine) -> None:
    for where in ("sample_id > 0", "sample_id > 1"):
        take(store, options=EligibleOptions(where=where))
    with store.connect() as connection:
        kept = connection.execute(text("SELECT options FROM alchemist.rank_snapshots ORDER BY snapshot_id")).scalars()
        assert [options.get("where") for options in kept] == [None, "sample_id > 1"]


def test_sources_are_numbered_as_they_come_and_none_is_zero(store: Engine) -> None:
    change(store, "UPDATE alchemist.samples SET source_url = NULL WHERE sample_id % 3 = 0")
    pairs = take(store, options=EligibleOptions(with_sources=True)).pairs
    with store.connect() as connection:
        statement = "SELECT pair_hash, sample_id FROM alchemist.samples ORDER BY pair_hash"
        ids = [row.sample_id for row in connection.execute(text(statement))]
    # As `fill` makes them: every fifth image has its own host, the others share one.
    host_of = {n: None if n % 3 == 0 else f"h{n}" if n % 5 == 0 else "one" for n in ids}
    # Unknown ones get a number at their first occurrence, and are written as 0.
    number_of: dict[str | None, int] = {}
    numbers = [number_of.setdefault(host_of[n], len(number_of) + 1) for n in ids]
    wanted = [0 if host_of[n] is None else number for n, number in zip(ids, numbers, strict=True)]
    assert pairs.source_N is not None
    assert pairs.source_N.tolist() == wanted


def test_samples_of_an_eligible_set_are_found_by_their_hash(store: Engine) -> None:
    pairs = take(store).pairs
    wanted = pairs.pair_hash_N32[[7, 3]].copy()
    assert pairs.find(wanted).tolist() == [3, 7]
    wanted[0] ^= 1
    assert pairs.find(wanted).tolist() == [3]
    assert pairs.find(np.full((1, 32), 255, np.uint8)).tolist() == []


def test_what_excludes_a_sample_is_part_of_what_an_eligible_set_is(store: Engine) -> None:
    all_of_them = take(store).pairs
    some = take(store, options=EligibleOptions(where="sample_id > 7")).pairs
    assert (len(all_of_them), len(some), some.count_open(), len(some.open_pairs())) == (400, 400, 393, 393)
    assert all_of_them.sha256() != some.sha256()
    assert all_of_them.open_pairs() is all_of_them
    other = take(store, options=EligibleOptions(where="sample_id > 8")).pairs
    assert other.sha256() != some.sha256()
