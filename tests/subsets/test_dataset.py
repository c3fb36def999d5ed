"""Every member is read once per epoch by any number of readers; a resumed epoch reads exactly the remaining members."""

import copy
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from alchemist_core.errors import DataError
from alchemist_core.selection.weights import reads_of_epoch
from alchemist_core.store.manifests import Manifest, hash_rows
from alchemist_core.subsets.dataset import Reader, State, SubsetDataset, epoch_order, rank_share, worker_share
from alchemist_core.subsets.location_files import write_location_file
from alchemist_core.subsets.member_table import first_64_bits
from alchemist_core.subsets.members import LocatedSubset, table_of
from tests.subsets.given_subset import find_sources

CHECKOUT = Path(__file__).parents[2]
N_SHARDS, N_RECORDS, BATCH = 3, 25, 4
N = N_SHARDS * N_RECORDS


@pytest.fixture(scope="module")
def crawl(tar, record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crawl")
    for shard in range(N_SHARDS):
        entries = [entry for n in range(N_RECORDS) for entry in record(f"key{n}", N_RECORDS * shard + n)]
        (root / f"{shard:06d}.tar").write_bytes(tar(entries))
    return root


@pytest.fixture
def located(crawl: Path) -> LocatedSubset:
    return locate(crawl)


def locate(crawl: Path, taken_down: tuple[int, ...] = ()) -> LocatedSubset:
    """The subset of all records; the samples with these numbers have no location any more."""
    sources = sorted(find_sources(crawl), key=lambda source: source.pair_hash)
    ranks = np.array([source.rank for source in sources])
    manifest = Manifest(hash_rows([source.pair_hash for source in sources]), ranks, np.zeros(N))
    members = table_of(sources)
    is_live = np.isin(np.arange(N), taken_down, invert=True)
    members.table = members.table.filter(is_live)
    return LocatedSubset(manifest, members)


def loader(dataset: SubsetDataset, n_workers: int) -> DataLoader[list[str]]:
    return DataLoader(dataset, batch_size=dataset.reader.batch_size, num_workers=n_workers, collate_fn=captions)


def captions(samples: list[dict[str, bytes]]) -> list[str]:
    return [sample["txt"].decode() for sample in samples]


def read_all(dataset: SubsetDataset, n_workers: int = 0) -> list[list[str]]:
    return list(loader(dataset, n_workers))


def flat(batches: list[list[str]]) -> list[str]:
    return [caption for batch in batches for caption in batch]


EVERY = sorted(f"picture number {n}" for n in range(N))


def dataset_of(subset: LocatedSubset, *, rank: int = 0, world_size: int = 1, seed: int = 7) -> SubsetDataset:
    return SubsetDataset(subset, seed=seed, reader=Reader(rank, world_size, BATCH))


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_an_epoch_reads_every_member_once_in_the_same_batches_with_any_number_of_workers(
    located: LocatedSubset, n_workers: int
) -> None:
    dataset = dataset_of(located)
    batches = read_all(dataset, n_workers)
    assert sorted(flat(batches)) == EVERY
    assert batches == read_all(dataset_of(located))
    assert len(dataset) == N


def test_a_sample_has_the_bytes_of_its_source(located: LocatedSubset, crawl: Path) -> None:
    sample = next(iter(dataset_of(located)))
    raw = Path(sample["__url__"]).read_bytes()
    assert all(sample[ext] in raw for ext in ("png", "txt", "json"))
    assert json.loads(sample["json"])["author"] == "me"
    number = located.manifest.pair_hashes().index(sample["pair_hash"])
    assert sample["rank"] == located.manifest.rank_K[number]
    (source,) = [source for source in find_sources(crawl) if source.pair_hash == sample["pair_hash"]]
    assert (sample["__key__"], sample["__url__"]) == (source.key, source.uri)


def test_every_epoch_and_every_seed_has_an_order_of_its_own(located: LocatedSubset) -> None:
    dataset, orders = dataset_of(located), []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        orders.append(flat(read_all(dataset)))
    orders.append(flat(read_all(dataset_of(located, seed=8))))
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == EVERY for order in orders)
    dataset.set_epoch(1)
    assert flat(read_all(dataset)) == orders[1]


def test_workers_that_live_on_between_epochs_hear_of_the_next_one(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    living = DataLoader(dataset, batch_size=BATCH, num_workers=2, collate_fn=captions, persistent_workers=True)
    orders = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        orders.append(flat(list(living)))
    fresh = dataset_of(located)
    for epoch, order in enumerate(orders):
        fresh.set_epoch(epoch)
        assert order == flat(read_all(fresh))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_ranks_share_an_epoch_without_loss_and_without_duplicates(located: LocatedSubset, n_workers: int) -> None:
    shares = [flat(read_all(dataset_of(located, rank=rank, world_size=4), n_workers)) for rank in range(4)]
    assert sorted(caption for share in shares for caption in share) == EVERY
    assert sorted(map(len, shares)) == [18, 19, 19, 19]


@pytest.mark.slow
def test_the_loop_of_the_page_ends_where_one_rank_has_a_batch_and_the_other_has_none(
    crawl: Path, tmp_path: Path
) -> None:
    order = epoch_order(first_64_bits(locate(crawl).manifest.pair_hash_K32), seed=0, epoch=0)
    subset = locate(crawl, tuple(rank_share(order, Reader(0, 2))[4:]) + tuple(rank_share(order, Reader(1, 2))[3:]))
    assert [len(dataset_of(subset, rank=rank, world_size=2, seed=0)) for rank in range(2)] == [BATCH, BATCH - 1]
    subset = subset._replace(size_N2=np.full((N, 2), 16, np.int32), place_N=np.arange(N))
    write_location_file(subset, str(tmp_path / "seven.parquet"), title="seven v1")
    page = (CHECKOUT / "docs" / "how-to" / "train-on-a-subset.md").read_text(encoding="utf-8")
    (loop,) = re.findall(r"^```python\n# train_ranks\.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "train_ranks.py").write_text(loop.replace("good-half", "seven.parquet"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train_ranks.py"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("n_batches", [0, 1, 5, 18])
@pytest.mark.parametrize("taken_down", [(), (3, 40)])
def test_a_loop_that_was_broken_off_resumes_with_the_remaining_samples_exactly_once(
    crawl: Path, n_batches: int, n_workers: int, taken_down: tuple[int, ...]
) -> None:
    located = locate(crawl, taken_down)
    whole = read_all(dataset_of(located))
    dataset = dataset_of(located)
    batches = iter(loader(dataset, n_workers))
    before = [next(batches) for _ in range(n_batches)]
    state = json.loads(json.dumps(dataset.state_after(sum(map(len, before)))))
    del batches
    resumed = dataset_of(located)
    resumed.load_state_dict(state)
    assert before + read_all(resumed, 3 - n_workers) == whole
    more = resumed.state_after(4) if n_batches < 18 else None
    if more is not None:
        again = dataset_of(located)
        again.load_state_dict(more)
        assert [*before, whole[n_batches], *read_all(again)] == whole


@pytest.mark.parametrize("n_workers", [1, 2])
def test_ranks_that_were_broken_off_go_on_together_without_loss_and_without_duplicates(
    located: LocatedSubset, n_workers: int
) -> None:
    """In the second epoch, each rank at another position."""
    read: list[str] = []
    for rank in range(3):
        dataset = dataset_of(located, rank=rank, world_size=3)
        dataset.set_epoch(1)
        batches = iter(loader(dataset, n_workers))
        before = [next(batches) for _ in range(rank + 1)]
        state = json.loads(json.dumps(dataset.state_after(sum(map(len, before)))))
        del batches
        resumed = dataset_of(located, rank=rank, world_size=3)
        resumed.load_state_dict(state)
        read += flat(before + read_all(resumed, n_workers))
    assert sorted(read) == EVERY


def test_it_has_the_form_that_stateful_loaders_ask_for(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    assert isinstance(dataset, IterableDataset)
    iterator = iter(dataset)
    read = [next(iterator)["txt"].decode() for _ in range(10)]
    resumed = dataset_of(located)
    resumed.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
    assert read + [sample["txt"].decode() for sample in resumed] == flat(read_all(dataset_of(located)))
    ended = dataset_of(located)
    ended.load_state_dict(resumed.state_dict())
    assert list(ended) == []


def test_a_position_that_a_worker_saved_in_version_0_1_divides_samples_as_then(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    state = {**dataset.state_dict(), "n_read": BATCH, "n_workers": 2, "epoch": 1}
    del state["at_a_time"]
    dataset.load_state_dict(state)
    assert dataset.state_dict()["at_a_time"] == dataset.reader.batch_size > 1


N_EPOCHS = 3


def train(
    subset: LocatedSubset, *, n_workers: int, state: State | None = None, most_batches: int = 99, **options: Any
) -> tuple[list[list[str]], State]:
    """Read all epochs as users write it, with a loader of its own batch size; returns the batches and the state after the last one."""
    dataset = SubsetDataset(subset, seed=7)
    batches = DataLoader(dataset, BATCH, num_workers=n_workers, collate_fn=captions, **options)
    if state is not None:
        dataset.load_state_dict(state)
    read: list[list[str]] = []
    for epoch in range(state["epoch"] if state is not None else 0, N_EPOCHS):
        dataset.set_epoch(epoch)
        n_samples = 0
        for batch in batches:
            n_samples += len(batch)
            read.append(batch)
            if len(read) == most_batches:
                return read, json.loads(json.dumps(dataset.state_after(n_samples)))
    return read, dataset.state_after(n_samples)


@pytest.mark.parametrize(("n_workers", "n_workers_after"), [(0, 2), (2, 0), (2, 1)])
@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}, {"drop_last": True}])
def test_a_loop_that_sets_every_epoch_resumes_exactly_with_a_loader_that_the_dataset_was_not_told_of(
    crawl: Path, n_workers: int, n_workers_after: int, options: dict[str, bool]
) -> None:
    located = locate(crawl, (3, 40))
    given = [options if n else {"drop_last": options.get("drop_last", False)} for n in (n_workers, n_workers_after)]
    whole, _ = train(located, n_workers=0, **given[0] | {"persistent_workers": False})
    for n_before in (1, 18, 19, 30):
        before, state = train(located, n_workers=n_workers, most_batches=n_before, **given[0])
        between, state = train(located, n_workers=n_workers_after, state=state, most_batches=3, **given[1])
        after, _ = train(located, n_workers=n_workers, state=state, **given[0])
        assert before + between + after == whole


@pytest.mark.parametrize("batch_size", [None, 1, 3, 6])
def test_the_order_is_that_of_the_epoch_whatever_batch_size_the_dataset_was_told(
    located: LocatedSubset, batch_size: int | None
) -> None:
    found = []
    for n_workers in (0, 2):
        dataset = SubsetDataset(located, seed=7, reader=Reader(batch_size=BATCH), transform=itemgetter("txt"))
        taken = DataLoader(dataset, batch_size, num_workers=n_workers)
        found.append([caption for part in taken for caption in ([part] if batch_size is None else part)])
    assert found[0] == found[1]
    assert len(found[0]) == N


def test_a_loaded_position_stays_until_it_was_read_however_often_its_epoch_is_set(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    dataset.set_epoch(1)
    whole = read_all(dataset)
    for n_workers in (0, 2):
        resumed = dataset_of(located)
        resumed.load_state_dict(dataset.state_after(5 * BATCH))
        resumed.set_epoch(1)
        assert read_all(resumed, n_workers) == whole[5:]
        resumed.set_epoch(1)
        assert read_all(resumed, n_workers) == whole


def test_a_look_at_a_few_samples_moves_no_position(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    dataset.set_epoch(1)
    whole = read_all(dataset)
    resumed = dataset_of(located)
    resumed.load_state_dict(dataset.state_after(2 * BATCH))
    next(iter(loader(resumed, 2)))
    next(iter(resumed))
    resumed.set_epoch(1)
    batches = iter(loader(resumed, 2))
    assert [next(batches) for _ in range(9)] == whole[2:11]
    assert next(iter(resumed))["txt"].decode() == whole[2][0]
    assert len(next(iter(DataLoader(resumed, 5, collate_fn=captions)))) == 5
    assert resumed.state_after(9 * BATCH)["start"] == 11 * BATCH


def test_an_epoch_that_is_not_the_loaded_one_is_refused_while_samples_are_left(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    dataset.set_epoch(1)
    middle, end = dataset.state_after(BATCH), dataset.state_after(N)
    for state, epoch, n_left in ((middle, 0, N - BATCH), (middle, 2, N - BATCH), (end, 0, 0)):
        resumed = dataset_of(located)
        resumed.load_state_dict(state)
        with pytest.raises(DataError, match=f"of epoch 1, of which {n_left} samples are left, not of epoch {epoch}"):
            resumed.set_epoch(epoch)
    resumed.load_state_dict(end)
    resumed.set_epoch(2)
    assert sorted(flat(read_all(resumed))) == EVERY
    for n_workers in (0, 2):
        # A loop may break off an epoch that it has read from.
        resumed.load_state_dict(middle)
        resumed.set_epoch(1)
        next(iter(loader(resumed, n_workers)))
        resumed.set_epoch(2)
        assert sorted(flat(read_all(resumed, n_workers))) == EVERY
        # One that sets no epoch after loading goes on with the next one.
        resumed.load_state_dict(middle)
        assert len(flat(read_all(resumed, n_workers))) == N - BATCH
        with pytest.raises(DataError, match="not of epoch 0"):
            resumed.set_epoch(0)
        resumed.set_epoch(2)
        assert sorted(flat(read_all(resumed, n_workers))) == EVERY


def test_a_state_that_persistent_workers_would_not_see_is_refused(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    living = DataLoader(dataset, BATCH, num_workers=2, collate_fn=captions, persistent_workers=True)
    assert sorted(flat(list(living))) == EVERY
    dataset.load_state_dict(dataset.state_after(BATCH))
    dataset.set_epoch(0)
    with pytest.raises(DataError, match="after the persistent workers of the loader had started"):
        next(iter(living))
    assert len(list(loader(dataset, 2))) == len(read_all(dataset_of(located))) - 1


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_count_that_cannot_be_what_arrived_is_refused(located: LocatedSubset, n_workers: int) -> None:
    dataset = SubsetDataset(located, seed=7)
    batches = iter(DataLoader(dataset, BATCH, num_workers=n_workers, collate_fn=captions))
    assert len(next(batches) + next(batches)) == 2 * BATCH
    with pytest.raises(DataError, match="7 samples are not whole batches of 4"):
        dataset.state_after(7)
    with pytest.raises(DataError, match=r"68 samples cannot have arrived: at most \d+ were read"):
        dataset.state_after(68)
    for batch in batches:
        last = len(batch)
    assert last == N % BATCH
    assert dataset.state_after(N)["start"] == N
    with pytest.raises(DataError, match=f"{N + 1} samples cannot have arrived"):
        dataset.state_after(N + 1)


def test_a_state_is_refused_where_only_the_workers_know_their_positions(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    batches = iter(loader(dataset, 2))
    next(batches)
    with pytest.raises(DataError, match=r"Save dataset\.state_after\(n_samples\)"):
        dataset.state_dict()
    assert dataset.state_after(BATCH)["start"] == BATCH


class WithStates(IterableDataset[tuple[str, int, State]]):
    """Yields each caption with the worker and its state, as loaders with a state of their own ask for it."""

    def __init__(self, dataset: SubsetDataset, states: dict[int, State] | None = None) -> None:
        self.dataset, self.states = dataset, states or {}

    def __iter__(self) -> Iterator[tuple[str, int, State]]:
        info = get_worker_info()
        assert info is not None
        if info.id in self.states:
            self.dataset.load_state_dict(self.states[info.id])
        for sample in self.dataset:
            yield sample["txt"].decode(), info.id, self.dataset.state_dict()


def test_the_states_of_workers_resume_with_the_batch_size_of_their_loader_and_no_other(located: LocatedSubset) -> None:
    whole = read_all(SubsetDataset(located, seed=7, reader=Reader(batch_size=BATCH)))
    started = iter(DataLoader(WithStates(SubsetDataset(located, seed=7)), BATCH, num_workers=2, collate_fn=list))
    before = [next(started) for _ in range(4)]
    states = {worker: state for batch in before for _, worker, state in batch}
    assert set(states) == {0, 1}
    resumed = WithStates(SubsetDataset(located, seed=7), states)
    after = list(DataLoader(resumed, BATCH, num_workers=2, collate_fn=list))
    assert [[caption for caption, _, _ in batch] for batch in before + after] == whole
    with pytest.raises(DataError, match="saved with 2 workers and batches of 4, not with 2 and 3"):
        next(iter(DataLoader(resumed, 3, num_workers=2, collate_fn=list)))


def test_samples_that_were_taken_down_are_skipped_and_counted_and_do_not_move_others(crawl: Path) -> None:
    whole = flat(read_all(dataset_of(locate(crawl))))
    dataset = dataset_of(locate(crawl, (0, 1, 50)))
    rest = flat(read_all(dataset, 2))
    assert (dataset.n_taken_down, len(dataset)) == (3, N - 3)
    gone = set(whole) - set(rest)
    assert len(gone) == 3
    assert rest == [caption for caption in whole if caption not in gone]


@pytest.mark.parametrize("n_read", [(9,), (9, 9), (9, 0)])
def test_a_takedown_in_mid_epoch_loses_and_repeats_nothing_else(crawl: Path, n_read: tuple[int, ...]) -> None:
    before, after = locate(crawl, (5,)), locate(crawl, (5, 30, 31))
    n_workers = len(n_read)
    datasets = [dataset_of(before) for _ in range(n_workers)]
    read: list[str] = []
    states = []
    for number, dataset in enumerate(datasets):
        part = worker(dataset, number, n_workers)
        read += [next(part) for _ in range(n_read[number])]
        with as_worker(number, n_workers):
            states.append(dataset.state_dict())
    for number, state in enumerate(states):
        resumed = dataset_of(after)
        with as_worker(number, n_workers):
            resumed.load_state_dict(state)
        read += list(worker(resumed, number, n_workers))
    assert len(read) == len(set(read))
    everybody, without = set(flat(read_all(dataset_of(before)))), set(flat(read_all(dataset_of(after))))
    assert without <= set(read) <= everybody


def test_a_persistent_worker_that_has_not_begun_an_epoch_is_at_its_beginning(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    # Copies in workers share what the training loop sets.
    ended, broken_off = copy.copy(dataset), copy.copy(dataset)
    assert len(list(worker(ended, 0, 2))) > BATCH
    part = worker(broken_off, 1, 2)
    next(part)
    dataset.set_epoch(1)
    for number, living in enumerate((ended, broken_off)):
        with as_worker(number, 2):
            state = living.state_dict()
        assert (state["epoch"], state["n_read"]) == (1, 0)
    # A worker reads ahead for a while after the loop has broken off.
    next(part)
    with as_worker(1, 2):
        assert broken_off.state_dict()["n_read"] == 0
    fresh = dataset_of(located)
    fresh.set_epoch(1)
    assert list(worker(broken_off, 1, 2)) == list(worker(fresh, 1, 2))


@contextmanager
def as_worker(number: int, n_workers: int) -> Iterator[None]:
    info = type("Info", (), {"id": number, "num_workers": n_workers})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alchemist_core.subsets.dataset.get_worker_info", lambda: info)
        yield


def worker(dataset: SubsetDataset, number: int, n_workers: int) -> Iterator[str]:
    """Read as one of several workers does."""
    with as_worker(number, n_workers):
        iterator = iter(dataset)
        first = next(iterator, None)
    if first is not None:
        yield first["txt"].decode()
        yield from (sample["txt"].decode() for sample in iterator)


@pytest.mark.parametrize("change", ["seed", "reader", "members"])
def test_a_state_of_another_reading_is_refused(crawl: Path, change: str) -> None:
    state = dataset_of(locate(crawl)).state_after(8)
    other = locate(crawl)
    if change == "members":
        other = LocatedSubset(Manifest(hash_rows([bytes(32)] * N), np.zeros(N), np.zeros(N)), other.members)
    dataset = SubsetDataset(
        other, seed=8 if change == "seed" else 7, reader=Reader(0, 2 if change == "reader" else 1, BATCH)
    )
    remedy = "give its number: SubsetDataset" if change == "members" else r"here\.$"
    with pytest.raises(DataError, match=f"not of this dataset: .*{remedy}"):
        dataset.load_state_dict(state)


def test_a_state_of_more_workers_is_refused(located: LocatedSubset) -> None:
    dataset = dataset_of(located)
    part = worker(dataset, 1, 2)
    next(part)
    with as_worker(1, 2):
        state = dataset.state_dict()
    resumed = dataset_of(located)
    resumed.load_state_dict(state)
    with pytest.raises(DataError, match="with 2 workers"):
        next(iter(resumed))


def test_a_source_that_has_changed_stops_the_reading(located: LocatedSubset, tmp_path: Path) -> None:
    members = located.members
    moved = tmp_path / "000000.tar"
    raw = bytearray(Path(members.uris[0]).read_bytes())
    record = members.rows(np.array([0]))[0]
    if record.uri != members.uris[0]:
        raw = bytearray(Path(record.uri).read_bytes())
    raw[record.offsets[0] + 60] ^= 1
    moved.write_bytes(raw)
    members.uris = [str(moved) if uri == record.uri else uri for uri in members.uris]
    with pytest.raises(DataError, match=rf"{record.key}'"):
        list(dataset_of(located))


def weighted(crawl: Path, taken_down: tuple[int, ...] = ()) -> LocatedSubset:
    """Members that an epoch reads a quarter of a time to three times, in all 100 times."""
    located = locate(crawl, taken_down)
    weight_N = np.tile([0.25, 3.0, 1.0, 1.5, 0.75], N // 5)
    weight_N[0] += 100 - weight_N.sum()
    return located._replace(manifest=replace(located.manifest, weight_K=weight_N))


@pytest.mark.parametrize(("world_size", "n_workers"), [(1, 0), (3, 2)])
def test_an_epoch_reads_weighted_members_as_often_as_their_reads_say_in_any_number_of_shares(
    crawl: Path, world_size: int, n_workers: int
) -> None:
    located = weighted(crawl)
    hash64_N, weight_N = first_64_bits(located.manifest.pair_hash_K32), located.manifest.weight_K
    assert weight_N is not None
    for epoch in (0, 1):
        found = Counter[bytes]()
        for rank in range(world_size):
            dataset = SubsetDataset(located, seed=7, reader=Reader(rank, world_size, BATCH))
            dataset.set_epoch(epoch)
            found += Counter(
                sample["pair_hash"]
                for batch in DataLoader(dataset, batch_size=BATCH, num_workers=n_workers, collate_fn=list)
                for sample in batch
            )
        wanted = reads_of_epoch(weight_N, hash64_N, seed=7, epoch=epoch)
        assert found == +Counter(dict(zip(located.manifest.pair_hashes(), wanted.tolist(), strict=True)))
        assert found.total() == 100
    assert len(SubsetDataset(located, reader=Reader(0, 1, BATCH))) == 100


@pytest.mark.parametrize("taken_down", [(), (3, 40)])
def test_a_weighted_epoch_that_was_broken_off_resumes_exactly(crawl: Path, taken_down: tuple[int, ...]) -> None:
    located = weighted(crawl, taken_down)
    whole = read_all(dataset_of(located))
    dataset = dataset_of(located)
    batches = iter(loader(dataset, 2))
    before = [next(batches) for _ in range(9)]
    state = json.loads(json.dumps(dataset.state_after(sum(map(len, before)))))
    del batches
    resumed = dataset_of(located)
    resumed.load_state_dict(state)
    assert before + read_all(resumed, 1) == whole
    with pytest.raises(DataError, match="not of this dataset: its members"):
        dataset_of(locate(crawl, taken_down)).load_state_dict(state)


def test_whole_weights_of_one_read_in_the_order_without_weights() -> None:
    hash64_N = np.random.default_rng(0).integers(-(2**62), 2**62, 50)
    plain = epoch_order(hash64_N, seed=3, epoch=2)
    assert epoch_order(hash64_N, seed=3, epoch=2, weight_N=np.ones(50)).tolist() == plain.tolist()
    twice = epoch_order(hash64_N, seed=3, epoch=2, weight_N=np.full(50, 2.0))
    assert np.bincount(twice).tolist() == [2] * 50
    # Repeats are spread over the epoch: the second reads are not those of the first half.
    assert len(set(twice[:50].tolist())) < 50


@given(
    n=st.integers(0, 40), world_size=st.integers(1, 4), n_workers=st.integers(1, 4), batch_size=st.integers(1, 5),
    seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 9),
)  # fmt: skip
@settings(deadline=None)
def test_shares_are_a_partition_of_the_epoch(
    n: int, world_size: int, n_workers: int, batch_size: int, seed: int, epoch: int
) -> None:
    order = epoch_order(np.arange(n, dtype=np.int64) - 7, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(n))
    readers = [Reader(rank, world_size, batch_size) for rank in range(world_size)]
    parts = [
        worker_share(rank_share(order, reader), reader, worker=worker, n_workers=n_workers)
        for reader in readers
        for worker in range(n_workers)
    ]
    assert sorted(number for part in parts for number in part) == list(range(n))


@pytest.mark.parametrize("wrong", [(2, 2, 1), (-1, 1, 1), (0, 1, 0)])
def test_a_reader_that_cannot_be_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="rank"):
        Reader(*wrong)
