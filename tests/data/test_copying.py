import gc
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from alchemist_core.data.copying import MemberSource, materialize_shards
from alchemist_core.data.pairs import Pair, read_pairs
from alchemist_core.data.storage import list_shards, open_shard, read_ranges
from alchemist_core.errors import DataError


def find_sources(root: Path) -> list[MemberSource]:
    sources = []
    for shard in list_shards(str(root)):
        with open_shard(shard.uri) as file:
            for number, pair in enumerate(read_pairs(file, shard.size_bytes, with_perceptual_hash=False)):
                assert isinstance(pair, Pair)
                exts, offsets, sizes = zip(*((m.ext, m.offset, m.size) for m in pair.record.members), strict=True)
                sources.append(
                    MemberSource(shard.uri, pair.record.key, exts, offsets, sizes, pair.pair_hash, number / 10)
                )
    return sources


@pytest.fixture
def crawl(tar, record, tmp_path: Path) -> Path:
    """Two shards of seven records each, with the same keys in both."""
    root = tmp_path / "crawl"
    root.mkdir()
    for shard in range(2):
        raw = tar([entry for number in range(7) for entry in record(f"key{number}", 10 * shard + number)])
        (root / f"{shard:06d}.tar").write_bytes(raw)
    return root


@pytest.fixture
def sources(crawl: Path) -> list[MemberSource]:
    return find_sources(crawl)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_members_are_copied_byte_by_byte_under_new_keys(sources: list[MemberSource], tmp_path: Path) -> None:
    shards = materialize_shards(sources, tmp_path / "copy", shard_size=5)
    assert [shard.n_samples for shard in shards] == [5, 5, 4]
    copies = {source.pair_hash: source for source in find_sources(tmp_path / "copy")}
    assert sorted(copy.key for copy in copies.values()) == [f"{number:09d}" for number in range(14)]
    for source in sources:
        copy = copies[source.pair_hash]
        assert read_ranges(copy.uri, list(zip(copy.offsets, copy.sizes, strict=True))) == read_ranges(
            source.uri, list(zip(source.offsets, source.sizes, strict=True))
        )


def test_the_order_of_the_sources_changes_no_byte(sources: list[MemberSource], tmp_path: Path) -> None:
    materialize_shards(sources, tmp_path / "one", shard_size=5)
    materialize_shards(sources[::-1], tmp_path / "two", shard_size=5)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_manifest_tells_where_each_sample_came_from(sources: list[MemberSource], tmp_path: Path) -> None:
    materialize_shards(sources, tmp_path / "copy", shard_size=5)
    rows = pq.read_table(tmp_path / "copy" / "manifest.parquet").to_pylist()
    by_pair = {source.pair_hash: source for source in sources}
    assert [row["key"] for row in rows] == [f"{number:09d}" for number in range(14)]
    assert [row["shard"] for row in rows] == [f"{number // 5:06d}.tar" for number in range(14)]
    for row in rows:
        source = by_pair[row["pair_hash"]]
        assert (row["source_uri"], row["source_key"], row["rank"]) == (source.uri, source.key, source.rank)


def test_a_second_run_writes_nothing(sources: list[MemberSource], tmp_path: Path) -> None:
    first = materialize_shards(sources, tmp_path / "copy", shard_size=5)
    assert sum(shard.n_bytes_written for shard in first) == sum(shard.path.stat().st_size for shard in first)
    before = {path: path.stat() for path in (tmp_path / "copy").iterdir()}
    second = materialize_shards(sources, tmp_path / "copy", shard_size=5)
    assert {path: path.stat() for path in (tmp_path / "copy").iterdir()} == before
    assert [(shard.path, shard.sha256) for shard in second] == [(shard.path, shard.sha256) for shard in first]
    assert sum(shard.n_bytes_written for shard in second) == 0


def test_a_run_after_a_killed_one_ends_as_if_it_had_not_been_killed(
    sources: list[MemberSource], tmp_path: Path
) -> None:
    def kill(done: int, _total: int, _text: str) -> None:
        if done > 5:
            raise KeyboardInterrupt

    materialize_shards(sources, tmp_path / "whole", shard_size=5)
    with pytest.raises(KeyboardInterrupt):
        materialize_shards(sources, tmp_path / "killed", shard_size=5, report=kill)
    assert sorted(files(tmp_path / "killed")) == ["000000.tar", "000001.tar"]
    resumed = materialize_shards(sources, tmp_path / "killed", shard_size=5)
    assert [shard.n_bytes_written > 0 for shard in resumed] == [False, False, True]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.parametrize("damage", [b"", b"short", "flip"])
def test_a_damaged_copy_is_made_again(sources: list[MemberSource], tmp_path: Path, damage: bytes | str) -> None:
    materialize_shards(sources, tmp_path / "copy", shard_size=5)
    before = files(tmp_path / "copy")
    raw = bytearray(before["000001.tar"])
    raw[700] ^= 1
    (tmp_path / "copy" / "000001.tar").write_bytes(raw if isinstance(damage, str) else damage)
    again = materialize_shards(sources, tmp_path / "copy", shard_size=5)
    assert [shard.n_bytes_written > 0 for shard in again] == [False, True, False]
    assert files(tmp_path / "copy") == before


@pytest.mark.parametrize("ext", ["png", "txt"])
def test_a_source_that_has_changed_is_refused_by_name(
    crawl: Path, sources: list[MemberSource], tmp_path: Path, ext: str
) -> None:
    chosen = sources[8]
    path = Path(chosen.uri)
    raw = bytearray(path.read_bytes())
    raw[chosen.offsets[chosen.exts.index(ext)]] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"000001\.tar: record 'key1'"):
        materialize_shards(sources, tmp_path / "copy", shard_size=20)
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_shorter_source_is_refused(sources: list[MemberSource], tmp_path: Path) -> None:
    path = Path(sources[0].uri)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"000000\.tar ends before"):
        materialize_shards(sources, tmp_path / "copy", shard_size=20)


def test_tars_of_another_copy_are_not_mixed_in(sources: list[MemberSource], tmp_path: Path) -> None:
    materialize_shards(sources, tmp_path / "copy", shard_size=5)
    with pytest.raises(DataError, match=r"000002\.tar"):
        materialize_shards(sources, tmp_path / "copy", shard_size=7)


def test_a_pair_is_not_copied_twice(sources: list[MemberSource], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        materialize_shards([*sources, sources[3]], tmp_path / "copy", shard_size=5)


def test_nothing_to_copy_is_an_empty_manifest(tmp_path: Path) -> None:
    assert materialize_shards([], tmp_path / "copy", shard_size=5) == []
    assert pq.read_table(tmp_path / "copy" / "manifest.parquet").num_rows == 0


@pytest.fixture
def mixed(tar, record, picture, tmp_path: Path) -> list[MemberSource]:
    """Pictures of two formats, and records with and without JSON."""
    root = tmp_path / "mixed"
    root.mkdir()
    entries = []
    for number in range(12):
        png, text, about = record(f"k{number}", number)
        image = (f"k{number}.jpg", picture(number, kind="JPEG")) if number % 2 else png
        entries += [image, text, about] if number % 3 else [image, text]
    (root / "000000.tar").write_bytes(tar(entries))
    return find_sources(root)


def test_mixed_records_become_one_table_for_hugging_face(
    mixed: list[MemberSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    shards = materialize_shards(mixed, tmp_path / "copy", shard_size=8)
    loaded = datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(shard.path) for shard in shards]},
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    rows = sorted(loaded, key=lambda row: row["__key__"])
    assert len(rows) == 12
    assert {row["txt"] for row in rows} == {f"picture number {number}" for number in range(12)}
    assert all(next(row[ext] for ext in ("jpg", "png") if ext in row).size == (20, 16) for row in rows)
    assert sum(row["json"] is not None for row in rows) == 8


# Its own reader leaves the tars that it opened to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_reads_a_copy(mixed: list[MemberSource], tmp_path: Path) -> None:
    import webdataset

    shards = materialize_shards(mixed, tmp_path / "copy", shard_size=8)
    pattern = [str(shard.path) for shard in shards]
    rows = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("pil"))
    gc.collect()
    assert {row["txt"] for row in rows} == {f"picture number {number}" for number in range(12)}
    assert all(next(row[ext] for ext in ("jpg", "png") if ext in row).size == (20, 16) for row in rows)


def test_the_real_corpus_is_copied_without_losing_a_byte_of_its_json(real_corpus: Path, tmp_path: Path) -> None:
    sources = [source for source in find_sources(real_corpus) if source.uri.endswith("000003.tar")][::5]
    (shard,) = materialize_shards(sources, tmp_path / "copy", shard_size=1000)
    with tarfile.open(shard.path) as copy:
        members = [member for member in copy if member.name.endswith(".json")]
        copied = {copy.extractfile(member).read() for member in members}
    originals = {
        read_ranges(source.uri, [(source.offsets[at], source.sizes[at])])[0]
        for source in sources
        for at in [source.exts.index("json")]
    }
    assert copied == originals
    assert all(json.loads(about)["license"] for about in copied)
