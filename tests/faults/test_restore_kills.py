"""A restore that is killed at any moment leaves an empty store or the whole backup, and the next restore completes it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.db import BackupConfig, backup
from alchemist_core.errors import StoreError
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import checksum, clear_for_restore
from alchemist_core.store.engine import check_schema, current_revision, make_engine
from tests.faults.test_kills import environment
from tests.trained_store import TrainedStore

pytestmark = pytest.mark.db


def start_restore(folder: Path, store: TrainedStore) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "alchemist_core", "db", "restore", str(folder)]
    return subprocess.Popen(
        command,
        env=environment(store),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish_restore(folder: Path, store: TrainedStore) -> float:
    began = time.monotonic()
    process = start_restore(folder, store)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return time.monotonic() - began


def kill_restore(folder: Path, store: TrainedStore, *, after_s: float, from_load: bool, with_children: bool) -> None:
    """Kill a restore some time after its start, or after it began to load the data; wait until nothing of it works any more."""
    process = start_restore(folder, store)
    if from_load:
        wait_for_load(process, store)
    time.sleep(after_s)
    if with_children:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
    engine = make_engine(store.url)
    with engine.connect() as connection:
        others = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        while connection.execute(others).scalar_one():
            connection.rollback()
            time.sleep(0.05)
    engine.dispose()


def wait_for_load(process: subprocess.Popen[str], store: TrainedStore) -> None:
    loading = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'psql'"
    )
    engine = make_engine(store.url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while process.poll() is None and not connection.execute(loading).scalar_one():
            time.sleep(0.01)
    engine.dispose()


def empty(store: TrainedStore) -> None:
    """Empty the database."""
    engine = make_engine(store.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS alchemist CASCADE")
    engine.dispose()


def judge(store: TrainedStore, expected: str) -> str:
    """Return whether the store is empty or complete; fail if it is neither."""
    if current_revision(store.url) is None:
        with pytest.raises(StoreError, match="no complete schema yet"):
            check_schema(store.url)
        return "nothing"
    assert checksum(store.url) == expected
    return "everything"


def kill_and_complete(
    copy_trained: Callable[[], TrainedStore], make_database: Callable[..., str], folder: Path, seeds: range
) -> dict[str, int]:
    """Kill one restore for each seed, complete it by another, and count what the kills left."""
    source = copy_trained()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(source).items():
            patch.setenv(name, value)
        load_settings.cache_clear()
        expected = backup(BackupConfig(folder=folder)).checksum
    load_settings.cache_clear()
    target, found = (
        TrainedStore(make_database(template=None), folder.with_name("other-home")),
        {"nothing": 0, "everything": 0},
    )
    duration = finish_restore(folder, target)
    for seed in seeds:
        rng = random.Random(seed)
        empty(target)
        from_load, with_children = rng.random() < 0.5, rng.random() < 0.5
        after_s = duration * (rng.uniform(0, 0.3) if from_load else rng.uniform(0.2, 0.9))
        kill_restore(folder, target, after_s=after_s, from_load=from_load, with_children=with_children)
        found[judge(target, expected)] += 1
        print(f"seed {seed}: {found}", flush=True)
        finish_restore(folder, target)
        check_schema(target.url)
        assert checksum(target.url) == expected
        assert not list(target.home.rglob(".*.part"))
    assert clear_for_restore(target.url) is False, "a store with data is never cleared"
    return found


@pytest.mark.slow
def test_a_few_killed_restores_leave_nothing_or_everything(
    copy_trained: Callable[[], TrainedStore], make_database: Callable[..., str], tmp_path: Path
) -> None:
    assert sum(kill_and_complete(copy_trained, make_database, tmp_path / "backup", range(4)).values()) == 4


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_hundred_killed_restores_leave_nothing_or_everything(
    copy_trained: Callable[[], TrainedStore], make_database: Callable[..., str], tmp_path: Path
) -> None:
    found = kill_and_complete(copy_trained, make_database, tmp_path / "backup", range(100, 200))
    assert found["nothing"] >= 10
    assert found["everything"] >= 10
