"""Materializing that is killed, reads damaged sources or fills the disk ends with a complete dataset or none."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.files import artifact_path
from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.engine import open_store
from tests.benchmarks.jpeg_corpus import write_corpus
from tests.stored_version import add_version, share_of

pytestmark = [pytest.mark.db, pytest.mark.faults]
NAME, N_PAIRS, N_KILLS = "half", 4_000, 30
# About the duration of materializing on a slow machine, so that kills come at any moment of it.
LONGEST_PAUSE_S = 0.4
COMMAND = ("materialize", NAME, "--shard-size", "20")


class Source(NamedTuple):
    """A home with a subset version, and the tars of its members."""

    home: Path
    root: Path

    @property
    def copy(self) -> Path:
        return artifact_path(f"materialized/{NAME}/v1-20")


@pytest.fixture(scope="module")
def source_once(make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """4,000 images in eight tars, and a version of half of them."""
    folder = tmp_path_factory.mktemp("half")
    source = Source(folder / "home", folder / "crawl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALCHEMIST_DATABASE_URL", make_database())
        patch.setenv("ALCHEMIST_HOME", str(source.home))
        load_settings.cache_clear()
        write_corpus(source.root, side=400, n_pairs=N_PAIRS, shard_pairs=500)
        ingest(IngestConfig(dataset="crawl", root=str(source.root), perceptual_hash=False))
        add_version(open_store(), NAME, share_of(open_store(), "crawl", 0.5))
        patch.setenv("ALCHEMIST_TEST_HALF_URL", os.environ["ALCHEMIST_DATABASE_URL"])
        yield source
        open_store().dispose()
    load_settings.cache_clear()


@pytest.fixture
def source(source_once: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """The same, for one test: its materialized datasets are deleted afterwards."""
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", os.environ["ALCHEMIST_TEST_HALF_URL"])
    monkeypatch.setenv("ALCHEMIST_HOME", str(source_once.home))
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "1.5")
    load_settings.cache_clear()
    yield source_once
    forget_copy(source_once)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make(source: Source) -> dict[str, bytes]:
    """Make the copy without a disturbance; returns its bytes."""
    assert main(COMMAND) == 0
    return bytes_of(source.copy)


def forget_copy(source: Source) -> None:
    shutil.rmtree(source.copy, ignore_errors=True)
    shutil.rmtree(source.copy.with_name(f".{source.copy.name}.part"), ignore_errors=True)
    with open_store().begin() as connection:
        connection.execute(
            text(
                "UPDATE alchemist.subsets SET materialized_uri = NULL, materialized_at = NULL, all_materialized_uris = '{}'"
            )
        )


def materialized_uri() -> str | None:
    with open_store().connect() as connection:
        uri: str | None = connection.execute(text("SELECT materialized_uri FROM alchemist.subsets")).scalar_one()
        return uri


def start(n_workers: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "alchemist_core", *COMMAND]
    environment = {**os.environ, "ALCHEMIST_DECODE_WORKERS": str(n_workers)}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def kill_at_work(process: subprocess.Popen[bytes], source: Source, pause_s: float) -> bool:
    """Kill a run some time after it has opened its copy; False where it was faster."""
    aside = source.copy.with_name(f".{source.copy.name}.part")
    known = aside.stat().st_mtime_ns if aside.exists() else 0
    while process.poll() is None and not (aside.exists() and aside.stat().st_mtime_ns > known):
        time.sleep(0.001)
    time.sleep(pause_s)
    is_killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return is_killed


@pytest.mark.timeout(900)
def test_thirty_kills_leave_the_bytes_of_an_undisturbed_run(source: Source) -> None:
    expected = make(source)
    shutil.rmtree(source.copy)
    rng, n_kills, n_ends, longest_s = random.Random(5), 0, 0, LONGEST_PAUSE_S
    while n_kills < N_KILLS:
        # Runs in threads and runs with worker processes, which outlive their parent for a moment, continue each other.
        n_workers = rng.choice((0, 2))
        if kill_at_work(start(n_workers), source, rng.uniform(0, (1 + n_workers) * longest_s)):
            n_kills += 1
            assert not source.copy.exists() or bytes_of(source.copy) == expected
        if source.copy.exists():
            # This machine is faster.
            n_ends, longest_s = n_ends + 1, 0.8 * longest_s
            assert bytes_of(source.copy) == expected
            shutil.rmtree(source.copy)
    assert make(source) == expected
    assert n_ends < N_KILLS // 2, "most kills must meet a copy under way"
    assert [path.name for path in source.copy.parent.iterdir()] == [source.copy.name]


def kill_workers(process: subprocess.Popen[bytes], source: Source, n_kills: int) -> set[str]:
    """Kill that many workers of a run, each in the middle of another tar; returns the tars."""
    aside, killed = source.copy.with_name(f".{source.copy.name}.part"), set[str]()
    while process.poll() is None and len(killed) < n_kills:
        for pid in {name_of_partial(path)[1] for path in aside.glob(".*.tar.*.part")}:
            with suppress(ProcessLookupError):
                # A stopped worker begins no other tar between the look and the kill.
                os.kill(pid, signal.SIGSTOP)
                begun = {name_of_partial(path)[0] for path in aside.glob(f".*.tar.{pid}.*.part")}
                is_wanted = len(killed) < n_kills and begun and not begun & killed
                os.kill(pid, signal.SIGKILL if is_wanted else signal.SIGCONT)
                killed |= begun if is_wanted else set()
    return killed


def name_of_partial(path: Path) -> tuple[str, int]:
    """Return the tar and the process of a partial file such as .000003.tar.4711.140.part."""
    _, number, _, pid, *_ = path.name.split(".")
    return number, int(pid)


def test_a_run_whose_workers_are_killed_ends_with_the_bytes_of_an_undisturbed_one(source: Source) -> None:
    expected = make(source)
    forget_copy(source)
    process = start(n_workers=3)
    killed = kill_workers(process, source, 12)
    assert process.wait(timeout=300) == 0
    assert len(killed) == 12
    assert bytes_of(source.copy) == expected
    assert [path.name for path in source.copy.parent.iterdir()] == [source.copy.name]


def damage(source: Source, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Check that the copy is refused with this message, and that nothing is left that looks complete."""
    assert main(COMMAND) != 0
    shown = capsys.readouterr().err
    assert [word for word in words if word not in shown] == [], shown
    assert not source.copy.exists()
    assert materialized_uri() is None


def test_a_flipped_byte_in_a_source_is_named_and_nothing_is_published(
    source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = make(source)
    forget_copy(source)
    tar = source.root / "000002000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(bytes(byte ^ (at % 40_000 == 20_000) for at, byte in enumerate(whole)))
    damage(source, capsys, "000002000.tar: record '0000020", "another sha256", "Restore its bytes")
    tar.write_bytes(whole)
    assert make(source) == expected


def test_a_missing_source_is_named_and_nothing_is_published(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    tar = source.root / "000003500.tar"
    away = tar.rename(tar.with_suffix(".away"))
    damage(source, capsys, "000003500.tar", "is missing", "alchemist shard retire")
    away.rename(tar)
    assert len(make(source)) > 90


@pytest.mark.parametrize("n_bytes_left_for_manifest", [-50_000_000, 8_192])
def test_a_full_disk_is_an_error_and_the_copy_goes_on_when_there_is_room(
    source: Source, capsys: pytest.CaptureFixture[str], n_bytes_left_for_manifest: int
) -> None:
    expected = make(source)
    forget_copy(source)
    place = str(source.copy.parent)
    # Blocks of 4 KiB; four more for the journal.
    n_bytes_of_tars = 16_384 + sum(-(len(data) // -4_096) * 4_096 for name, data in expected.items() if ".tar" in name)
    size = f"size={n_bytes_of_tars + n_bytes_left_for_manifest}"
    if os.geteuid() or subprocess.call(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place]):
        pytest.skip("only an administrator can make a small disk")
    try:
        damage(source, capsys, "cannot be written (No space left on device)", "Make room")
        assert subprocess.call(["mount", "-o", "remount,size=256m", place]) == 0
        assert make(source) == expected
    finally:
        subprocess.call(["umount", place])
