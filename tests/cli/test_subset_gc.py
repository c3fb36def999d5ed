"""Garbage collection removes old versions that no reader, model or job uses, and nothing else."""

import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.check import CheckConfig
from alchemist_core.cli.check import run as check
from alchemist_core.cli.subset import BucketsConfig, GcSubsetConfig, GcSubsetResult, count_buckets, gc
from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path
from alchemist_core.shards import s3
from alchemist_core.store import subsets
from alchemist_core.store.engine import open_store
from alchemist_core.store.night_files import kept_folder
from alchemist_core.store.subsets import find_subset, mark_materialized, note_copy, publish_subset, store_members
from alchemist_core.subsets import materialized
from alchemist_core.subsets.materialized import identify_members, layout_of, remove_materialized
from alchemist_core.subsets.members import locate_remaining
from alchemist_core.subsets.selected import load_manifest
from tests.drawn_versions import N_PAIRS, NAME, current, fill_pool, grow, members, run_publish, select
from tests.given import insert_rows
from tests.object_store import BUCKET, endpoint, object_store
from tests.subset_reader import reading
from tests.trained_store import TrainedStore, copy_store, store_once, use_store, used

__all__ = ["endpoint", "object_store"]

pytestmark = pytest.mark.db


def collect(**fields: object) -> GcSubsetResult:
    return gc(GcSubsetConfig.model_validate({"min_age_days": 0, **fields}))


@pytest.fixture(scope="module")
def versions_once(make_database: Callable[..., str]) -> TrainedStore:
    """Five versions: 3 is published, 2 was before it, 1 before that; 4 has a model; 5 was only selected. Made once, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := TrainedStore(make_database(), home)):
            fill_pool(engine := open_store())
            for retention in (0.1, 0.15, 0.2, 0.25, 0.3):
                select(retention=retention)
            for version in (1, 2, 3):
                run_publish(version)
            with engine.begin() as connection:
                number = find_subset(engine, NAME, version=4).subset_id
                insert_rows(connection, {"models": [{"model_id": 1, "arm": "subset", "subset_id": number}]})
        return store

    return store_once("five-versions", make)


@pytest.fixture
def versions(
    versions_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    """A copy of the store with five versions, which settings name."""
    use_store(monkeypatch, copy_store(versions_once, make_database, tmp_path / "home-0"))
    return open_store()


def partitions(engine: Engine) -> set[int]:
    with engine.connect() as connection:
        found = set(connection.execute(text("SELECT DISTINCT subset_id FROM alchemist.subset_samples")).scalars())
    rows = (find_subset(engine, NAME, version=v) for v in range(1, 6))
    return {row.version for row in rows if row.subset_id in found}


def manifests(engine: Engine) -> list[bool]:
    return [artifact_path(find_subset(engine, NAME, version=v).manifest_uri).exists() for v in range(1, 6)]


def test_gc_first_lists_and_then_removes_unused_versions(versions: Engine) -> None:
    listed = collect()
    assert [line.split(" (")[0] for line in listed.removed] == ["best v1", "best v5"]
    assert "--no-dry-run" in listed.summary()
    assert manifests(versions) == [True] * 5
    removed = collect(dry_run=False)
    assert (removed.removed, removed.n_bytes) == (listed.removed, listed.n_bytes)
    assert manifests(versions) == [False, True, True, True, False]
    assert partitions(versions) == {2, 3}
    assert collect().removed == []


def test_gc_leaves_alone_what_is_young_or_at_work(versions: Engine) -> None:
    assert collect(min_age_days=1).removed == []
    with versions.begin() as connection:
        insert_rows(connection, {"runs": [{"run_id": 900, "stage": "train_downstream", "config": {"subset": NAME}}]})
    assert collect().removed == []


def test_a_version_that_was_selected_or_materialized_again_is_young(versions: Engine) -> None:
    with versions.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.subsets SET created_at = now() - interval '8 days' WHERE version IN (1, 5)")
        )
        connection.execute(
            text("UPDATE alchemist.subsets SET published_at = now() - interval '8 days' WHERE version = 1")
        )
        connection.execute(
            text("""
                UPDATE alchemist.runs SET
                    started_at = started_at - interval '8 days', finished_at = finished_at - interval '8 days'
            """)
        )
    assert [line.split(" (")[0] for line in collect(min_age_days=7).removed] == ["best v1", "best v5"]
    assert select(retention=0.3).version == 5
    assert [line.split(" (")[0] for line in collect(min_age_days=7).removed] == ["best v1"]
    subset_id = find_subset(versions, NAME, version=1).subset_id
    with versions.begin() as connection:
        connection.execute(
            text("""
                UPDATE alchemist.subsets SET materialized_at = now() - interval '8 days', materialized_uri = 'tars' WHERE version = 1
            """)
        )
    assert len(collect(min_age_days=7).removed) == 1
    mark_materialized(versions, subset_id, "tars")
    assert collect(min_age_days=7).removed == []


def test_what_gc_removed_can_be_published_again(versions: Engine) -> None:
    wanted = members(versions, 1)
    collect(dry_run=False)
    run_publish(1)
    assert members(versions, 1) == wanted
    assert current(versions).version == 1


def test_what_gc_removed_passes_its_checks_when_it_is_selected_again(versions: Engine) -> None:
    collect(dry_run=False)
    assert select(retention=0.1).version == 1
    # As the DAG build_subset does before it stores the members again; it raises if a check fails.
    check(CheckConfig(suite="subset", subset=NAME, version=1))
    run_publish(1)
    assert members(versions, 1)


def test_a_training_outside_resumes_on_what_gc_removed_also_after_another_night(versions: Engine) -> None:
    wanted = members(versions, 1)
    collect(dry_run=False)
    grow(versions, "2026-01-02", 500, state="selectable")
    assert select(retention=0.1).version == 6, "the same options do not restore version 1"
    # As SubsetDataset(NAME, version=1) and export locations --version 1 do.
    located = locate_remaining(versions, find_subset(versions, NAME, version=1))
    assert set(located.manifest.pair_hashes()) == wanted
    assert len(located.members) == len(wanted)


def test_a_trainer_that_cannot_write_the_home_reads_what_gc_removed(
    versions: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = members(versions, 1)
    collect(dry_run=False)
    for folder in (artifact_path(find_subset(versions, NAME, version=1).manifest_uri).parent, kept_folder()):
        shutil.rmtree(folder, ignore_errors=True)
        # A file in its place refuses writing to every user, root included.
        folder.touch()
    located = locate_remaining(versions, find_subset(versions, NAME, version=1))
    assert set(located.manifest.pair_hashes()) == wanted
    assert "cannot be stored, so it will be selected again next time" in capsys.readouterr().err
    assert count_buckets(BucketsConfig(name=NAME, version=1)).n_samples == len(wanted)
    # What is published is stored: otherwise each reader would select it again.
    with pytest.raises(FileExistsError):
        run_publish(1)


def test_a_version_whose_manifest_gc_removes_while_it_is_being_published_is_not_published(versions: Engine) -> None:
    superseded = find_subset(versions, NAME, version=1)
    manifest, before = load_manifest(versions, superseded), current(versions)
    collect(dry_run=False)
    with pytest.raises(DataError, match="garbage-collected while it was being published"):
        publish_subset(versions, superseded, manifest, actor="test")
    assert current(versions) == before
    run_publish(1)
    assert members(versions, 1) == set(manifest.pair_hashes())


@pytest.mark.slow
def test_gc_at_work_beside_publishes_takes_nothing_from_under_a_reader(pool: Engine, database_url: str) -> None:
    retentions = (0.1, 0.15, 0.2, 0.25)
    for retention in retentions:
        select(retention=retention)
        run_publish()
    rng, stopped, n_collected = random.Random(0), threading.Event(), 0

    def collect_until_stopped() -> None:
        nonlocal n_collected
        while not stopped.is_set():
            n_collected += len(collect(dry_run=False).removed)

    collecting = threading.Thread(target=collect_until_stopped)
    with reading(database_url, NAME) as found:
        collecting.start()
        for _ in range(25):
            # It may get the error that gc was faster; then it retries.
            with suppress(DataError):
                run_publish(rng.randrange(len(retentions)) + 1)
        stopped.set()
        collecting.join()
    sizes = {find_subset(pool, NAME, version=1 + i).subset_id: round(N_PAIRS * r) for i, r in enumerate(retentions)}
    assert {seen[:3] for seen in found.seen} <= {(number, number, n) for number, n in sizes.items()}
    assert n_collected > 3
    assert members(pool, current(pool).version)


def test_gc_removes_the_manifest_of_a_selection_that_was_interrupted(versions: Engine) -> None:
    # The second is the partial file of a manifest whose writer was killed.
    lost = [artifact_path(f"subsets/{NAME}/{name}") for name in (".0000.parquet.4711", "0000.parquet")]
    for path in lost:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
        os.utime(path, (time.time() - 3 * 86400, time.time() - 3 * 86400))
    assert collect(dry_run=False, min_age_days=2).removed == [f"manifest without a version: {path}" for path in lost]
    assert not any(path.exists() for path in lost)
    # A selection writes the manifest first, and its row names it a moment later.
    lost[1].write_bytes(b"whole")
    collect(dry_run=False)
    assert lost[1].exists()


def test_tars_with_images_that_were_taken_down_go_although_a_model_was_trained_on_them(
    versions: Engine, copied: Callable[[int], Path]
) -> None:
    run_publish(4)
    run_publish(3)
    tars = copied(4), copied(3)
    gone = min(members(versions, 4) & members(versions, 3))
    with versions.begin() as connection:
        connection.execute(text(
            "INSERT INTO alchemist.takedowns (image_hash, reason, requested_by)"
            " SELECT image_hash, 'asked', 'ann' FROM alchemist.samples WHERE pair_hash = :h"), {"h": gone})  # fmt: skip
    report = collect(dry_run=False, min_age_days=1)
    assert [line.split(" (")[0] for line in report.removed] == ["best v4"]
    assert [path.exists() for path in tars] == [False, True]
    assert find_subset(versions, NAME, version=4).all_materialized_uris == []


def test_while_tars_are_removed_readers_of_a_subset_need_not_wait(
    versions: Engine, copied: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, n_read = copied(1), []

    def remove_and_read(uri: str) -> None:
        with versions.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            n_read.append(connection.execute(text("SELECT count(*) FROM alchemist.subset_samples")).scalar_one())
        remove_materialized(uri)

    monkeypatch.setattr(materialized, "remove_materialized", remove_and_read)
    collect(dry_run=False)
    assert len(n_read) == 1
    assert not tars.exists()
    assert partitions(versions) == {2, 3}


def test_tars_that_cannot_be_removed_are_left_with_their_membership_so_that_a_takedown_finds_them(
    versions: Engine, copied: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, unlink = copied(1), os.unlink

    def refuse(path: str | Path, **place: int) -> None:
        if str(path).endswith(".tar"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path, **place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        report = collect(dry_run=False)
    assert [line for line in report.left if "best v1: " in line and "cannot be removed (Permission denied)" in line]
    assert [line.split(" (")[0] for line in report.removed] == ["best v5"]
    assert (tars.with_name(f".{tars.name}.part") / "000000.tar").exists()
    assert find_subset(versions, NAME, version=1).all_materialized_uris != []
    assert partitions(versions) == {1, 2, 3}


def test_tars_that_cannot_be_looked_at_are_left_and_not_forgotten(
    versions: Engine, copied: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, scan = copied(1), os.scandir

    def refuse(path: str | Path | int) -> Any:
        if str(path) == str(tars):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        report = collect(dry_run=False)
    assert [line for line in report.left if "best v1: " in line and "cannot be read (Permission denied)" in line]
    assert tars.exists()
    assert find_subset(versions, NAME, version=1).all_materialized_uris != []


def test_a_copy_that_is_begun_while_tars_are_removed_waits_and_stays_known(
    versions: Engine, copied: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(1)
    row = find_subset(versions, NAME, version=1)

    def copy_again() -> None:
        with versions.begin() as connection:
            insert_rows(connection, {"runs": [{"run_id": 900, "stage": "materialize", "config": {"subset": NAME}}]})
        store_members(versions, row.subset_id, load_manifest(versions, row))
        note_copy(versions, row.subset_id, row.all_materialized_uris[0])

    copying = threading.Thread(target=copy_again)

    def remove_slowly(uri: str) -> None:
        copying.start()
        copying.join(2)
        remove_materialized(uri)

    monkeypatch.setattr(materialized, "remove_materialized", remove_slowly)
    report = collect(dry_run=False)
    copying.join()
    assert [line for line in report.left if line.startswith("best v1 is in use or being read")]
    assert find_subset(versions, NAME, version=1).all_materialized_uris == row.all_materialized_uris
    assert 1 in partitions(versions)


def test_a_copy_that_came_after_gc_had_looked_is_not_forgotten(
    versions: Engine, copied: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(1)
    row, collect_one = find_subset(versions, NAME, version=1), subsets.collect

    def copy_first(*given: Any, **how: Any) -> bool:
        note_copy(versions, row.subset_id, "materialized/another")
        return collect_one(*given, **how)

    monkeypatch.setattr(subsets, "collect", copy_first)
    report = collect(dry_run=False)
    assert [line for line in report.left if line.startswith("best v1 is in use or being read")]
    assert find_subset(versions, NAME, version=1).all_materialized_uris == [
        *row.all_materialized_uris,
        "materialized/another",
    ]


def test_gc_obeys_no_address_that_materialize_does_not_make(
    versions: Engine, copied: Callable[[int], Path], object_store: str, tmp_path: Path
) -> None:
    """A person who may change rows could otherwise delete every file and bucket that the workers can delete."""
    tars = copied(1)
    others = [tmp_path / "photos", tmp_path / "photos" / NAME / "v1-1000", tars.parents[2] / "raters" / "r1"]
    for folder in others:
        folder.mkdir(parents=True)
        (folder / "keep").write_bytes(b"mine")
    client = s3._client()
    client.put_object(Bucket=BUCKET, Key=f"{NAME}/000000.tar", Body=b"mine")
    refused = (
        str(others[0]),
        str(others[1].with_name("v2-1000")),
        f"{others[1]}/..",
        "raters/r1",
        f"materialized/../../photos/{NAME}/v1-1000",
        f"materialized/{NAME}",
        f"elsewhere/{NAME}/v1-1000",
        object_store,
        f"{object_store}/",
        f"{object_store}/{NAME}",
        f"s3://{NAME}/v1-1000",
    )
    for n_runs, uri in enumerate(refused):
        note_addresses(versions, 1, f"materialized/{NAME}/v1-1000", uri)
        report = collect(dry_run=False)
        assert [line.split(" (")[0] for line in report.removed] == ([] if n_runs else ["best v5"])
        assert [line for line in report.left if line.startswith("best v1: ") and repr(uri) in line], uri
    assert all((folder / "keep").exists() for folder in others)
    assert (tars / "000000.tar").exists(), "nothing of the version is deleted, its own tars neither"
    assert s3.find_objects(object_store)
    assert manifests(versions)[0]
    # As --to makes them.
    uris = str(others[1]), f"{object_store}/copies/{NAME}/v1-1000-s7"
    note_addresses(versions, 1, *uris)
    here, there = (identity(versions, 1, uri) for uri in uris)
    (others[1] / ".journal").write_text(f"{here}\n")
    key = f"copies/{NAME}/v1-1000-s7/000000.tar"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"tar", Metadata={"alchemist-copy": there})
    assert [line.split(" (")[0] for line in collect(dry_run=False).removed] == ["best v1"]
    assert [folder.exists() for folder in others] == [True, False, True]
    assert [uri for uri, _, _ in s3.find_objects(object_store)] == [f"{object_store}/{NAME}/000000.tar"]


@pytest.mark.parametrize("place", ["absolute", "above", "raters", "another subset"])
def test_gc_removes_a_manifest_only_from_the_folder_of_its_subset(versions: Engine, tmp_path: Path, place: str) -> None:
    artifacts = artifact_path("")
    uri = {
        "absolute": str(tmp_path / "notes"),
        "above": f"subsets/{NAME}/../../../notes",
        "raters": "raters/notes",
        "another subset": "subsets/another/notes",
    }[place]
    path = artifacts / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    with versions.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.subsets SET manifest_uri = :uri WHERE name = :name AND version = 1"),
            {"uri": uri, "name": NAME},
        )
    report = collect(dry_run=False)
    assert [line.split(" (")[0] for line in report.removed if line.startswith(NAME)] == ["best v5"]
    assert [line for line in report.left if line.startswith("best v1: ") and repr(uri) in line]
    assert path.read_bytes() == b"mine"


def identity(engine: Engine, version: int, uri: str) -> str:
    manifest = load_manifest(engine, find_subset(engine, NAME, version=version))
    return identify_members(manifest.pair_hash_K32, manifest.weight_K, layout_of(uri))


def note_addresses(engine: Engine, version: int, *uris: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE alchemist.subsets SET all_materialized_uris = :uris WHERE name = :name AND version = :version"
            ),
            {"uris": list(uris), "name": NAME, "version": version},
        )


@pytest.fixture
def copied(versions: Engine) -> Callable[[int], Path]:
    """Let a version have tars."""

    def copy(version: int) -> Path:
        uri = f"materialized/{NAME}/v{version}-1000"
        artifact_path(uri).mkdir(parents=True)
        (artifact_path(uri) / "000000.tar").write_bytes(b"tar")
        note_addresses(versions, version, uri)
        return artifact_path(uri)

    return copy
