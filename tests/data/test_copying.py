import gc
import json
import multiprocessing
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from alchemist_core.data import copying
from alchemist_core.data.copying import Copy, Layout, copy_members
from alchemist_core.data.member_table import MemberSource, table_of
from alchemist_core.data.pairs import Pair, read_pairs
from alchemist_core.data.storage import list_shards, open_shard, read_ranges
from alchemist_core.errors import DataError


def find_sources(root: Path, *, has_content_hash: bool = True) -> list[MemberSource]:
    sources = []
    for shard in list_shards(str(root)):
        with open_shard(shard.uri) as file:
            for number, pair in enumerate(read_pairs(file, shard.size_bytes, with_perceptual_hash=False)):
                assert isinstance(pair, Pair)
                exts, offsets, sizes = zip(*((m.ext, m.offset, m.size) for m in pair.record.members), strict=True)
                source = MemberSource(shard.uri, pair.record.key, exts, offsets, sizes, pair.pair_hash, number / 10)
                sources.append(replace(source, content_hash=pair.content_hash if has_content_hash else None))
    return sources


def copy(
    sources: list[MemberSource], out_dir: Path, *, shard_size: int = 5, seed: int | None = None, **options
) -> Copy:
    return copy_members(table_of(sources), out_dir, Layout(shard_size, seed), **options)


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


def hidden(folder: Path) -> dict[str, bytes]:
    """What a copy that did not end has left beside the place where it was to be."""
    return files(folder.with_name(f".{folder.name}.part"))


@pytest.mark.parametrize("verify", ["read_back", "source"])
@pytest.mark.parametrize("seed", [None, 3])
def test_members_are_copied_byte_by_byte_under_new_keys(
    sources: list[MemberSource], tmp_path: Path, seed: int | None, verify: str
) -> None:
    made = copy(sources, tmp_path / "copy", seed=seed, verify=verify)
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
    sources: list[MemberSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    copy(sources, tmp_path / "one", seed=seed)
    monkeypatch.setattr(copying, "_THREADS_A_CORE", 5)
    copy(sources[::-1], tmp_path / "two", seed=seed, verify="source")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert {name: data for name, data in one.items() if name.endswith(".tar")} == {
        name: data for name, data in two.items() if name.endswith(".tar")
    }
    assert one["manifest.parquet"] == two["manifest.parquet"]


def test_without_a_seed_the_records_lie_as_in_their_sources(sources: list[MemberSource], tmp_path: Path) -> None:
    copy(sources, tmp_path / "copy")
    rows = pq.read_table(tmp_path / "copy" / "manifest.parquet").to_pylist()
    assert [row["pair_hash"] for row in rows] == [source.pair_hash for source in sources]


def test_a_seed_gives_an_order_of_its_own_that_says_nothing_of_the_ranks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sources = [MemberSource("x.tar", str(n), ("jpg",), (n,), (1,), rng.bytes(32), n / 2000) for n in range(2000)]
    table = table_of(sources)
    orders = [table.hash_order(seed) for seed in range(3)]
    for order in orders:
        assert sorted(order) == list(range(2000))
        assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 4 / 2000**0.5
    assert abs(np.corrcoef(np.argsort(orders[0]), np.argsort(orders[1]))[0, 1]) < 4 / 2000**0.5


def test_the_manifest_tells_where_each_sample_came_from(sources: list[MemberSource], tmp_path: Path) -> None:
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


@pytest.mark.parametrize("verify", ["read_back", "source"])
def test_a_second_run_writes_nothing(sources: list[MemberSource], tmp_path: Path, verify: str) -> None:
    first = copy(sources, tmp_path / "copy")
    assert first.n_bytes_written == sum(path.stat().st_size for path in (tmp_path / "copy").glob("*.tar"))
    before = {path: path.stat() for path in (tmp_path / "copy").iterdir()}
    second = copy(sources, tmp_path / "copy", verify=verify)
    assert {path: path.stat() for path in (tmp_path / "copy").iterdir()} == before
    assert second == first._replace(n_bytes_written=0)


def test_a_finished_copy_stays_finished_when_its_sources_move(
    sources: list[MemberSource], crawl: Path, tmp_path: Path
) -> None:
    copy(sources, tmp_path / "copy")
    (crawl / "000000.tar").rename(crawl / "zzz.tar")
    assert copy(find_sources(crawl), tmp_path / "copy").n_bytes_written == 0


def test_a_run_after_a_killed_one_ends_as_if_it_had_not_been_killed(
    sources: list[MemberSource], tmp_path: Path
) -> None:
    def kill(done: int, _total: int, _text: str) -> None:
        if done > 5:
            raise KeyboardInterrupt

    copy(sources, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        copy(sources, tmp_path / "killed", report=kill)
    assert not (tmp_path / "killed").exists()
    n_noted = len(hidden(tmp_path / "killed")[".journal"].splitlines()) // 2
    # A small file that was killed before its rename.
    (tmp_path / ".killed.part" / ".wids.json.4711").write_text("half")
    resumed = copy(sources, tmp_path / "killed")
    sizes = {shard.name: shard.size_bytes for shard in resumed.shards}
    assert n_noted == 2
    assert resumed.n_bytes_written in sizes.values()
    assert files(tmp_path / "killed") == {
        name: data.replace(b'"whole"', b'"killed"') for name, data in files(tmp_path / "whole").items()
    }
    assert not tmp_path.joinpath(".killed.part").exists()


@pytest.mark.parametrize("damage", [b"", b"short", "flip", None])
def test_a_damaged_copy_is_made_again(sources: list[MemberSource], tmp_path: Path, damage: bytes | str | None) -> None:
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


@pytest.mark.parametrize("ext", ["png", "txt", "json"])
def test_a_source_that_has_changed_is_refused_by_name(
    crawl: Path, sources: list[MemberSource], tmp_path: Path, ext: str
) -> None:
    chosen = sources[8]
    path = Path(chosen.uri)
    raw = bytearray(path.read_bytes())
    # The last but one: of a JSON, a letter of the author's name, which no caption and no picture tells.
    raw[chosen.offsets[chosen.exts.index(ext)] + chosen.sizes[chosen.exts.index(ext)] - 3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"000001\.tar: record 'key1'"):
        copy(sources, tmp_path / "copy", shard_size=20)
    assert not (tmp_path / "copy").exists()
    assert sorted(hidden(tmp_path / "copy")) == [".journal"]


@pytest.mark.parametrize("ext", ["png", "txt"])
def test_where_ingest_took_no_hash_of_all_the_pairs_own_name_is_the_check(
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


def test_a_shorter_source_is_refused(sources: list[MemberSource], tmp_path: Path) -> None:
    path = Path(sources[0].uri)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"000000\.tar ends before"):
        copy(sources, tmp_path / "copy")


@pytest.mark.parametrize("content", [{"000000.tar": b"mine"}, {}])
def test_a_folder_that_is_something_else_is_left_alone(
    sources: list[MemberSource], tmp_path: Path, content: dict[str, bytes]
) -> None:
    (tmp_path / "copy").mkdir()
    for name, data in content.items():
        (tmp_path / "copy" / name).write_bytes(data)
    with pytest.raises(DataError, match="something else"):
        copy(sources, tmp_path / "copy")
    assert files(tmp_path / "copy") == content


def test_a_copy_whose_manifest_cannot_be_read_is_something_else(sources: list[MemberSource], tmp_path: Path) -> None:
    copy(sources, tmp_path / "copy")
    path = tmp_path / "copy" / "manifest.parquet"
    data = path.read_bytes()
    for bad in (b"", data[:-20], data[:-200] + bytes(192) + data[-8:]):
        path.write_bytes(bad)
        with pytest.raises(DataError, match="something else; remove the folder"):
            copy(sources, tmp_path / "copy")


def test_a_place_that_cannot_be_written_is_named(sources: list[MemberSource], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file cannot be written \(.*\); make room, or correct"):
        copy(sources, tmp_path / "file" / "copy")


def test_another_layout_or_other_members_are_another_copy(sources: list[MemberSource], tmp_path: Path) -> None:
    copy(sources, tmp_path / "copy")
    for given, options in ((sources, {"shard_size": 7}), (sources, {"seed": 1}), (sources[1:], {})):
        with pytest.raises(DataError, match="something else"):
            copy(given, tmp_path / "copy", **options)


def test_what_an_interrupted_copy_of_other_members_left_is_not_mixed_in(
    sources: list[MemberSource], tmp_path: Path
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(sources, tmp_path / "copy", report=kill)
    made = copy(sources[:4], tmp_path / "copy")
    assert [shard.n_samples for shard in made.shards] == [4]
    assert sorted(files(tmp_path / "copy")) == ["000000.tar", "README.md", "manifest.parquet", "wids.json"]


def test_two_processes_that_copy_the_same_wait_for_each_other(sources: list[MemberSource], tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        copies = pool.map(copy_into, [(sources, tmp_path / "copy")] * 3)
    assert sorted(made.n_bytes_written > 0 for made in copies) == [False, False, True]
    assert len({tuple(made.shards) for made in copies}) == 1


def copy_into(given: tuple[list[MemberSource], Path]) -> Copy:
    return copy(*given)


def test_a_pair_is_not_copied_twice(sources: list[MemberSource], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        copy([*sources, sources[3]], tmp_path / "copy")


def test_nothing_to_copy_is_an_empty_manifest(tmp_path: Path) -> None:
    assert copy([], tmp_path / "copy").shards == []
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


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("is_told", [True, False])
def test_mixed_records_become_one_table_for_hugging_face(
    mixed: list[MemberSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_told: bool, seed: int | None
) -> None:
    """Told by the card in the folder, or from the bare tars."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    copy(mixed, tmp_path / "copy", shard_size=8, seed=seed)
    tars = sorted(str(path) for path in (tmp_path / "copy").glob("*.tar"))
    given = {"path": str(tmp_path / "copy")} if is_told else {"path": "webdataset", "data_files": {"train": tars}}
    loaded = datasets.load_dataset(**given, split="train", cache_dir=str(tmp_path / "cache"))
    rows = sorted(loaded, key=lambda row: row["__key__"])
    assert len(rows) == 12
    assert {row["txt"] for row in rows} == {f"picture number {number}" for number in range(12)}
    assert all(next(row[ext] for ext in ("jpg", "png") if ext in row).size == (20, 16) for row in rows)
    assert sum(row["json"] is not None for row in rows) == 8


# Its own reader leaves the tars that it opened to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_reads_a_copy(mixed: list[MemberSource], tmp_path: Path) -> None:
    import webdataset

    copy(mixed, tmp_path / "copy", shard_size=8)
    index = json.loads((tmp_path / "copy" / "wids.json").read_text())
    assert [shard["nsamples"] for shard in index["shardlist"]] == [8, 4]
    tars = [str(tmp_path / "copy" / shard["url"]) for shard in index["shardlist"]]
    rows = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    gc.collect()
    assert {row["txt"] for row in rows} == {f"picture number {number}" for number in range(12)}
    assert all(next(row[ext] for ext in ("jpg", "png") if ext in row).size == (20, 16) for row in rows)


def test_the_real_corpus_is_copied_without_losing_a_byte_of_its_json(real_corpus: Path, tmp_path: Path) -> None:
    sources = [source for source in find_sources(real_corpus) if source.uri.endswith("000003.tar")][::5]
    made = copy(sources, tmp_path / "copy", shard_size=1000)
    with tarfile.open(made.folder / "000000.tar") as tar:
        members = [member for member in tar if member.name.endswith(".json")]
        copied = {tar.extractfile(member).read() for member in members}
    originals = {
        read_ranges(source.uri, [(source.offsets[at], source.sizes[at])])[0]
        for source in sources
        for at in [source.exts.index("json")]
    }
    assert copied == originals
    assert all(json.loads(about)["license"] for about in copied)
