"""A shard is read once, and its records are returned in the requested order."""

import hashlib
import io
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alchemist_core.errors import DataError, MissingShardError, ReplacedObjectError
from alchemist_core.shards import reading, s3
from alchemist_core.shards.faults import Reason
from alchemist_core.shards.images import BadImageError
from alchemist_core.shards.reading import (
    CheapOnly,
    MayDie,
    OnePassReader,
    ReadShardTask,
    ShardContent,
    _ReadInOrder,
    read_shards,
)
from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.shards.storage import list_shards
from alchemist_core.shards.workers import Workers
from tests.object_store import BUCKET
from tests.shards.deadly import DeadlyShardTask


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 300),
    block=st.integers(1, 64),
    steps=st.lists(st.tuples(st.integers(0, 320), st.integers(-1, 90)), max_size=12),
)
def test_it_reads_as_the_file_does_and_hashes_everything_once(
    size: int, block: int, steps: list[tuple[int, int]]
) -> None:
    data = np.random.default_rng(size).bytes(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK_BYTES", block)
        reader, plain = OnePassReader(io.BytesIO(data), size), io.BytesIO(data)
        for offset, n_bytes in steps:
            assert reader.seek(offset) == plain.seek(offset)
            assert reader.read(n_bytes) == plain.read(n_bytes)
        assert reader.sha256() == hashlib.sha256(data).digest()


def test_an_undamaged_tar_is_read_once(tar, record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 8192)
    raw = tar([entry for number in range(200) for entry in record(f"{number:04d}", number)])
    reader = OnePassReader(io.BytesIO(raw), len(raw))
    found = list(read_samples(reader, len(raw)))
    assert found == list(read_samples(io.BytesIO(raw), len(raw)))
    assert sum(isinstance(pair, Sample) for pair in found) == 200
    assert reader.sha256() == hashlib.sha256(raw).digest()
    assert reader.n_read_bytes == len(raw)


@pytest.fixture
def root(tar, record, tmp_path: Path) -> Path:
    for number in range(12):
        entries = [entry for at in range(3 + number % 4) for entry in record(f"{number}-{at}", 10 * number + at)]
        (tmp_path / f"{number:02d}.tar").write_bytes(tar(entries))
    (tmp_path / "05.tar").write_bytes(b"no tar" * 300)
    return tmp_path


@pytest.mark.slow
def test_workers_give_what_one_process_gives_in_the_same_order(root: Path) -> None:
    files = list_shards(str(root))
    found = [
        [(content.sha256, content.samples, content.faults, content.rejection) for content in contents]
        for contents in (read_shards(files, n_workers=n, reading=Reading()) for n in (0, 1, 2))
    ]
    assert found[0] == found[1] == found[2]
    assert [sha256 for sha256, *_ in found[0]] == [
        hashlib.sha256(path.read_bytes()).digest() for path in sorted(root.glob("*.tar"))
    ]
    assert [rejection is not None for *_, rejection in found[0]] == [number == 5 for number in range(12)]


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_file_that_goes_away_meanwhile_is_named_and_stops_no_other(root: Path, n_workers: int) -> None:
    files = list_shards(str(root))
    (root / "07.tar").unlink()
    found = list(read_shards(files, n_workers=n_workers, reading=Reading(has_perceptual_hash=False)))
    assert [number for number, content in enumerate(found) if isinstance(content, DataError)] == [7]
    assert isinstance(found[7], MissingShardError)
    assert f"alchemist shard retire {root}/07.tar" in str(found[7])


@pytest.mark.slow
def test_a_shard_that_kills_its_readers_stops_no_other(root: Path) -> None:
    files = list_shards(str(root))
    tasks = [
        (DeadlyShardTask if number == 3 else ReadShardTask)(file, Reading(has_perceptual_hash=False))
        for number, file in enumerate(files)
    ]
    with Workers(2, module=DeadlyShardTask.__module__, place_bytes=8) as workers:
        found = list(_ReadInOrder(tasks, workers).contents())
    assert [number for number, content in enumerate(found) if isinstance(content, DataError)] == [3]
    assert "Two worker processes died while they read" in str(found[3])
    assert [len(content.samples) for content in found[:5] if isinstance(content, ShardContent)] == [3, 4, 5, 3]


def test_without_perceptual_hashes_no_image_is_decoded(root: Path) -> None:
    (content, *_) = read_shards(list_shards(str(root))[:1], n_workers=0, reading=Reading(has_perceptual_hash=False))
    assert [pair.perceptual_hash for pair in content.samples] == [None] * 3


def test_a_reader_that_may_die_leaves_the_number_of_its_record_while_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    place = memoryview(bytearray(8))
    guard = MayDie(place, {4: (Reason.TOO_SLOW, "it took too long")})
    with guard.one_record(0):
        assert place[:].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert place[:].tolist() == [0] * 8
    with suppress(ValueError), guard.one_record(299):
        assert int.from_bytes(place, "little") == 300
        raise ValueError("a record that cannot be read")
    assert place[:].tolist() == [0] * 8
    with pytest.raises(BadImageError) as caught, guard.one_record(4):
        raise AssertionError("a record was read on which a process has died")
    assert (caught.value.reason, caught.value.detail) == ("too_slow", "it took too long")


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_shard_without_its_end_is_cut(tmp_path: Path, tar, record, is_cut: bool) -> None:
    raw = tar([*record("a", 1), *record("b", 2)])
    end = len(raw.rstrip(b"\0")) if is_cut else len(raw)
    (tmp_path / "a.tar").write_bytes(raw[: end + -end % 512])
    (content,) = read_shards(list_shards(str(tmp_path)), n_workers=0)
    assert isinstance(content, ShardContent)
    assert (content.is_cut, len(content.samples), content.rejection) == (is_cut, 2, None)


def test_what_is_not_a_tar_is_rejected_with_its_hash_and_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"<html>" * 999)
    (content,) = read_shards(list_shards(str(tmp_path)), n_workers=0)
    assert isinstance(content, ShardContent)
    assert content.sha256 == hashlib.sha256(b"<html>" * 999).digest()
    assert (content.samples, content.faults, content.is_cut) == ([], [], False)
    assert str(content.rejection).startswith("expected an uncompressed tar")


class Replacing(CheapOnly):
    """Stores another object under the address when the first record is read."""

    def __init__(self, key: str) -> None:
        self._key = key

    def one_record(self, ordinal: int) -> AbstractContextManager[None]:
        s3._client().put_object(Bucket=BUCKET, Key=self._key, Body=b"another object")
        return super().one_record(ordinal)


def test_an_error_of_the_storage_does_not_make_a_shard_what_is_not_a_tar(
    object_store: str, tar, record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is fetched a second time, because much lies between it and the caption, and the hash needs nothing more."""
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(s3, "_PART_BYTES", 1 << 14)
    image, *others = record("a", 1)
    s3._client().put_object(Bucket=BUCKET, Key="a.tar", Body=tar([image, ("a.bin", bytes(1 << 18)), *others]))
    (file,) = list_shards(object_store)
    assert len(ReadShardTask(file, Reading()).read_content(CheapOnly()).samples) == 1
    with pytest.raises(ReplacedObjectError, match=r"a\.tar was replaced while it was read"):
        ReadShardTask(file, Reading()).read_content(Replacing("a.tar"))


def test_a_place_is_sought_from_the_beginning_from_here_or_from_the_end() -> None:
    reader = OnePassReader(io.BytesIO(b"0123456789"), 10)
    assert (reader.seek(3), reader.read(2), reader.seek(1, io.SEEK_CUR), reader.read(1)) == (3, b"34", 6, b"6")
    assert (reader.seek(-2, io.SEEK_END), reader.read(), reader.read(), reader.seek(-9)) == (8, b"89", b"", 0)
    assert (reader.read(None), reader.n_read_bytes) == (b"0123456789", 10)


def test_what_is_appended_meanwhile_is_neither_read_nor_hashed() -> None:
    reader = OnePassReader(io.BytesIO(b"0123456789"), 4)
    assert (reader.read(), reader.sha256()) == (b"0123", hashlib.sha256(b"0123").digest())


def test_the_last_four_blocks_are_kept_and_an_older_one_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 2)
    reader = OnePassReader(io.BytesIO(bytes(range(12))), 12)
    assert reader.read(10) == bytes(range(10))
    reader.seek(2)
    assert (reader.read(1), reader.n_read_bytes) == (b"\2", 10)
    reader.seek(0)
    assert (reader.read(1), reader.n_read_bytes) == (b"\0", 12)
    assert reader.sha256() == hashlib.sha256(bytes(range(12))).digest()
    assert reader.n_read_bytes == 14
