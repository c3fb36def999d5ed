import errno
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings
from alchemist_core.shards import s3
from alchemist_core.shards.samples import Sample, read_samples
from alchemist_core.shards.storage import list_root, list_shards, open_shard, read_ranges, sha256_of
from tests.object_store import BUCKET
from tests.shards.faulty_proxy import faulty_proxy

PART = bytes(range(256)) * 64


def fill(tar, record) -> dict[str, bytes]:
    return {
        "2026-01-02/000000.tar": tar([entry for number in range(3) for entry in record(f"b{number}", 10 + number)]),
        "2026-01-01/000001.tar": tar(record("a1", 1)),
        "2026-01-01/000000.tar": tar(record("a0", 0)),
        "2026-01-01/.000002.tar": b"a write under way",
        "truth.parquet": PART,
    }


@pytest.fixture
def folder(tar, record, tmp_path: Path) -> str:
    for name, data in fill(tar, record).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return str(tmp_path)


@pytest.fixture
def bucket(object_store: str, tar, record) -> str:
    client = s3._client()
    for name, data in fill(tar, record).items():
        client.put_object(Bucket=BUCKET, Key=f"laion/{name}", Body=data)
    client.put_object(Bucket=BUCKET, Key="laion-other/000000.tar", Body=b"a neighbour of like name")
    return f"{object_store}/laion"


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def test_shards_are_listed_by_address_without_writes_under_way(root: str) -> None:
    shards = list_shards(root)
    names = ["2026-01-01/000000.tar", "2026-01-01/000001.tar", "2026-01-02/000000.tar"]
    assert [shard.uri for shard in shards] == [f"{root}/{name}" for name in names]
    assert list_shards(f"{root}/") == shards


def test_a_shard_reads_the_same_wherever_it_is(root: str, tar, record) -> None:
    shard = list_shards(root)[-1]
    expected = fill(tar, record)["2026-01-02/000000.tar"]
    assert shard.size_bytes == len(expected)
    with open_shard(shard.uri) as file:
        assert file.read() == expected
        found = list(read_samples(file, shard.size_bytes))
    assert [pair.record.key for pair in found if isinstance(pair, Sample)] == ["b0", "b1", "b2"]
    assert sha256_of(shard.uri).hex() == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("place", ["", "2026-01-02"])
@pytest.mark.parametrize("error", [errno.ESTALE, errno.EACCES])
def test_a_folder_that_cannot_be_listed_is_named_and_not_taken_for_an_empty_one(
    folder: str, monkeypatch: pytest.MonkeyPatch, place: str, error: int
) -> None:
    lost, scan = f"{folder}/{place}".rstrip("/"), os.scandir

    def refuse(path: str | Path) -> Any:
        if str(path) == lost:
            raise OSError(error, os.strerror(error), lost)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"{lost} .*cannot be listed .{os.strerror(error)}"):
        list_shards(folder)


def test_the_rest_of_a_root_is_listed_beside_a_folder_that_cannot_be(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, scan = f"{folder}/2026-01-02", os.scandir

    def refuse(path: str | Path) -> Any:
        if str(path) == lost:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), lost)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_root(folder)
    assert [Path(shard.uri).name for shard in listing.shards] == ["000000.tar", "000001.tar"]
    assert listing.unread_folders == [lost]


def test_what_is_not_read_is_named_and_only_what_was_meant_to_be_read_is_a_loss(folder: str, tmp_path: Path) -> None:
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (tmp_path / "2026-01-03").symlink_to(elsewhere)
    (tmp_path / ".part").mkdir()
    for name in ("b.tar.gz", "c.tgz", "d.tar.part", ".part/e.tar", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.tar").symlink_to(tmp_path / "nowhere")
    (tmp_path / os.fsdecode(b"caf\xe9.tar")).write_bytes(b"x")
    found = {other.uri.removeprefix(f"{folder}/"): other.is_loss for other in list_root(folder).passed_over}
    assert found == {
        "2026-01-03": True, "b.tar.gz": True, "c.tgz": True, "gone.tar": True, "caf\udce9.tar": True,
        "2026-01-01/.000002.tar": False, ".part/e.tar": False, "d.tar.part": False,
    }  # fmt: skip
    assert len(list_root(folder).shards) == 3


def test_a_path_may_have_2048_bytes_below_the_root(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["é" * 99 + "x"] * 10)
    deep.mkdir(parents=True)
    for n_letters in (44, 45):
        (deep / ("a" * n_letters + ".tar")).write_bytes(b"x")
    listing = list_root(str(tmp_path))
    (other,) = listing.passed_over
    assert other.is_loss
    assert other.why == "has a path of more than 2,048 bytes below the root. Shorten it."
    assert [len(shard.uri.encode()) - len(f"{tmp_path}/") for shard in listing.shards] == [2048]


def test_an_object_with_an_empty_folder_name_is_named_and_not_read(bucket: str) -> None:
    keys = ("laion//2026-01-03/a.tar", "laion/2026-01-03//a.tar", "laion//notes.txt", "laion//.part/b.tar")
    for key in keys:
        s3._client().put_object(Bucket=BUCKET, Key=key, Body=b"x")
    found = {
        other.uri.removeprefix(f"{bucket}/"): other.why for other in list_root(bucket).passed_over if other.is_loss
    }
    assert found == dict.fromkeys(
        ["/2026-01-03/a.tar", "2026-01-03//a.tar"], "has an empty folder name (//). Rename it."
    )
    assert len(list_shards(bucket)) == 3


def test_what_is_called_a_tar_but_is_no_file_or_was_never_written_is_named(folder: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "unpacked.tar").mkdir()
    (tmp_path / ".hidden.tar").mkdir()
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    (tmp_path / "LOUD.TAR").write_bytes(b"x")
    with (tmp_path / "terabyte.tar").open("wb") as file:
        file.write(b"x" * 1024)
        file.truncate(1 << 40)
    with (tmp_path / "large.tar").open("wb") as file:
        file.truncate(1 << 29)
    found = {
        other.uri.removeprefix(f"{folder}/"): other.why for other in list_root(folder).passed_over if other.is_loss
    }
    assert found.keys() == {"pipe.tar", "unpacked.tar", "loop.tar", "LOUD.TAR", "terabyte.tar"}
    assert "never written" in found["terabyte.tar"]
    assert "large.tar" in {Path(shard.uri).name for shard in list_root(folder).shards}


def test_a_download_of_aria2_is_not_read_before_its_control_file_is_removed(folder: str, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(bytes(5000))
    with (tmp_path / "large.tar").open("wb") as file:
        file.truncate(1 << 31)
    for name in ("b.tar.aria2", "large.tar.aria2"):
        (tmp_path / name).write_bytes(b"x")
    found = {Path(other.uri).name: (other.why, other.is_loss) for other in list_root(folder).passed_over}
    assert found["b.tar"] == found["large.tar"] == ("has a file .aria2 beside it: an unfinished download", False)
    assert len(list_root(folder).shards) == 3
    (tmp_path / "b.tar.aria2").unlink()
    assert len(list_root(folder).shards) == 4


def test_what_a_file_system_keeps_for_itself_stops_no_listing(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, scan = list_shards(folder), os.scandir
    (Path(folder) / "lost+found").mkdir()

    def refuse(path: str | Path) -> Any:
        if str(path).endswith("lost+found"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_shards(folder) == expected


def test_ranges_come_in_the_order_asked_for(root: str) -> None:
    ranges = [(300, 10), (0, 4), (16000, 384), (5, 0), (2, 300)]
    uri = f"{root}/truth.parquet"
    assert read_ranges(uri, ranges) == [PART[offset : offset + size] for offset, size in ranges]
    assert read_ranges(uri, []) == []


@pytest.mark.parametrize("span", [(16000, 500), (99_999, 5)])
def test_a_range_beyond_the_end_is_refused(root: str, span: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="has fewer bytes than when it was ingested"):
        read_ranges(f"{root}/truth.parquet", [(0, 4), span])


def test_what_is_not_there_is_refused_by_name(root: str) -> None:
    for read in (open_shard, sha256_of, lambda uri: read_ranges(uri, [(0, 1)])):
        with pytest.raises(DataError, match=r"absent\.tar"):
            read(f"{root}/absent.tar")
    with pytest.raises(DataError, match="absent"):
        list_shards(f"{root}/absent")


@pytest.mark.parametrize("read", [sha256_of, lambda uri: read_ranges(uri, [(0, 1)])])
def test_a_file_that_can_be_opened_but_not_read_is_refused_by_name(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    (tmp_path / "bad.tar").symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match=r"bad\.tar cannot be read \(Input/output error\)\. Restore its bytes"):
        read(f"{tmp_path}/bad.tar")


def test_far_ranges_of_an_object_are_fetched_apart_and_near_ones_together(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, spans = s3._get, []
    monkeypatch.setattr(s3, "_get", lambda uri, etag, span: spans.append(span) or fetch(uri, etag, span))
    monkeypatch.setattr(s3, "_MAX_GAP_BYTES", 1000)
    ranges = [(10_000, 5), (1_100, 7), (0, 512), (1_102, 3)]
    assert read_ranges(f"{bucket}/truth.parquet", ranges) == [PART[at : at + size] for at, size in ranges]
    assert sorted(spans) == [(0, 1107), (10_000, 5)]


def test_an_object_replaced_under_a_reader_is_refused(bucket: str) -> None:
    with open_shard(f"{bucket}/truth.parquet") as file:
        s3._client().put_object(Bucket="crawls", Key="laion/truth.parquet", Body=PART[::-1])
        with pytest.raises(DataError, match="replaced"):
            file.read(10)


def test_an_object_can_be_sought_like_a_file(bucket: str) -> None:
    with open_shard(f"{bucket}/truth.parquet") as file:
        assert file.seek(-3, io.SEEK_END) == len(PART) - 3
        assert file.read() == PART[-3:]
        assert file.read() == b""
        assert file.seek(5) == 5
        assert file.seek(2, io.SEEK_CUR) == 7
        assert file.read(2) == PART[7:9]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_store_that_fails_a_share_of_requests_is_read_in_full(
    bucket: str, endpoint: str, tar, record, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 4096)
    monkeypatch.setattr(s3, "_MAX_GAP_BYTES", 0)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    with faulty_proxy(endpoint, fault_ratio=0.25, seed=seed) as proxy:
        monkeypatch.setenv("ALCHEMIST_S3_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        load_settings.cache_clear()
        expected = fill(tar, record)
        for _ in range(6):
            for shard in list_shards(bucket):
                with open_shard(shard.uri) as file:
                    assert file.read() == expected[shard.uri.removeprefix(f"{bucket}/")]
            ranges = [(offset, 100) for offset in range(0, 16_000, 1000)]
            assert read_ranges(f"{bucket}/truth.parquet", ranges) == [PART[at : at + n] for at, n in ranges]
        s3._client().close()
    assert min(proxy.counts.values()) >= 3, f"every kind of fault must have been met: {proxy.counts}"


def test_a_store_that_always_fails_is_an_error_with_a_remedy(
    bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr(s3, "_FIRST_PAUSE_S", 0.0)
    with faulty_proxy(endpoint, fault_ratio=1.0, seed=0, faults=("500", "503", "reset")) as proxy:
        monkeypatch.setenv("ALCHEMIST_S3_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        load_settings.cache_clear()
        with pytest.raises(DataError, match=r"truth\.parquet cannot be re"):
            read_ranges(f"{bucket}/truth.parquet", [(0, 4)])
        s3._client().close()


def test_a_reader_that_moves_on_finds_the_next_parts_fetched(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, asked = s3._get, []
    monkeypatch.setattr(s3, "_get", lambda uri, etag, span: asked.append(span) or fetch(uri, etag, span))
    monkeypatch.setattr(s3, "_PART_BYTES", 1024)
    monkeypatch.setattr(s3, "_BUFFER_BYTES", 1024)
    with open_shard(f"{bucket}/truth.parquet") as file:
        assert file.read(10) == PART[:10]
        assert asked == [(0, 1024)], "one read alone fetches nothing ahead"
        assert file.read() == PART[10:]
    assert sorted(asked) == [(at, 1024) for at in range(0, len(PART), 1024)], "every part once"


def test_an_unreachable_store_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import EndpointConnectionError

    def fail(**_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")

    monkeypatch.setattr(s3._client(), "head_object", fail)
    with pytest.raises(DataError, match="ALCHEMIST_S3_ENDPOINT_URL"):
        open_shard(f"{bucket}/truth.parquet")


def test_an_address_without_bucket_is_refused() -> None:
    with pytest.raises(DataError, match="does not name a bucket"):
        list_shards("s3://")
