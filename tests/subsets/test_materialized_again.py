"""Materializing again keeps correct files and makes the missing ones."""

import io
import multiprocessing
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alchemist_core.errors import DataError
from alchemist_core.subsets import materialized
from alchemist_core.subsets.materialized import FolderStorage, MaterializedDataset
from alchemist_core.subsets.member_table import MemberLocation
from tests.subsets.given_subset import copy, files, find_sources, hidden


def written(folder: Path) -> dict[str, tuple[int, int]]:
    # Not all of stat, because reading a file changes its access time.
    return {path.name: (path.stat().st_ino, path.stat().st_ctime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("verify", ["read_back", "source"])
def test_a_second_run_writes_nothing(sources: list[MemberLocation], tmp_path: Path, verify: str) -> None:
    first = copy(sources, tmp_path / "copy")
    assert first.n_bytes_written == sum(path.stat().st_size for path in (tmp_path / "copy").glob("*.tar"))
    before = written(tmp_path / "copy")
    second = copy(sources, tmp_path / "copy", storage=FolderStorage(verify))
    assert written(tmp_path / "copy") == before
    assert second == first._replace(n_bytes_written=0)


def test_a_finished_copy_stays_finished_when_its_sources_move(
    sources: list[MemberLocation], crawl: Path, tmp_path: Path
) -> None:
    copy(sources, tmp_path / "copy")
    (crawl / "000000.tar").rename(crawl / "zzz.tar")
    assert copy(find_sources(crawl), tmp_path / "copy").n_bytes_written == 0


def test_a_run_after_a_killed_one_ends_as_if_it_had_not_been_killed(
    sources: list[MemberLocation], tmp_path: Path
) -> None:
    def kill(done: int, _total: int, _text: str) -> None:
        if done > 5:
            raise KeyboardInterrupt

    copy(sources, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        copy(sources, tmp_path / "killed", on_progress=kill)
    assert not (tmp_path / "killed").exists()
    n_noted = len(hidden(tmp_path / "killed")[".journal"].splitlines()) // 2
    # A small file that was killed before its rename.
    (tmp_path / ".killed.part" / ".wids.json.4711").write_text("half")
    resumed = copy(sources, tmp_path / "killed")
    sizes = {shard.name: shard.size_bytes for shard in resumed.shards}
    assert n_noted == 2
    assert resumed.n_bytes_written in sizes.values()
    # The name of a materialized dataset is in its index, and therefore in the list of checksums.
    whole, killed = files(tmp_path / "whole"), files(tmp_path / "killed")
    assert killed["wids.json"] == whole["wids.json"].replace(b'"whole"', b'"killed"')
    assert {name: killed[name] for name in set(killed) - {"wids.json", "SHA256SUMS"}} == {
        name: whole[name] for name in set(whole) - {"wids.json", "SHA256SUMS"}
    }
    assert not tmp_path.joinpath(".killed.part").exists()


@pytest.mark.parametrize("damage", [b"", b"short", "flip", None])
def test_a_damaged_copy_is_made_again(
    sources: list[MemberLocation], tmp_path: Path, damage: bytes | str | None
) -> None:
    made = copy(sources, tmp_path / "copy")
    before = files(tmp_path / "copy")
    raw = bytearray(before["000001.tar"])
    raw[700] ^= 1
    path = tmp_path / "copy" / "000001.tar"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(raw if isinstance(damage, str) else damage)
    again = copy(sources, tmp_path / "copy")
    assert again.n_bytes_written == made.shards[1].size_bytes
    assert files(tmp_path / "copy") == before


@pytest.mark.parametrize("name", ["README.md", "wids.json", "manifest.parquet", "SHA256SUMS"])
def test_a_flipped_byte_beside_the_tars_is_mended_and_no_tar_written(
    sources: list[MemberLocation], tmp_path: Path, name: str
) -> None:
    copy(sources, tmp_path / "copy")
    before = files(tmp_path / "copy")
    raw = bytearray(before[name])
    raw[60] ^= 1
    (tmp_path / "copy" / name).write_bytes(raw)
    assert copy(sources, tmp_path / "copy").n_bytes_written == 0
    assert files(tmp_path / "copy") == before


def test_a_copy_can_be_proven_whole_without_this_program(sources: list[MemberLocation], tmp_path: Path) -> None:
    copy(sources, tmp_path / "copy")
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path / "copy", check=False).returncode == 0
    listed = {line.split("  ")[1] for line in (tmp_path / "copy" / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(files(tmp_path / "copy")) - {"SHA256SUMS"}
    (tmp_path / "copy" / "000001.tar").write_bytes(b"other")
    assert subprocess.run(check, cwd=tmp_path / "copy", capture_output=True, check=False).returncode == 1


def test_another_layout_or_other_members_are_another_copy(sources: list[MemberLocation], tmp_path: Path) -> None:
    copy(sources, tmp_path / "copy")
    for given, options in ((sources, {"shard_size": 7}), (sources, {"seed": 1}), (sources[1:], {})):
        with pytest.raises(DataError, match="something else"):
            copy(given, tmp_path / "copy", **options)


def test_what_an_interrupted_copy_of_other_members_left_is_not_mixed_in(
    sources: list[MemberLocation], tmp_path: Path
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(sources, tmp_path / "copy", on_progress=kill)
    made = copy(sources[:4], tmp_path / "copy")
    assert [shard.n_samples for shard in made.shards] == [4]
    assert sorted(files(tmp_path / "copy")) == [
        "000000.tar",
        "README.md",
        "SHA256SUMS",
        "manifest.parquet",
        "wids.json",
    ]


@pytest.mark.slow
def test_two_processes_that_copy_the_same_wait_for_each_other(sources: list[MemberLocation], tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        copies = pool.map(copy_into, [(sources, tmp_path / "copy")] * 3)
    assert sorted(made.n_bytes_written > 0 for made in copies) == [False, False, True]
    assert len({tuple(made.shards) for made in copies}) == 1


def copy_into(given: tuple[list[MemberLocation], Path]) -> MaterializedDataset:
    return copy(*given)


@pytest.mark.parametrize("content", [{"000000.tar": b"mine"}, {}])
def test_a_folder_that_is_something_else_is_left_alone(
    sources: list[MemberLocation], tmp_path: Path, content: dict[str, bytes]
) -> None:
    (tmp_path / "copy").mkdir()
    for name, data in content.items():
        (tmp_path / "copy" / name).write_bytes(data)
    with pytest.raises(DataError, match="something else"):
        copy(sources, tmp_path / "copy")
    assert files(tmp_path / "copy") == content


def test_a_copy_whose_manifest_cannot_be_read_is_something_else(sources: list[MemberLocation], tmp_path: Path) -> None:
    copy(sources, tmp_path / "copy")
    path = tmp_path / "copy" / "manifest.parquet"
    data = path.read_bytes()
    for bad in (b"", data[:-20], data[:-200] + bytes(192) + data[-8:]):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"something else\. Remove the folder"):
            copy(sources, tmp_path / "copy")


def test_a_manifest_with_a_type_that_arrow_does_not_know_is_no_manifest() -> None:
    """A flipped byte can make a column's integers wider than 64 bits, which Arrow reports as something not implemented."""
    buffer = io.BytesIO()
    pq.write_table(materialized.SCHEMA.empty_table(), buffer)
    data, n_unknown = bytearray(buffer.getvalue()), 0
    for place, value in ((place, data[place] ^ flip) for place in range(len(data)) for flip in (1, 64)):
        damaged = bytes(data[:place]) + bytes([value]) + bytes(data[place + 1 :])
        try:
            pq.read_schema(io.BytesIO(damaged))
        except pa.ArrowNotImplementedError:
            n_unknown += 1
            assert materialized.read_dataset_manifest(io.BytesIO(damaged)) is None
        except (OSError, ValueError):
            continue
    assert n_unknown > 0


def test_a_copy_is_complete_on_the_disk_before_it_is_renamed_and_the_rename_is_flushed_after_it(
    sources: list[MemberLocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks the order of disk operations, because a power cut cannot be tested here."""
    asked: list[tuple[str, str]] = []
    sync_folder, replace = materialized.sync_folder, Path.replace
    monkeypatch.setattr(
        materialized, "sync_folder", lambda folder: asked.append(("sync", folder.name)) or sync_folder(folder)
    )
    monkeypatch.setattr(
        Path, "replace", lambda self, target: asked.append(("replace", Path(target).name)) or replace(self, target)
    )
    copy(sources, tmp_path / "copy")
    assert asked[-3:] == [("sync", ".copy.part"), ("replace", "copy"), ("sync", tmp_path.name)]
