"""The bytes of copied tars are those of one file after another, and every record is compared with what ingest registered."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import DataError
from alchemist_core.shards.storage import read_ranges
from alchemist_core.shards.tar_writer import write_blocks, write_tar
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.subsets import tar_copies
from alchemist_core.subsets.member_table import MemberLocation
from alchemist_core.subsets.members import table_of
from alchemist_core.subsets.tar_copies import TarCopy, TarPlan
from tests.subsets.given_subset import find_sources

LONG = "x" * 120


@pytest.fixture(scope="module")
def odd(tar, record, picture, tmp_path_factory: pytest.TempPathFactory) -> list[MemberLocation]:
    """Records whose files need more than a plain header, lie apart, are empty, or are neighbours of records that are left out."""
    root = tmp_path_factory.mktemp("odd")
    entries: list[tuple[str, bytes]] = []
    for number in range(12):
        entries += record(f"plain{number}", number)
    entries += [("long.png", picture(20)), ("long.txt", b"long"), (f"long.{LONG}", b"kept"), ("long.empty", b"")]
    entries += [
        ("other.png", picture(21)),
        ("other.txt", b"other"),
        ("other.größe", b"12"),
        ("other.a b,c", b"3" * 700),
    ]
    entries += [("apart.png", picture(22)), ("._apart.png", b"clutter" * 999), ("apart.txt", b"apart")]
    entries += record("last", 30)
    (root / "000000.tar").write_bytes(tar(entries))
    (root / "000001.tar").write_bytes(
        tar([entry for number in range(9) for entry in record(f"more{number}", 50 + number)])
    )
    found = find_sources(root)
    assert len(found) == 25
    return [source for number, source in enumerate(found) if number not in (3, 4, 18)]


def plan_of(records: list[MemberLocation], first: int = 0) -> TarPlan:
    return TarPlan("000000.tar", first, table_of(records), "png")


def one_by_one(records: list[MemberLocation], path: Path, first: int = 0) -> bytes:
    """Write the records as the slow way does: each file read by itself, each header made by itself."""
    entries = []
    for number, source in enumerate(records, first):
        files = read_ranges(source.uri, list(zip(source.offsets, source.sizes, strict=True)))
        names = ("png" if ext in IMAGE_EXTS else ext for ext in source.exts)
        entries += [(f"{number:09d}.{name}", data) for name, data in zip(names, files, strict=True)]
    write_tar(path, entries)
    return path.read_bytes()


@pytest.mark.parametrize("chunk_bytes", [512, 5_000, 1 << 21])
@pytest.mark.parametrize("first", [0, 77, 10**9 - 3])
@pytest.mark.parametrize("order", ["source", "reverse", "random"])
def test_a_tar_has_the_bytes_of_one_file_after_another(
    odd: list[MemberLocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, first: int, chunk_bytes: int
) -> None:
    monkeypatch.setattr(tar_copies, "_CHUNK_BYTES", chunk_bytes)
    places = {
        "source": range(len(odd)),
        "reverse": range(len(odd))[::-1],
        "random": np.random.default_rng(1).permutation(len(odd)),
    }
    records = [odd[place] for place in places[order]]
    digest = write_blocks(tmp_path / "fast.tar", TarCopy(plan_of(records, first)).blocks())
    fast = (tmp_path / "fast.tar").read_bytes()
    assert fast == one_by_one(records, tmp_path / "slow.tar", first)
    assert digest == hashlib.sha256(fast).digest()
    with tarfile.open(fileobj=io.BytesIO(fast)) as tar:
        assert len(tar.getnames()) == sum(len(source.exts) for source in odd)


def test_rubbish_between_the_files_of_a_source_is_not_copied(odd: list[MemberLocation], tmp_path: Path) -> None:
    before = b"".join(TarCopy(plan_of(odd[:6])).blocks().__next__().tobytes() for _ in range(1))
    raw = bytearray(Path(odd[0].uri).read_bytes())
    used = np.zeros(len(raw), bool)
    for source in odd:
        for offset, size in zip(source.offsets, source.sizes, strict=True):
            used[offset : offset + size] |= source.uri == odd[0].uri
    raw = bytes(byte if is_used else 0xAA for byte, is_used in zip(raw, used, strict=True))
    (tmp_path / "rubbish.tar").write_bytes(raw)
    moved = [replace(source, uri=str(tmp_path / "rubbish.tar")) for source in odd[:6]]
    assert bytes(next(TarCopy(plan_of(moved)).blocks())) == before


def test_the_hash_of_a_plan_is_that_of_earlier_versions(odd: list[MemberLocation]) -> None:
    single = replace(odd[0], exts=("jpg",), offsets=(9,), sizes=(1,))
    for records in (odd, [single], [single, *odd], []):
        digest = hashlib.sha256(b"5 png")
        for record in records:
            digest.update(record.pair_hash + repr((record.exts, record.sizes)).encode())
        assert plan_of(records, 5).sha256() == digest.hexdigest()


def test_a_wrong_checksum_in_the_store_stops_no_copy_because_the_sha256_decides(odd: list[MemberLocation]) -> None:
    wrong = [replace(source, content_checksum=bytes(16)) for source in odd]
    assert b"".join(map(bytes, TarCopy(plan_of(wrong)).blocks())) == b"".join(
        map(bytes, TarCopy(plan_of(odd)).blocks())
    )


def test_a_checksum_alone_is_believed(odd: list[MemberLocation]) -> None:
    """Otherwise each byte would be hashed twice."""
    forgotten = [replace(source, content_hash=bytes(32)) for source in odd]
    list(TarCopy(plan_of(forgotten)).blocks())
    with pytest.raises(DataError, match="a file has another sha256"):
        list(TarCopy(plan_of([replace(source, content_checksum=None) for source in forgotten])).blocks())


def test_records_of_older_versions_get_their_checksum(odd: list[MemberLocation]) -> None:
    mixed = [replace(source, content_checksum=None) if number % 3 else source for number, source in enumerate(odd)]
    copy = TarCopy(plan_of(mixed))
    list(copy.blocks())
    index_K, checksum_K16 = copy.found()
    assert index_K.tolist() == [number for number in range(len(odd)) if number % 3]
    assert [row.tobytes() for row in checksum_K16] == [odd[number].content_checksum for number in index_K]
