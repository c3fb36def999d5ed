"""In every layout, the same records give the same shards, a killed import resumes, and damaged images are not lost."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from alchemist_core.errors import DataError
from alchemist_core.shards import s3
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.layouts import parquet_images
from alchemist_core.shards.layouts.pictures import read_pictures
from alchemist_core.shards.layouts.records import LayoutRecord, read_file_below, write_shards
from alchemist_core.shards.samples import MAX_IMAGE_BYTES, Sample, read_samples


def png(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (level, 90, 160)).save(buffer, "PNG")
    return buffer.getvalue()


def records(n: int) -> Iterator[LayoutRecord]:
    for number in range(n):
        yield LayoutRecord(lambda number=number: png(number), f"caption {number}", {"number": number})


def read_shard(path: Path) -> list[Sample | Fault]:
    with path.open("rb") as file:
        return list(read_samples(file, path.stat().st_size))


def test_records_are_samples_in_their_order(tmp_path: Path) -> None:
    assert write_shards(records(7), tmp_path, shard_size=3) == 7
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000.tar", "000001.tar", "000002.tar"]
    pairs = [pair for path in sorted(tmp_path.iterdir()) for pair in read_shard(path)]
    assert [pair.caption for pair in pairs] == [f"caption {number}" for number in range(7)]
    assert [json.loads(pair.metadata)["number"] for pair in pairs] == list(range(7))
    assert [pair.record.key for pair in pairs] == [f"{number:09d}" for number in range(7)]


def test_records_that_need_too_many_shards_are_refused_and_not_left_out(tmp_path: Path) -> None:
    assert write_shards(records(1), tmp_path, shard_size=1, first_shard=999_999) == 1_000_000
    with pytest.raises(DataError, match=r"More than 1,000,000 shards of 1 sample\. Give a larger --shard-size"):
        write_shards(records(2), tmp_path, shard_size=1, first_shard=999_999)


def test_no_records_are_no_shards(tmp_path: Path) -> None:
    assert write_shards(records(0), tmp_path, shard_size=3) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_import_that_was_killed_resumes_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def killed() -> Iterator[LayoutRecord]:
        yield from records(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(killed(), tmp_path / "one", shard_size=3)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["000000.tar"]
    assert write_shards(records(7), tmp_path / "one", shard_size=3) == 7
    write_shards(records(7), tmp_path / "two", shard_size=3)
    for path in (tmp_path / "two").iterdir():
        assert (tmp_path / "one" / path.name).read_bytes() == path.read_bytes()


def test_images_of_a_written_shard_are_not_read_again(tmp_path: Path) -> None:
    write_shards(records(4), tmp_path, shard_size=2)

    def refuse() -> bytes:
        raise AssertionError("read again")

    unread = (LayoutRecord(refuse, "caption", {}) for _ in range(4))
    assert write_shards(unread, tmp_path, shard_size=2) == 4


@pytest.mark.parametrize(("data", "caption", "reason"), [
    (b"", "a caption", "empty_image"), (b"no picture", "a caption", "wrong_magic"), (png(), "", "missing_caption"),
])  # fmt: skip
def test_a_broken_record_is_quarantined_with_its_reason(tmp_path: Path, data: bytes, caption: str, reason: str) -> None:
    write_shards([LayoutRecord(lambda: data, caption, {}), *records(1)], tmp_path, shard_size=9)
    fault, pair = read_shard(tmp_path / "000000.tar")
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert isinstance(pair, Sample)


def test_missing_numbers_are_null(tmp_path: Path) -> None:
    write_shards(
        [LayoutRecord(png, "c", {"score": float("nan"), "parts": [1.0, float("inf")]})], tmp_path, shard_size=1
    )
    (pair,) = read_shard(tmp_path / "000000.tar")
    assert isinstance(pair, Sample)
    assert json.loads(pair.metadata) == {"score": None, "parts": [1.0, None]}


def test_a_name_that_leads_out_of_the_dataset_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"1")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own").write_bytes(b"2")
    (tmp_path / "set" / "link").symlink_to(tmp_path / "secret")
    names = ("own", "../secret", str(tmp_path / "secret"), "link", "nothing")
    assert [read_file_below(tmp_path / "set", name) for name in names] == [b"2", b"", b"", b"", b""]


def test_no_more_is_read_of_an_image_than_ingest_needs_to_refuse_it(tmp_path: Path) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.write(png())
        file.truncate(1 << 40)
    (record,) = read_pictures(tmp_path)
    assert len(record.read_image()) == MAX_IMAGE_BYTES + 1


def test_nor_of_an_image_beside_a_parquet_file(
    tmp_path: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    s3.put_file(f"{object_store}/a.png", tmp_path / "a.png", {})
    monkeypatch.setattr(parquet_images, "MAX_READ_BYTES", 20)
    assert parquet_images._read_beside(object_store, "a.png") == png()[:20]


def test_a_name_that_no_file_can_have_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    names = ("x" * 300, "x" * 5000, "a/" * 5000, "data:image/png;base64," + "/" * 5000, "nul\0", "\ud800", "loop")
    assert [read_file_below(tmp_path, name) for name in names] == [b""] * len(names)
