"""A clock that jumps by a day, of the database's machine or of a worker's, loses, doubles and locks nothing.

A preloaded library gives the processes another time (Debian: faketime); the machine's own clock does not change.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from alchemist_core.errors import DataError, LeaseLostError
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.postgres import EmbeddedPostgres, start_postgres, stop_postgres
from tests.faults.test_kills import CHAIN, finish, prepare, start, wait_for_ledger
from tests.trained_store import TrainedStore

LIBRARIES = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib/faketime").glob("libfaketimeMT.so.1"),
]
pytestmark = [
    pytest.mark.db,
    pytest.mark.faults,
    pytest.mark.skipif(not LIBRARIES, reason="no library that shifts clocks: apt-get install faketime"),
]
N_SHARDS = 60
JUMPS = ("+1d", "-1d")
LONGEST_S = 240


class Clock:
    """The time that processes with a shifted clock see; it can be set while they run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "clock"
        self.set("+0")

    def set(self, offset: str) -> None:
        half = self._path.with_suffix(".half")
        half.write_text(f"{offset}\n")
        half.chmod(0o644)
        half.replace(self._path)

    def environment(self) -> dict[str, str]:
        """Durations are measured by the monotonic clock, which the test does not change."""
        return {
            "LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(self._path), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    folder = tmp_path_factory.mktemp("clock")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)  # The server's account walks to it.
    return Clock(folder)


@pytest.fixture(scope="module")
def shifted_server(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A separate server whose clock the test sets."""
    home = tmp_path_factory.mktemp("shifted")
    home.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in clock.environment().items():
            patch.setenv(name, value)
        server = start_postgres(home)
    yield server
    clock.set("+0")
    stop_postgres(home)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    draw_scenes(root, n_train=10 * N_SHARDS, n_validation=120, n_test=40, shard_size=10, side=32)
    return root


class Template(NamedTuple):
    """A store with a production rater and unscored shards, and the tables of an undisturbed store in which they were scored."""

    server: EmbeddedPostgres
    store: TrainedStore
    tables: dict[str, str]

    def copy(self, home: Path) -> TrainedStore:
        shutil.copytree(self.store.home, home)
        name = f"copy_{home.parent.name.replace('-', '_')}"[:60].lower()
        self.server.run_sql('CREATE DATABASE :"name" TEMPLATE unscored OWNER alchemist', name=name)
        return TrainedStore(self.server.url(name), home)


@pytest.fixture(scope="module")
def unscored(shifted_server: EmbeddedPostgres, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    store = TrainedStore(shifted_server.create_database("unscored"), tmp_path_factory.mktemp("unscored"))
    prepare(store, scenes)
    calm = Template(shifted_server, store, {}).copy(tmp_path_factory.mktemp("calm") / "home")
    finish(CHAIN[0], calm)
    return Template(shifted_server, store, table_checksums(calm.url))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("is_killed", [False, True], ids=["alive", "killed"])
def test_a_database_whose_clock_jumps_while_shards_are_scored_ends_as_a_calm_one(
    unscored: Template, clock: Clock, tmp_path: Path, jump: str, is_killed: bool
) -> None:
    store = unscored.copy(tmp_path / "home")
    process = start(CHAIN[0], store)
    assert wait_for_ledger(store, at_least=1) < N_SHARDS, "scoring was over before the jump"
    clock.set(jump)
    try:
        if is_killed:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
        assert process.returncode in {-signal.SIGKILL if is_killed else 0, LeaseLostError.exit_code}
        began = time.monotonic()
        finish_in_the_end(store)
        assert time.monotonic() - began < LONGEST_S, "nobody waits for the lease of a day that is not to come"
    finally:
        clock.set("+0")
    assert table_checksums(store.url) == unscored.tables


@pytest.mark.timeout(600)
def test_workers_whose_clocks_are_a_day_apart_end_as_one_whose_clock_is_right(
    unscored: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = unscored.copy(tmp_path / "home")
    processes = []
    for slot, jump in enumerate(JUMPS):
        own = Clock(make_folder(tmp_path / f"clock{slot}"))
        own.set(jump)
        with monkeypatch.context() as patch:
            for name, value in own.environment().items():
                patch.setenv(name, value)
            processes.append(start((*CHAIN[0], "--slot", str(slot)), store))
    for process in processes:
        _, said = process.communicate(timeout=240)
        # On a busy machine a heartbeat may be late; that run stops and leaves unfinished work.
        assert process.returncode in {0, LeaseLostError.exit_code}, said
    finish_in_the_end(store)
    assert table_checksums(store.url) == unscored.tables


@pytest.mark.parametrize("jump", JUMPS)
def test_a_replaced_shard_is_found_whatever_the_clock_of_the_ingesting_machine(
    shifted_server: EmbeddedPostgres, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    store = TrainedStore(shifted_server.create_database(f"replaced{jump[0] == '+'}".lower()), tmp_path / "home")
    shutil.copytree(scenes / "train", tmp_path / "train")
    words = ("ingest", "--dataset", "scenes", "--root", str(tmp_path / "train"))
    finish(("db", "migrate"), store)
    own = Clock(make_folder(tmp_path / "clock"))
    own.set(jump)
    with monkeypatch.context() as patch:
        for name, value in own.environment().items():
            patch.setenv(name, value)
        finish(words, store)
    shards = sorted((tmp_path / "train").rglob("*.tar"))
    replaced = shards[0].read_bytes()
    time.sleep(2.5)  # Beyond what file systems round.
    shards[0].write_bytes(bytes(byte ^ (at == 700) for at, byte in enumerate(replaced)))
    process = start(words, store)
    _, said = process.communicate(timeout=120)
    assert process.returncode == DataError.exit_code
    assert "replaced under the same address" in said
    assert shards[0].name in said


def finish_in_the_end(store: TrainedStore) -> None:
    """Score the rest; repeat once if the machine is too busy for a transaction's ten seconds or a heartbeat."""
    for _ in range(2):
        process = start(CHAIN[0], store)
        process.communicate(timeout=LONGEST_S)
        if process.returncode == 0:
            return
    finish(CHAIN[0], store)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_library_shifts_the_clock_by_the_set_time(clock: Clock) -> None:
    command = ["python3", "-c", "import time; print(time.time())"]
    own = {**os.environ, **clock.environment()}
    clock.set("-1d")
    shifted = float(subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout)
    clock.set("+0")
    assert -86_500 < shifted - time.time() < -86_300
