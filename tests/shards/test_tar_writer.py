import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import DataError
from alchemist_core.files import disk_sha256
from alchemist_core.shards import tar_writer
from alchemist_core.shards.tar_writer import write_tar

ENTRIES = [("000.jpg", b"picture"), ("000.txt", b""), ("000.json", b"x" * 512)]


def test_the_same_entries_give_the_same_bytes_and_their_sha256(tmp_path: Path) -> None:
    digests = [write_tar(tmp_path / name, ENTRIES) for name in ("one.tar", "two.tar")]
    raw = (tmp_path / "one.tar").read_bytes()
    assert raw == (tmp_path / "two.tar").read_bytes()
    assert digests == [hashlib.sha256(raw).digest()] * 2


def test_the_bytes_are_those_of_the_standard_librarys_plainest_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "ours.tar", ENTRIES)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in ENTRIES:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert (tmp_path / "ours.tar").read_bytes() == buffer.getvalue()


def test_names_that_ustar_cannot_hold_are_kept(tmp_path: Path) -> None:
    names = ["n" * 300 + ".jpg", "é.jpg"]
    write_tar(tmp_path / "x.tar", [(name, b"") for name in names])
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == names


@pytest.mark.parametrize(
    "name", ["a", "a/b.jpg", "x" * 100, "x" * 101, "x" * 90 + "/" + "y" * 80, "é.jpg", "\udcff.txt"]
)
@pytest.mark.parametrize("size", [0, 1, 512, 81_234, 2**33 - 1, 2**33])
def test_a_header_is_the_standard_librarys(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert tar_writer.header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_many_headers_at_once_are_those_of_one_by_one() -> None:
    sizes = [0, 7, 8, 512, 81_234, 2**33 - 1]
    names = [f"{'x' * length}.jpg" for length in (1, 2, 30, 94, 95, 96)]
    assert all(tar_writer.is_plain(name, size) for name, size in zip(names, sizes, strict=True))
    name_FN = np.zeros((len(names), 100), np.uint8)
    for row_N, name in zip(name_FN, names, strict=True):
        row_N[: len(name)] = np.frombuffer(name.encode(), np.uint8)
    header_FB = tar_writer.plain_headers(name_FN, np.array(sizes))
    assert [row_B.tobytes() for row_B in header_FB] == [
        tar_writer.header(name, size) for name, size in zip(names, sizes, strict=True)
    ]
    # Names that are all shorter may be filled up to a shorter length.
    assert tar_writer.plain_headers(name_FN[:2, :6], np.array(sizes[:2])).tobytes() == header_FB[:2].tobytes()


@pytest.mark.parametrize(
    ("name", "size", "is_plain"),
    [("x" * 100, 2**33 - 1, True), ("x" * 101, 0, False), ("x", 2**33, False), ("é", 0, False)],
)
def test_a_plain_file_has_an_ascii_name_of_100_bytes_and_less_than_8_gib(name: str, size: int, is_plain: bool) -> None:
    assert tar_writer.is_plain(name, size) is is_plain


def test_a_disk_that_gives_other_bytes_back_is_found_out_unless_it_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_writer, "disk_checksum", lambda _file: b"other")
    with pytest.raises(DataError, match="differs from what was written"):
        write_tar(tmp_path / "x.tar", ENTRIES)
    assert list(tmp_path.iterdir()) == []
    write_tar(tmp_path / "x.tar", ENTRIES, read_back=False)


def test_a_tar_without_entries_is_an_empty_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [])
    assert (tmp_path / "x.tar").read_bytes() == bytes(tarfile.RECORDSIZE)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def interrupted():
        yield ENTRIES[0]
        raise KeyboardInterrupt

    write_tar(tmp_path / "x.tar", ENTRIES)
    before = (tmp_path / "x.tar").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_tar(tmp_path / "x.tar", interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    assert (tmp_path / "x.tar").read_bytes() == before


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left_aside(tmp_path: Path) -> None:
    (tmp_path / "x.tar").mkdir()
    with pytest.raises(DataError, match=r"x\.tar cannot be written \(Is a directory\)"):
        write_tar(tmp_path / "x.tar", ENTRIES)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_an_error_of_the_source_is_not_taken_for_one_of_the_disk(tmp_path: Path) -> None:
    def gone():
        yield ENTRIES[0]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        write_tar(tmp_path / "x.tar", gone())
    assert list(tmp_path.iterdir()) == []


def test_folders_above_a_tar_are_made_and_its_size_is_a_whole_number_of_records(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.tar"
    # Headers and data of 18 blocks leave exactly the two of the end; one more file needs another record.
    digests = [write_tar(path, [(str(number), b"x") for number in range(n)]) for n in (9, 10)]
    assert path.stat().st_size == 2 * tarfile.RECORDSIZE
    assert digests[0] == write_tar(path, [(str(number), b"x") for number in range(9)])
    assert path.stat().st_size == tarfile.RECORDSIZE
    with path.open("rb") as file:
        assert disk_sha256(file) == digests[0]
