"""Reading by blocks: a request for neighbours, each member once per epoch, one order with any number of workers and after a takedown."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import BLOCK_CACHE, artifact_path, clear_block_cache
from alchemist_core.shards import s3
from alchemist_core.store.manifests import Manifest, hash_rows
from alchemist_core.subsets import blocks
from alchemist_core.subsets.blocks import BlockCache, BlockReader, BlockShuffle
from alchemist_core.subsets.buckets import Buckets
from alchemist_core.subsets.dataset import Reader, SubsetDataset
from alchemist_core.subsets.location_files import read_location_file, write_location_file
from alchemist_core.subsets.members import LocatedSubset, table_of
from tests.object_store import BUCKET
from tests.subsets.given_subset import find_sources
from tests.subsets.test_dataset import BATCH, EVERY, N_SHARDS, N, crawl, flat, read_all

__all__ = ["crawl"]

SHUFFLE = BlockShuffle(block=5, buffer=20)


def locate(root: Path, taken_down: tuple[int, ...] = (), at: str | None = None) -> LocatedSubset:
    """The subset of all records with the order of their sources; at another address on request."""
    in_order = find_sources(root)
    sources = sorted(in_order, key=lambda source: source.pair_hash)
    places = {source.pair_hash: place for place, source in enumerate(in_order)}
    place_N = np.array([places[source.pair_hash] for source in sources])
    manifest = Manifest(
        hash_rows([source.pair_hash for source in sources]), np.array([source.rank for source in sources]), np.zeros(N)
    )
    members = table_of(sources)
    if at is not None:
        members.uris = [f"{at}/{Path(uri).name}" for uri in members.uris]
    members.table = members.table.filter(np.isin(np.arange(N), taken_down, invert=True))
    return LocatedSubset(manifest, members, np.full((N, 2), 16, np.int32), place_N)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from alchemist_core.settings import load_settings

    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path / "home"))
    load_settings.cache_clear()
    return tmp_path / "home"


def dataset_of(
    subset: LocatedSubset | str, *, rank: int = 0, world_size: int = 1, shuffle: BlockShuffle = SHUFFLE
) -> SubsetDataset:
    return SubsetDataset(subset, seed=7, reader=Reader(rank, world_size, BATCH), shuffle=shuffle)


def cached() -> list[Path]:
    return sorted(artifact_path(BLOCK_CACHE).glob("*/*.block"))


@given(
    n=st.integers(0, 60), block=st.integers(1, 9), buffer=st.integers(0, 40), world_size=st.integers(1, 4), seed=st.integers(0, 2**64 - 1)
)  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_the_shares_of_the_ranks_are_a_partition_and_no_member_is_moved_by_more_than_the_buffer(
    n: int, block: int, buffer: int, world_size: int, seed: int
) -> None:
    place = np.random.default_rng(n).permutation(n)
    shuffle = BlockShuffle(block, buffer)
    parts = [shuffle.epoch_order(place, seed=seed, share=(rank, world_size)) for rank in range(world_size)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:
        # Members of one block stay close: at most the buffer apart, and what the others were moved.
        turns = {number: turn for turn, number in enumerate(part.tolist())}
        for number in part.tolist():
            others = [turns[other] for other in part.tolist() if place[other] // block == place[number] // block]
            assert max(others) - min(others) <= 2 * buffer + block


def test_members_are_repeated_in_further_passes() -> None:
    read = np.array([2, 0, 1, 3, 1, 0, 1, 1])
    order = BlockShuffle(block=2, buffer=0).epoch_order(np.arange(8), seed=5, read_N=read)
    assert np.bincount(order, minlength=8).tolist() == read.tolist()
    assert len(set(order[:6].tolist())) == 6
    assert order[-1] == 3


@given(
    reads=st.lists(st.integers(0, 4), min_size=1, max_size=60), world_size=st.integers(1, 4), buffer=st.integers(0, 20),
    seed=st.integers(0, 2**64 - 1),
)  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_ranks_share_no_blocks_where_members_are_repeated_either(
    reads: list[int], world_size: int, buffer: int, seed: int
) -> None:
    read, shuffle = np.array(reads), BlockShuffle(block=3, buffer=buffer)
    parts = [
        shuffle.epoch_order(np.arange(len(read)), seed=seed, share=(rank, world_size), read_N=read)
        for rank in range(world_size)
    ]
    assert np.bincount(np.concatenate(parts), minlength=len(read)).tolist() == reads
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    of_block = [set((part // 3).tolist()) for part in parts]
    # A block at an edge belongs to both sides of it.
    assert sum(map(len, of_block)) - len(set().union(*of_block)) <= world_size - 1


def test_a_batch_mixes_many_blocks() -> None:
    """What the README says of the default shuffle: in a batch of 256, a member meets on average two others of its block."""
    place = np.arange(400_000)
    order = BlockShuffle().epoch_order(place, seed=3)
    of_block = order // BlockShuffle().block
    batches = of_block[: len(order) // 256 * 256].reshape(-1, 256)[40:-40]
    mates = [sum(n * (n - 1) for n in Counter(batch.tolist()).values()) / 256 for batch in batches[::10]]
    assert 1.2 < np.mean(mates) < 2.5
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.05


@pytest.mark.parametrize("n_workers", [0, 2])
def test_each_member_is_read_once_in_the_same_batches_with_any_number_of_workers_and_each_block_fetched_once(
    crawl: Path, n_workers: int
) -> None:
    batches = read_all(dataset_of(locate(crawl)), n_workers)
    assert sorted(flat(batches)) == EVERY
    assert len(cached()) == N / SHUFFLE.block
    assert batches == read_all(dataset_of(locate(crawl)))
    assert sum(path.stat().st_size for path in cached()) == sum(sum(source.sizes) for source in find_sources(crawl))


def test_an_epoch_that_was_broken_off_resumes_exactly_and_a_state_of_another_shuffle_is_refused(crawl: Path) -> None:
    located = locate(crawl, (3,))
    whole, dataset = read_all(dataset_of(located)), dataset_of(located)
    before = [batch for batch, _ in zip(iter(read_all(dataset)), range(5), strict=False)]
    state = json.loads(json.dumps(dataset.state_after(5 * BATCH)))
    for after in (located, locate(crawl, (3, 30))):
        resumed = dataset_of(after)
        resumed.load_state_dict(state)
        rest = flat(read_all(resumed, 1))
        lost = set(flat(whole)) - set(flat(before) + rest)
        assert flat(before) + rest == [caption for caption in flat(whole) if caption not in lost]
        assert len(lost) <= (after is not located)
    with pytest.raises(DataError, match="its shuffle is"):
        dataset_of(located, shuffle=BlockShuffle(6, 20)).load_state_dict(state)


def test_blocks_of_a_further_pass_are_not_held_until_then(crawl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    located, held, most = locate(crawl), WeakSet[object](), [0]
    load = blocks._Block.__init__

    def count(self: object, *given: Any) -> None:
        held.add(self)
        load(self, *given)  # type: ignore[arg-type]

    assert located.place_N is not None
    reader = BlockReader(located.members, located.place_N // 5, BlockCache(artifact_path(BLOCK_CACHE)))
    monkeypatch.setattr(blocks._Block, "__init__", count)
    monkeypatch.setattr(blocks, "_N_AHEAD", 2)
    monkeypatch.setattr(blocks, "_MOST_APART", 20)
    order = np.argsort(located.place_N)
    twice, uris = np.concatenate([order, order]), []
    for record, _ in reader.read(twice):
        uris.append(record.pair_hash)
        most.append(len(held))
    assert uris == [located.members.rows(np.array([number]))[0].pair_hash for number in twice.tolist()]
    assert max(most) <= 4, "of 15 blocks: the one that is read, those ahead, and one that the loop still names"


def test_ranks_read_different_blocks(crawl: Path) -> None:
    shares = [flat(read_all(dataset_of(locate(crawl), rank=rank, world_size=3))) for rank in range(3)]
    assert sorted(caption for share in shares for caption in share) == EVERY
    assert [len(share) for share in shares] == [25, 25, 25]


def test_neighbours_are_one_request_and_each_object_is_asked_once_for_its_version(
    crawl: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in crawl.iterdir():
        s3._client().put_object(Bucket=BUCKET, Key=f"crawl/{path.name}", Body=path.read_bytes())
    located = locate(crawl, at=f"{object_store}/crawl")
    s3._ETAGS.clear()
    fetch, asked, heads, n_heads = s3._get, list[str](), s3._client().head_object, list[str]()
    monkeypatch.setattr(s3, "_get", lambda uri, etag, span: asked.append(uri) or fetch(uri, etag, span))
    monkeypatch.setattr(s3._client(), "head_object", lambda **given: n_heads.append(given["Key"]) or heads(**given))
    assert sorted(flat(read_all(dataset_of(located)))) == EVERY
    assert len(asked) == N / SHUFFLE.block
    assert N_SHARDS <= len(n_heads) <= 16, "threads that begin at the same time may each ask"
    n_heads.clear()
    clear_block_cache()
    assert sorted(flat(read_all(dataset_of(located)))) == EVERY
    assert n_heads == []
    # Another version of an object is read whole, and its bytes are compared with the registered ones.
    path = next(crawl.iterdir())
    s3._client().put_object(Bucket=BUCKET, Key=f"crawl/{path.name}", Body=path.read_bytes() + bytes(512))
    clear_block_cache()
    assert sorted(flat(read_all(dataset_of(located)))) == EVERY
    assert set(n_heads) == {f"crawl/{path.name}"}


def test_a_damaged_block_is_fetched_again_and_a_damaged_source_is_named(crawl: Path, tmp_path: Path) -> None:
    located = locate(crawl)
    whole = read_all(dataset_of(located))
    for path in cached():
        path.write_bytes(bytes(path.stat().st_size))
    assert read_all(dataset_of(located)) == whole
    clear_block_cache()
    raw = bytearray((crawl / "000001.tar").read_bytes())
    record = next(source for source in find_sources(crawl) if source.uri.endswith("000001.tar"))
    raw[record.offsets[0] + 40] ^= 1
    (tmp_path / "000001.tar").write_bytes(raw)
    located.members.uris = [
        str(tmp_path / "000001.tar") if uri.endswith("000001.tar") else uri for uri in located.members.uris
    ]
    with pytest.raises(DataError, match=r"000001\.tar: record 'key0'"):
        read_all(dataset_of(located))


@pytest.mark.parametrize("n_bytes", [0, 10])
def test_a_block_that_a_power_cut_left_empty_or_short_is_fetched_again(crawl: Path, n_bytes: int) -> None:
    located = locate(crawl)
    whole, sizes = read_all(dataset_of(located)), [path.stat().st_size for path in cached()]
    for path in cached():
        os.truncate(path, n_bytes)
    assert read_all(dataset_of(located)) == whole
    # One that is short is found to be damaged and forgotten; the next reader keeps it again.
    assert read_all(dataset_of(located)) == whole
    assert [path.stat().st_size for path in cached()] == sizes


def test_the_cache_stays_within_its_bound_and_a_disk_without_room_costs_only_time(
    crawl: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = find_sources(crawl)
    size_bytes = sum(records[0].sizes)
    cache = BlockCache(home / "small", most_bytes=10 * size_bytes)
    for record in records:
        assert bytes(cache.load([record])[: record.sizes[0]]).startswith(b"\x89PNG")
    assert 5 <= len(list((home / "small").glob("*/*.block"))) <= 11

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blocks, "atomic_write", full)
    assert sorted(flat(read_all(dataset_of(locate(crawl))))) == EVERY
    assert cached() == []


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_file_of_locations_is_read_without_a_store(
    crawl: Path, object_store: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = f"{object_store}/views/half-v3.parquet" if place == "bucket" else str(tmp_path / "half.parquet")
    located = locate(crawl, (0, 40))
    assert write_location_file(located, to, title="half v3") > 0
    monkeypatch.setattr("alchemist_core.subsets.dataset.open_store", lambda: pytest.fail("it needs no store"))
    for shuffle in (SHUFFLE, None):
        dataset = SubsetDataset(to, seed=7, reader=Reader(batch_size=BATCH), shuffle=shuffle)
        assert dataset.n_taken_down == 2
        assert read_all(dataset) == read_all(
            SubsetDataset(located, seed=7, reader=Reader(batch_size=BATCH), shuffle=shuffle)
        )
    assert dataset.state_after(0) == SubsetDataset(located, seed=7, reader=Reader(batch_size=BATCH)).state_after(0)
    with pytest.raises(ConfigError, match="one version"):
        SubsetDataset(to, version=2)


def test_what_is_no_file_of_locations_is_refused(crawl: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.parquet"
    with pytest.raises(DataError, match=r"half\.parquet is missing\. Write it: alchemist export locations"):
        read_location_file(str(path))
    path.write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DataError, match="not a file of locations"):
        read_location_file(str(path))
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        write_location_file(locate(crawl), str(tmp_path / "half.csv"), title="half v1")


def test_what_cannot_be_combined_or_be_is_refused(crawl: Path) -> None:
    with pytest.raises(ValueError, match="do not combine"):
        SubsetDataset(locate(crawl), shuffle=SHUFFLE, buckets=Buckets(squares=(64,)))
    with pytest.raises(ValueError, match="order of the members"):
        SubsetDataset(locate(crawl)._replace(place_N=None), shuffle=SHUFFLE)
    with pytest.raises(ValueError, match="at least"):
        BlockShuffle(block=0)


def test_objects_are_deleted_in_batches(object_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        s3._client().put_object(Bucket=BUCKET, Key=f"gone/{number}", Body=b"x")
    monkeypatch.setattr(s3, "_KEYS_A_DELETE", 2)
    delete, sizes = s3._client().delete_objects, list[int]()
    monkeypatch.setattr(
        s3._client(), "delete_objects", lambda **given: sizes.append(len(given["Delete"]["Objects"])) or delete(**given)
    )
    s3.remove_objects(f"{object_store}/gone")
    assert sizes == [2, 2, 1]
    assert s3.find_objects(f"{object_store}/gone") == []
    s3._client().put_object(Bucket=BUCKET, Key="gone/1", Body=b"x")
    refused = {"Errors": [{"Key": "gone/1", "Code": "AccessDenied"}]}
    monkeypatch.setattr(s3._client(), "delete_objects", lambda **_given: refused)
    with pytest.raises(DataError, match="gone/1: AccessDenied"):
        s3.remove_objects(f"{object_store}/gone")
