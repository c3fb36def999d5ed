"""Tars that worker processes write have the bytes of those that one process writes, also if workers die."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings
from alchemist_core.shards.tar_writer import write_blocks
from alchemist_core.subsets import materialized
from alchemist_core.subsets.materialized import FolderStorage, WrittenTar, count_workers
from alchemist_core.subsets.member_table import MemberLocation
from alchemist_core.subsets.members import table_of
from alchemist_core.subsets.tar_copies import TarPlan
from tests.subsets.given_subset import copy, files, find_sources, hidden


@dataclass(frozen=True, slots=True)
class DeadlyStorage(FolderStorage):
    """Kills the process in the middle of the second tar, the first `n_deaths` times."""

    deaths: Path
    n_deaths: int

    def write(self, folder: Path, plan: TarPlan) -> WrittenTar:
        """Write the tar; of the deadly one a part."""
        if plan.name == "000001.tar" and len(list(self.deaths.iterdir())) < self.n_deaths:
            (self.deaths / str(os.getpid())).touch()
            write_blocks(folder / plan.name, _deadly_blocks())
        return FolderStorage(self.verify).write(folder, plan)


def _deadly_blocks():
    yield bytes(100_000)
    os.kill(os.getpid(), signal.SIGKILL)


def use_workers(monkeypatch: pytest.MonkeyPatch, n_workers: int | None) -> None:
    if n_workers is None:
        monkeypatch.delenv("ALCHEMIST_DECODE_WORKERS", raising=False)
    else:
        monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", str(n_workers))
    load_settings.cache_clear()


@pytest.fixture(autouse=True)
def _read_settings_again():
    yield
    load_settings.cache_clear()


def deadly(tmp_path: Path, n_deaths: int) -> DeadlyStorage:
    (tmp_path / "deaths").mkdir(exist_ok=True)
    return DeadlyStorage("read_back", tmp_path / "deaths", n_deaths)


@pytest.mark.parametrize("seed", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_worker_processes_change_no_byte_and_no_result(
    sources: list[MemberLocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    made, done = {}, {}
    for n_workers in (0, 1, 3):
        use_workers(monkeypatch, n_workers)
        seen: list[tuple[int, int]] = []
        folder = tmp_path / str(n_workers) / "copy"
        copied = copy(
            sources, folder, seed=seed, shard_size=2, on_progress=lambda n, total, _, seen=seen: seen.append((n, total))
        )
        made[n_workers], done[n_workers] = copied._replace(folder=Path()), files(folder)
        assert seen[-1] == (14, 14)
        assert len(seen) == 7
    assert made[1] == made[3] == made[0]
    assert done[1] == done[3] == done[0]


def test_checksums_that_workers_found_are_those_of_the_right_members(
    crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_workers(monkeypatch, 2)
    wanted = [source.content_checksum for source in find_sources(crawl)]
    found = copy(find_sources(crawl, has_checksum=False), tmp_path / "copy", seed=1).found
    assert found is not None
    assert sorted(found.row_K.tolist()) == list(range(14))
    assert [row.tobytes() for row in found.checksum_K16] == [wanted[row] for row in found.row_K]


@pytest.mark.slow
def test_a_second_run_in_workers_writes_nothing_and_a_damaged_tar_is_written_again(
    sources: list[MemberLocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_workers(monkeypatch, 2)
    made = copy(sources, tmp_path / "copy")
    before = files(tmp_path / "copy")
    assert copy(sources, tmp_path / "copy").n_bytes_written == 0
    (tmp_path / "copy" / "000001.tar").write_bytes(b"short")
    assert copy(sources, tmp_path / "copy").n_bytes_written == made.shards[1].size_bytes
    assert files(tmp_path / "copy") == before


def test_an_error_in_a_worker_is_that_of_one_process(
    sources: list[MemberLocation], crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = crawl / "000001.tar"
    tar.write_bytes(bytes(byte ^ (at % 3_000 == 1_500) for at, byte in enumerate(tar.read_bytes())))
    texts = []
    for n_workers in (0, 2):
        use_workers(monkeypatch, n_workers)
        # One tar for all of that source, so that the first damaged record is the same one.
        with pytest.raises(DataError, match="does not hold the registered sample") as caught:
            copy(sources, tmp_path / "copy", shard_size=50)
        texts.append(str(caught.value))
        assert not (tmp_path / "copy").exists()
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_tar_on_which_a_worker_died_is_written_again_and_nothing_half_is_left(
    sources: list[MemberLocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_workers(monkeypatch, 0)
    copy(sources, tmp_path / "whole" / "copy")
    use_workers(monkeypatch, 2)
    copy(sources, tmp_path / "copy", storage=deadly(tmp_path, n_deaths=1))
    assert len(list((tmp_path / "deaths").iterdir())) == 1
    assert files(tmp_path / "copy") == files(tmp_path / "whole" / "copy")


@pytest.mark.slow
def test_a_tar_on_which_two_workers_died_ends_the_run_and_a_later_one_completes_it(
    sources: list[MemberLocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_workers(monkeypatch, 1)
    with pytest.raises(DataError, match=r"Two worker processes died while they wrote 000001\.tar .*code -9"):
        copy(sources, tmp_path / "copy", storage=deadly(tmp_path, n_deaths=2))
    assert not (tmp_path / "copy").exists()
    journal = hidden(tmp_path / "copy")[".journal"].decode()
    assert "000000.tar" in journal
    assert "000001.tar" not in journal
    made = copy(sources, tmp_path / "copy", storage=deadly(tmp_path, n_deaths=2))
    assert made.n_bytes_written == sum(shard.size_bytes for shard in made.shards if shard.name not in journal)
    use_workers(monkeypatch, 0)
    copy(sources, tmp_path / "whole" / "copy")
    assert files(tmp_path / "copy") == files(tmp_path / "whole" / "copy")


@pytest.mark.parametrize(
    ("mib", "n_tars", "n_cores", "n_workers"),
    [
        (1_023, 99, 8, 0), (1_024, 99, 8, 2), (7_700, 99, 8, 15), (9_999, 99, 8, 16), (9_999, 3, 8, 3), (9_999, 1, 8, 0),
        (99_999, 99, 64, 32),        (99_999, 99, 4, 0),
    ],
)  # fmt: skip
def test_as_many_processes_write_tars_as_pay(
    monkeypatch: pytest.MonkeyPatch, mib: int, n_tars: int, n_cores: int, n_workers: int
) -> None:
    """Two per core; none on up to four cores, or if there is work for one only: a process takes as long to start as 512 MiB to copy."""
    use_workers(monkeypatch, None)
    monkeypatch.setattr(materialized, "n_own_cores", lambda: n_cores)
    members = table_of([MemberLocation("a.tar", "a", ("jpg",), (512,), (mib << 20,), bytes(32), 0.5)])
    assert count_workers(members, n_tars) == n_workers
    use_workers(monkeypatch, 5)
    assert count_workers(members, n_tars) == min(5, n_tars)
    assert count_workers(table_of([]), 0) == 0
