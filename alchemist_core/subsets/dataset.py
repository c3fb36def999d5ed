"""A subset version as a torch dataset that reads byte ranges from the source tars, ahead of the loop, and resumes exactly.

Batches are the same with any number of workers, if the loader's batch size is the dataset's. With buckets, the dataset yields batches of
images of one shape itself. From top to bottom: the order of an epoch and its shares, reading ahead, the dataset. Letters: N members of the
subset · M that one rank reads · K that one worker reads.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.selection.keys import Domain, mix64
from alchemist_core.selection.weights import reads_of_epoch
from alchemist_core.shards.images import decode_covering
from alchemist_core.shards.samples import repair_sample
from alchemist_core.shards.storage import is_s3
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.store.engine import open_store
from alchemist_core.store.subsets import choose_version
from alchemist_core.subsets.blocks import BlockReader, BlockShuffle, own_block_cache
from alchemist_core.subsets.buckets import Assigned, Buckets, Reader, plan_batches
from alchemist_core.subsets.location_files import is_location_file, read_location_file
from alchemist_core.subsets.materialized import read_records
from alchemist_core.subsets.member_table import MemberLocation, MemberTable, first_64_bits
from alchemist_core.subsets.members import LocatedSubset, locate_remaining

Numbers = NDArray[np.int64]


def epoch_order(
    pair_hash64_N: NDArray[np.int64], *, seed: int, epoch: int, weight_N: NDArray[np.float64] | None = None
) -> Numbers:
    """Return the members in the order in which an epoch reads them; it is the same on every machine.

    >>> epoch_order(np.arange(4), seed=0, epoch=0).tolist(), epoch_order(np.arange(4), seed=0, epoch=1).tolist()
    ([1, 3, 2, 0], [2, 0, 3, 1])
    >>> epoch_order(np.arange(4), seed=0, epoch=0, weight_N=np.array([1.0, 1.0, 2.0, 1.0])).tolist()
    [1, 2, 3, 2, 0]

    Args:
        pair_hash64_N: First 64 bits of the members' hashes.
        seed: Seed of the order.
        epoch: Number of the epoch.
        weight_N: How often an epoch reads each member on average; None: once each.
    """
    own_seed = epoch_seed(seed, epoch)
    if weight_N is None:
        return np.argsort(mix64(Domain.SHUFFLE, own_seed, pair_hash64_N), kind="stable")
    read_N = reads_of_epoch(weight_N, pair_hash64_N, seed=seed, epoch=epoch)
    numbers = [np.flatnonzero(read_N > nth) for nth in range(int(read_N.max(initial=0)))]
    # The first reads are in the order that they have without weights; each further read has a place of its own.
    keys = [
        mix64(Domain.SHUFFLE, epoch_seed(own_seed, nth) if nth else own_seed, pair_hash64_N[number])
        for nth, number in enumerate(numbers)
    ]
    order: Numbers = np.concatenate([np.empty(0, np.int64), *numbers])
    return order[np.argsort(np.concatenate([np.empty(0, np.uint64), *keys]), kind="stable")]


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of one epoch."""
    return int(mix64(Domain.SHUFFLE, seed, np.array([epoch]))[0])


def rank_share(order_N: Numbers, reader: Reader) -> Numbers:
    """Return the members that one rank reads: each is read by exactly one rank, and the shares differ by at most one.

    >>> [rank_share(np.arange(5), Reader(rank, 2)).tolist() for rank in range(2)]
    [[0, 2, 4], [1, 3]]
    """
    return order_N[reader.rank :: reader.world_size]


def worker_share(number_M: Numbers, reader: Reader, *, worker: int, n_workers: int) -> Numbers:
    """Return the members that one worker of a rank's loader reads: whole batches in turn, as the loader requests them.

    Hence the loader returns the same batches with any number of workers.

    >>> worker_share(np.arange(7), Reader(batch_size=2), worker=1, n_workers=2).tolist()
    [2, 3, 6]
    """
    is_mine_M: NDArray[np.bool_] = np.arange(len(number_M)) // reader.batch_size % n_workers == worker
    return number_M[is_mine_M]


Sample = dict[str, Any]
_GROUP, _N_GROUPS_AHEAD = 32, 8
# An object store answers slowly, but many requests at a time.
_N_FILE_THREADS, _N_OBJECT_THREADS = 4, 32


def read_ahead(members: MemberTable, index_K: NDArray[np.int64]) -> Iterator[Sample]:
    """Yield members in the order given, in webdataset's form (`__key__`, `__url__`, bytes by extension) with pair_hash and rank.

    The bytes of every member are compared with what ingest registered, then repaired if ingest repaired them.

    Raises:
        DataError: A source is missing, or holds other bytes.
    """
    n_threads = _N_OBJECT_THREADS if any(map(is_s3, members.uris)) else _N_FILE_THREADS
    n_ahead = max(_N_GROUPS_AHEAD, n_threads)
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="read-ahead")
    reading: deque[Future[list[Sample]]] = deque()
    try:
        for start in range(0, len(index_K), _GROUP):
            reading.append(pool.submit(_read_group, members, index_K[start : start + _GROUP]))
            if len(reading) > n_ahead:
                yield from reading.popleft().result()
        while reading:
            yield from reading.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read_group(members: MemberTable, index_K: NDArray[np.int64]) -> list[Sample]:
    records = members.rows(index_K)
    return [_as_sample(found) for found in zip(records, read_records(records), strict=True)]


def _as_sample(found: tuple[MemberLocation, list[memoryview]]) -> Sample:
    record, parts = found
    return {
        "__key__": record.key,
        "__url__": record.uri,
        **repair_sample({ext: bytes(data) for ext, data in zip(record.exts, parts, strict=True)}, record.repair),
        "pair_hash": record.pair_hash,
        "rank": record.rank,
    }


def crop_to_bucket(sample: Sample) -> Sample:
    """Add the pixels of a sample's image as `image` (H W 3, RGB): scaled to cover its bucket, and cropped in the middle.

    Meant as `transform` of a dataset with buckets.
    """
    width, height = sample["bucket"]
    data = next(sample[ext] for ext in sample if ext in IMAGE_EXTS)
    return sample | {"image": decode_covering(data, width, height)}


State = dict[str, Any]


class SubsetDataset(IterableDataset[Any]):
    """Yields the members of a subset version once per epoch, in an order that depends on the seed and the epoch.

    If the version repeats or weights its members (`select --fill repeat`, `--weight-by rank`), an epoch yields each as often as its
    weight says, rounded up or down by chance, and as many samples in all as the version's epoch has.

    Samples that were taken down are skipped; `n_taken_down` counts them. Call `set_epoch` before every epoch, as with torch's
    DistributedSampler. Ranks may differ by one sample, because no sample is repeated to make them equal.

    With `buckets` it yields batches: lists of samples of one bucket, which each sample has as `bucket` (width, height). The loader then
    gets `batch_size=None`. Every sample is still read once per epoch, so the last batch of a bucket may be smaller.

    Args:
        subset: Name of the subset, or the address of a file that `alchemist export locations` wrote (a path or `s3://`, ending in
            `.parquet`), which is read without Postgres; or its located members.
        version: Version number. None means the published version, or the newest if none is published; the choice is printed.
        seed: Seed of the order.
        reader: The share and the batch size of this process. None means its rank in torch's process group, and batch size 1.
        transform: Function applied to each sample in the worker that read it.
        shuffle: For sources that answer slowly, such as object stores: a shuffle by blocks of neighbours with a buffer. None: any
            order is equally likely, and each member is fetched by itself. It does not combine with `buckets`, which choose their order.
        buckets: Sizes to which the images are to be cropped, which decide about the batches; nothing is decoded unless the transform does
            it, such as `crop_to_bucket`. None: single samples of any shape.

    Raises:
        ConfigError: The version does not exist, or was withdrawn; the message says why and what to use.
        DataError: A member that was not taken down has no live location.
    """

    def __init__(  # noqa: PLR0913  each is a choice of the training loop
        self,
        subset: str | LocatedSubset,
        *,
        version: int | None = None,
        seed: int = 0,
        reader: Reader | None = None,
        transform: Callable[[Sample], Any] | None = None,
        shuffle: BlockShuffle | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        if shuffle is not None and buckets is not None:
            raise ValueError("shuffle and buckets do not combine: buckets choose the order of their batches.")
        located = subset
        if isinstance(located, str):
            located = _locate(located, version, has_sizes=buckets is not None, has_places=shuffle is not None)
        self.reader = reader or _this_process()
        self._members, self._seed, self._transform = located.members, seed, transform
        self._pair_hash64_N = first_64_bits(located.manifest.pair_hash_K32)
        self._weight_N = located.manifest.weight_K
        # A member's row in the table, or -1 if it was taken down. The order covers all members, so that a takedown moves no other member.
        self._row_N = np.full(len(located.manifest), -1, np.int64)
        self._row_N[located.members.numbers()] = np.arange(len(located.members))
        self.n_taken_down = int((self._row_N < 0).sum())
        self._members_sha256 = located.manifest.sha256()
        self._shuffle, self._place_N = shuffle, located.place_N
        self._shuffle_hash = None if shuffle is None or self._place_N is None else shuffle.fingerprint(self._place_N)
        self._blocks = None if shuffle is None else _open_blocks(shuffle, located)
        self._buckets = buckets
        self._assigned = None if buckets is None else _assign(buckets, located)
        # Shared memory, because persistent workers have their own copy of everything else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it without types
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch from its beginning."""
        self._epoch.fill_(epoch)
        self._resume = _Place(epoch, taken_down=np.flatnonzero(self._row_N < 0).tolist())
        self._n_read = 0

    def __len__(self) -> int:
        """Return the number of samples that this rank reads in the epoch; with buckets, the number of batches."""
        if self._assigned is not None:
            return sum(bool(self._is_live(part).any()) for part in self._batches(self._resume))
        return int((self._row_N[self._rank_numbers()] >= 0).sum())

    def __iter__(self) -> Iterator[Any]:
        """Read this worker's share of the epoch, from the current position."""
        if (epoch := int(self._epoch)) != self._resume.epoch:
            self.set_epoch(epoch)
        worker = get_worker_info()
        number, n_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        place, self._n_read = self._resume, self._resume.n_read
        if place.n_read and place.n_workers != n_workers:
            raise DataError(
                f"The state was saved with {place.n_workers} workers, not with {n_workers}. "
                f"Give the loader num_workers={place.n_workers}."
            )
        self._resume = replace(place, n_workers=n_workers)
        if self._assigned is not None:
            yield from self._read_batches(self._batches(place)[number::n_workers][place.n_read :], self._assigned)
            return
        number_K = worker_share(self._planned(place), self.reader, worker=number, n_workers=n_workers)[place.n_read :]
        # Samples taken down since the state was saved are skipped, but keep their turn in the order.
        is_live_K = self._row_N[number_K] >= 0
        n_read_of_sample = (place.n_read + 1 + np.flatnonzero(is_live_K)).tolist()
        row_K = self._row_N[number_K[is_live_K]]
        samples = (
            read_ahead(self._members, row_K) if self._blocks is None else map(_as_sample, self._blocks.read(row_K))
        )
        for self._n_read, sample in zip(n_read_of_sample, samples, strict=True):
            yield sample if self._transform is None else self._transform(sample)

    def _read_batches(self, batches: list[Numbers], assigned: Assigned) -> Iterator[list[Any]]:
        """Read batches; those of which every sample was taken down since the state was saved are left out."""
        first = self._n_read
        live = [part[self._is_live(part)] for part in batches]
        samples = read_ahead(self._members, self._row_N[np.concatenate(live)] if live else np.empty(0, np.int64))
        for n_before, part in enumerate(live):
            batch = []
            for number, sample in zip(part.tolist(), samples, strict=False):
                sample["bucket"] = assigned.sizes[assigned.bucket_N[number]]
                batch.append(sample if self._transform is None else self._transform(sample))
            self._n_read = first + n_before + 1
            if batch:
                yield batch

    def _is_live(self, number_M: Numbers) -> NDArray[np.bool_]:
        return self._row_N[number_M] >= 0

    def _batches(self, place: "_Place") -> list[Numbers]:
        """Return the batches of this rank from a position on. They do not depend on what was taken down since the epoch began."""
        assert self._assigned is not None
        order_N = self._order(place.epoch)
        order_N = order_N[~np.isin(order_N, place.taken_down)]
        seed = epoch_seed(self._seed, place.epoch)
        return plan_batches(order_N, self._assigned.bucket_N, self.reader, seed=seed).parts()[place.start :]

    def state_dict(self) -> State:
        """Return the position of this process. torchdata's StatefulDataLoader calls it in each worker."""
        return self._state(replace(self._resume, n_read=self._n_read))

    def state_after(self, n_samples: int) -> State:
        """Return the position after this rank received `n_samples` since the start of the epoch or the loaded state.

        For loaders without a state of their own: workers read ahead, so that only the training loop knows what arrived.

        Raises:
            DataError: With buckets, the samples are not whole batches.
        """
        place = self._resume
        if not n_samples:
            return self._state(place)
        if self._assigned is not None:
            sizes = [int(self._is_live(part).sum()) for part in self._batches(place)[place.n_read :]]
            (ends,) = np.nonzero(np.cumsum(sizes) == n_samples)
            if not len(ends):
                raise DataError(f"{n_samples} samples are not a number of whole batches. Save the state after a batch.")
            return self._state(replace(place, start=place.start + place.n_read + int(ends[0]) + 1, n_read=0))
        number_M = self._rank_numbers()[place.start :]
        coming_M = np.flatnonzero(~np.isin(number_M, place.taken_down))[place.n_read :]
        had_M = coming_M[self._row_N[number_M[coming_M]] >= 0][:n_samples]
        return self._state(replace(place, start=place.start + int(had_M[-1]) + 1, n_read=0))

    def load_state_dict(self, state: State) -> None:
        """Resume from a saved position.

        Raises:
            DataError: The position belongs to another subset, order or share.
        """
        about = self._about()
        if wrong := [name for name, value in about.items() if state.get(name) != value]:
            raise DataError(
                f"The state is not of this dataset: its {wrong[0]} is {state.get(wrong[0])!r}, but {about[wrong[0]]!r} here."
            )
        self._resume = _Place(**{name: state[name] for name in _Place.__slots__})
        self._epoch.fill_(self._resume.epoch)
        if not self._resume.n_read and self._assigned is None:
            self._resume = replace(self._resume, taken_down=np.flatnonzero(self._row_N < 0).tolist())
        self._n_read = self._resume.n_read

    def _rank_numbers(self) -> Numbers:
        epoch = self._resume.epoch
        if self._shuffle is not None and self._place_N is not None:
            seed, reader = epoch_seed(self._seed, epoch), self.reader
            share = reader.rank, reader.world_size
            return self._shuffle.epoch_order(self._place_N, seed=seed, share=share, read_N=self._reads(epoch))
        return rank_share(self._order(epoch), self.reader)

    def _reads(self, epoch: int) -> Numbers | None:
        """Return how often an epoch reads each member; None: once."""
        if self._weight_N is None:
            return None
        return reads_of_epoch(self._weight_N, self._pair_hash64_N, seed=self._seed, epoch=epoch)

    def _order(self, epoch: int) -> Numbers:
        return epoch_order(self._pair_hash64_N, seed=self._seed, epoch=epoch, weight_N=self._weight_N)

    def _planned(self, place: "_Place") -> Numbers:
        number_M = self._rank_numbers()[place.start :]
        return number_M[~np.isin(number_M, place.taken_down)]

    def _about(self) -> State:
        about = {"members": self._members_sha256, "seed": self._seed, **asdict(self.reader)}
        if self._shuffle_hash is not None:
            about["shuffle"] = self._shuffle_hash
        return about if self._buckets is None else about | {"buckets": self._buckets.fingerprint()}

    def _state(self, place: "_Place") -> State:
        return {**self._about(), **asdict(place)}


@dataclass(frozen=True, slots=True)
class _Place:
    """A position: `start` members of the rank's epoch were read, then `n_read` of one worker's share; with buckets, batches.

    `taken_down` lists the members that were left out when the workers' shares were computed.
    """

    epoch: int
    start: int = 0
    n_read: int = 0
    n_workers: int = 1
    taken_down: list[int] = field(default_factory=list)


def _assign(buckets: Buckets, located: LocatedSubset) -> Assigned:
    if located.size_N2 is None:
        raise ValueError("Buckets need the sizes of the images: locate_remaining(…, has_sizes=True).")
    return buckets.assign(*located.size_N2.T.astype(np.int64))


def _open_blocks(shuffle: BlockShuffle, located: LocatedSubset) -> BlockReader:
    if located.place_N is None:
        raise ValueError("A shuffle by blocks needs the order of the members: locate_remaining(…, has_places=True).")
    block_N = located.place_N[located.members.numbers()] // shuffle.block
    return BlockReader(located.members, block_N, own_block_cache(shuffle.most_bytes))


def _locate(name: str, version: int | None, *, has_sizes: bool, has_places: bool) -> LocatedSubset:
    if is_location_file(name):
        if version is not None:
            raise ConfigError(f"{name} is a file of one version. Leave out version={version}.")
        return read_location_file(name)
    engine = open_store()
    try:
        chosen = choose_version(engine, name, version=version)
        return locate_remaining(engine, chosen, has_sizes=has_sizes, has_places=has_places)
    finally:
        # Workers are forked from this process, and must not inherit its connections.
        engine.dispose()


def _this_process() -> Reader:
    if distributed.is_available() and distributed.is_initialized():
        return Reader(distributed.get_rank(), distributed.get_world_size())
    return Reader()
