from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from alchemist_core.errors import DataError
from alchemist_core.shards.storage import read_ranges
from alchemist_core.subsets import materialized
from alchemist_core.subsets.materialized import FolderStorage
from alchemist_core.subsets.member_table import MemberLocation
from alchemist_core.subsets.members import table_of
from tests.subsets.given_subset import copy, files, find_sources, hidden


@pytest.mark.parametrize("verify", ["read_back", "source"])
@pytest.mark.parametrize("seed", [None, 3])
def test_members_are_copied_byte_by_byte_under_new_keys(
    sources: list[MemberLocation], tmp_path: Path, seed: int | None, verify: str
) -> None:
    made = copy(sources, tmp_path / "copy", seed=seed, storage=FolderStorage(verify))
    assert [shard.n_samples for shard in made.shards] == [5, 5, 4]
    copies = {source.pair_hash: source for source in find_sources(tmp_path / "copy")}
    assert sorted(copy.key for copy in copies.values()) == [f"{number:09d}" for number in range(14)]
    for source in sources:
        found = copies[source.pair_hash]
        assert read_ranges(found.uri, list(zip(found.offsets, found.sizes, strict=True))) == read_ranges(
            source.uri, list(zip(source.offsets, source.sizes, strict=True))
        )


@pytest.mark.parametrize("seed", [None, 3])
def test_neither_the_order_of_the_sources_nor_threads_change_a_byte(
    sources: list[MemberLocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    copy(sources, tmp_path / "one", seed=seed)
    monkeypatch.setattr(materialized, "_WRITERS_A_CORE", 5)
    copy(sources[::-1], tmp_path / "two", seed=seed, storage=FolderStorage("source"))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert {name: data for name, data in one.items() if name.endswith(".tar")} == {
        name: data for name, data in two.items() if name.endswith(".tar")
    }
    assert one["manifest.parquet"] == two["manifest.parquet"]


def test_without_a_seed_the_records_are_in_the_order_of_their_sources(
    sources: list[MemberLocation], tmp_path: Path
) -> None:
    copy(sources, tmp_path / "copy")
    rows = pq.read_table(tmp_path / "copy" / "manifest.parquet").to_pylist()
    assert [row["pair_hash"] for row in rows] == [source.pair_hash for source in sources]


def test_each_seed_gives_another_order_that_does_not_depend_on_the_ranks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sources = [MemberLocation("x.tar", str(n), ("jpg",), (n,), (1,), rng.bytes(32), n / 2000) for n in range(2000)]
    table = table_of(sources)
    orders = [table.hash_order(seed) for seed in range(3)]
    for order in orders:
        assert sorted(order) == list(range(2000))
        assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 4 / 2000**0.5
    assert abs(np.corrcoef(np.argsort(orders[0]), np.argsort(orders[1]))[0, 1]) < 4 / 2000**0.5


def test_the_manifest_names_the_source_of_each_sample(sources: list[MemberLocation], tmp_path: Path) -> None:
    copy(sources, tmp_path / "copy")
    rows = pq.read_table(tmp_path / "copy" / "manifest.parquet").to_pylist()
    by_pair = {source.pair_hash: source for source in sources}
    assert [row["key"] for row in rows] == [f"{number:09d}" for number in range(14)]
    assert [row["shard"] for row in rows] == [f"{number // 5:06d}.tar" for number in range(14)]
    for row in rows:
        source = by_pair[row["pair_hash"]]
        assert (row["source_uri"], row["source_key"], row["rank"]) == (source.uri, source.key, source.rank)
        spans = zip(row["source_exts"], row["source_offsets"], row["source_sizes"], strict=True)
        assert list(spans) == list(zip(source.exts, source.offsets, source.sizes, strict=True))


@pytest.mark.parametrize("ext", ["png", "txt", "json"])
def test_a_source_that_has_changed_is_refused_by_name(
    crawl: Path, sources: list[MemberLocation], tmp_path: Path, ext: str
) -> None:
    chosen = sources[8]
    path = Path(chosen.uri)
    raw = bytearray(path.read_bytes())
    # The last but one byte of a JSON: a letter of the author's name, which is in no caption and no image.
    raw[chosen.offsets[chosen.exts.index(ext)] + chosen.sizes[chosen.exts.index(ext)] - 3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"000001\.tar: record 'key1'"):
        copy(sources, tmp_path / "copy", shard_size=20)
    assert not (tmp_path / "copy").exists()
    assert sorted(hidden(tmp_path / "copy")) == [".journal"]


@pytest.mark.parametrize("ext", ["png", "txt"])
def test_where_ingest_took_no_hash_of_all_the_samples_own_name_is_the_check(
    crawl: Path, tmp_path: Path, ext: str
) -> None:
    sources = find_sources(crawl, has_content_hash=False)
    copy(sources, tmp_path / "good")
    path = Path(sources[8].uri)
    raw = bytearray(path.read_bytes())
    raw[sources[8].offsets[sources[8].exts.index(ext)]] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"000001\.tar: record 'key1'"):
        copy(sources, tmp_path / "bad")


def test_a_shorter_source_is_refused(sources: list[MemberLocation], tmp_path: Path) -> None:
    path = Path(sources[0].uri)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"000000\.tar has fewer bytes"):
        copy(sources, tmp_path / "copy")


def test_a_place_that_cannot_be_written_is_named(sources: list[MemberLocation], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file cannot be written \(.*\)\. Make room, or correct"):
        copy(sources, tmp_path / "file" / "copy")


def test_a_sample_is_not_copied_twice(sources: list[MemberLocation], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        copy([*sources, sources[3]], tmp_path / "copy")


def test_nothing_to_copy_is_an_empty_manifest(tmp_path: Path) -> None:
    assert copy([], tmp_path / "copy").shards == []
    assert pq.read_table(tmp_path / "copy" / "manifest.parquet").num_rows == 0
