import hashlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alchemist_core.errors import DataError
from alchemist_core.files import (
    artifact_path,
    atomic_folder,
    atomic_write,
    disk_sha256,
    file_sha256,
    folder_sha256,
    partial_path,
    require_artifact,
    write_bytes_atomically,
)


@pytest.fixture
def rater() -> tuple[Path, bytes]:
    """A checkpoint's folder and its registered hash."""
    folder = artifact_path("raters/one")
    folder.mkdir(parents=True)
    (folder / "rater.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder, folder_sha256(folder)


def test_an_untouched_artifact_is_given(rater: tuple[Path, bytes]) -> None:
    folder, sha256 = rater
    assert require_artifact("raters/one", sha256) == folder


@pytest.mark.parametrize("change", ["bytes", "name", "added", "removed"])
def test_an_artifact_that_was_changed_in_any_way_is_refused(rater: tuple[Path, bytes], change: str) -> None:
    folder, sha256 = rater
    weights = folder / "rater.safetensors"
    match change:
        case "bytes":
            weights.write_bytes(b"Weights")
        case "name":
            weights.rename(folder / "other.safetensors")
        case "added":
            (folder / "more").write_bytes(b"")
        case _:
            weights.unlink()
    with pytest.raises(DataError, match="its files were changed"):
        require_artifact("raters/one", sha256)


def test_an_artifact_that_is_gone_names_the_remedy(rater: tuple[Path, bytes]) -> None:
    with pytest.raises(
        DataError, match=r"two is missing\. Restore it from a backup: .* the stage that made it makes no other\."
    ):
        require_artifact("raters/two", rater[1])


@pytest.mark.parametrize("uri", ["/etc/passwd", "..", "raters/../../keys", "../artifacts/raters/one"])
def test_an_address_outside_of_the_artifacts_is_refused_by_name(uri: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(repr(uri))} is not an address of an artifact"):
        artifact_path(uri)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    write_bytes_atomically(path, b"old")

    def write_until_the_disk_is_full() -> None:
        with atomic_write(path) as partial:
            partial.write_bytes(b"ne")
            assert path.read_bytes() == b"old"
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        write_until_the_disk_is_full()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["manifest"]
    write_bytes_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("is_sole_writer", [True, False])
def test_an_interrupted_write_leaves_a_partial_file_only_where_writers_may_meet(
    tmp_path: Path, is_sole_writer: bool
) -> None:
    """Only a sole writer may reuse the partial file of a killed process: it could be another process's that still writes."""
    (tmp_path / ".state.part").write_bytes(b"left by a killed process, longer than the new content")
    with atomic_write(tmp_path / "state", is_sole_writer=is_sole_writer) as partial, partial.open("ab") as file:
        file.write(b"new")
    assert (tmp_path / "state").read_bytes() == b"new"
    assert names(tmp_path) == (["state"] if is_sole_writer else [".state.part", "state"])


def test_two_threads_that_write_the_same_file_replace_it_only_by_complete_ones(tmp_path: Path) -> None:
    path, together = tmp_path / "rank.npy", threading.Barrier(2, timeout=60)

    def write(data: bytes) -> None:
        with atomic_write(path) as partial, partial.open("wb") as file:
            together.wait()
            file.write(data)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, (b"first", b"second")))
    assert path.read_bytes() in (b"first", b"second")
    assert names(tmp_path) == ["rank.npy"]


def test_a_folder_takes_its_name_when_it_is_complete_and_starts_empty_after_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "backup"

    def fill_until_the_disk_is_full() -> None:
        with atomic_folder(folder) as partial:
            (partial / "one").touch()
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fill_until_the_disk_is_full()
    assert names(tmp_path) == [partial_path(folder).name]
    with atomic_folder(folder) as partial:
        (partial / "two").touch()
    assert names(tmp_path) == ["backup"]
    assert names(folder) == ["two"]


def test_a_file_has_one_sha256_however_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(range(256)) * 5000)
    expected = hashlib.sha256(path.read_bytes()).digest()
    with path.open("rb") as file:
        file.read(100)
        assert disk_sha256(file) == expected
    assert file_sha256(path) == expected
