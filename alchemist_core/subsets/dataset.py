"""A subset version as a torch dataset that reads byte ranges from the source tars, ahead of the loop, and resumes exactly.

Batches are the same with any number of workers. With buckets, the dataset yields batches of images of one shape itself. From top to
bottom: the order of an epoch and its shares, reading ahead, the dataset. Letters: N members of the subset · M that one rank reads · K
that one worker reads.
"""

import inspect
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
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
    rank, world_size = reader.share
    return order_N[rank::world_size]


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

    Samples that were taken down before the dataset was created are skipped; `n_taken_down` counts them. To leave out one that is taken
    down later, create the dataset again and load the state. Call `set_epoch` before every epoch, as with torch's DistributedSampler, also
    before one that is resumed. Ranks may have different numbers of batches, because no sample is repeated to make them equal, and
    samples that were taken down belong to one rank: end their loops together, for example with torch's `Join`.

    With `buckets` it yields batches: lists of samples of one bucket, which each sample has as `bucket` (width, height). The loader then
    gets `batch_size=None`. Every sample is still read once per epoch, so the last batch of a bucket may be smaller.

    Args:
        subset: Name of the subset, or the address of a file that `alchemist export locations` wrote (a path or `s3://`, ending in
            `.parquet`), which is read without Postgres; or its located members.
        version: Version number. None means the published version, or the newest if none is published; the choice is printed.
        seed: Seed of the order.
        reader: The share of this process, by default its rank in torch's process group, and with buckets its batch size, by default 1.
            Without buckets, the batch size is that of the loader, which takes single samples: a dataset around this one that makes
            batches itself cannot be resumed exactly with several workers.
        transform: Function applied to each sample in the worker that read it; it returns one sample.
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
        self.reader = _of_this_process(reader or Reader())
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
        # The number of the position, and whether it was loaded and no epoch was set since.
        self._shared, self._awaits_epoch = _Shared(), False
        self._nth = self._shared.add_position(is_loaded=False)
        self._begin(0)

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch: from the position in it that was loaded before, else from its beginning.

        Raises:
            DataError: The loaded position is in another epoch, so that samples would be read twice or not at all.
        """
        place = self._resume
        is_unread = self._nth == int(self._shared.loaded) > int(self._shared.begun)
        is_resumed = (self._awaits_epoch or is_unread) and epoch == place.epoch
        if not is_resumed and ((self._awaits_epoch and epoch < place.epoch) or (is_unread and self._n_left())):
            unit = "samples" if self._assigned is None else "batches"
            raise DataError(
                f"The loaded state is of epoch {place.epoch}, of which {self._n_left()} {unit} are left, not of epoch {epoch}. "
                'Start with its epoch: for epoch in range(state["epoch"], …).'
            )
        self._awaits_epoch, self._nth = False, self._shared.add_position(is_loaded=is_resumed)
        if not is_resumed:
            self._begin(epoch)

    def _begin(self, epoch: int) -> None:
        self._shared.epoch.fill_(epoch)
        self._resume = self._start_of(epoch)
        self._n_read = 0

    def _start_of(self, epoch: int) -> "_Place":
        return _Place(epoch, taken_down=self._gone())

    def _gone(self) -> list[int]:
        """Return the members that were taken down."""
        gone: list[int] = np.flatnonzero(self._row_N < 0).tolist()
        return gone

    def _n_left(self) -> int:
        """Return the number of samples from the position to the end of the epoch; with buckets, of batches."""
        place = self._resume
        if self._assigned is not None:
            return sum(bool(self._is_live(part).any()) for part in list(self._batches(place).values())[place.n_read :])
        return int(self._is_live(self._planned(place)[place.n_read :]).sum())

    def __len__(self) -> int:
        """Return the number of samples that this rank reads in the epoch; with buckets, the number of batches."""
        if self._assigned is not None:
            whole = replace(self._resume, start=0, gone_since=[])
            return sum(bool(self._is_live(part).any()) for part in self._batches(whole).values())
        return int((self._row_N[self._rank_numbers()] >= 0).sum())

    def __iter__(self) -> Iterator[Any]:
        """Read this worker's share of the epoch, from the current position."""
        self._follow()
        worker = get_worker_info()
        number, n_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        batch_size = _loader_batch_size()
        self._shared.begin(self._nth, n_workers=n_workers if worker else 0, batch_size=batch_size or 0)
        self._resume = place = self._share_out(n_workers, batch_size)
        self._n_read = place.n_read
        share = partial(
            worker_share, reader=replace(self.reader, batch_size=place.at_a_time), worker=number, n_workers=n_workers
        )
        if self._assigned is not None:
            batches = list(self._batches(place).values())
            own = share(np.arange(len(batches)))[place.n_read :]
            yield from self._read_batches([batches[at] for at in own.tolist()], self._assigned)
            return
        number_K = share(self._planned(place))[place.n_read :]
        # Samples taken down since the state was saved are skipped, but keep their turn in the order.
        is_live_K = self._row_N[number_K] >= 0
        n_read_of_sample = (place.n_read + 1 + np.flatnonzero(is_live_K)).tolist()
        row_K = self._row_N[number_K[is_live_K]]
        samples = (
            read_ahead(self._members, row_K) if self._blocks is None else map(_as_sample, self._blocks.read(row_K))
        )
        for n_taken, (self._n_read, sample) in enumerate(zip(n_read_of_sample, samples, strict=True), 1):
            if not number:
                self._shared.take(n_taken)
            yield sample if self._transform is None else self._transform(sample)

    def _follow(self) -> None:
        """Go to the position that the training loop has set since this copy of the dataset was made for a persistent worker."""
        if self._is_behind():
            self._nth = int(self._shared.position)
            self._begin(int(self._shared.epoch))

    def _is_behind(self) -> bool:
        nth, epoch = int(self._shared.position), int(self._shared.epoch)
        if (nth, epoch) == (self._nth, self._resume.epoch):
            return False
        if self._nth != nth == int(self._shared.loaded):
            raise DataError(
                "The state was loaded after the persistent workers of the loader had started. Load it before the loader's first "
                "batch, or make another loader."
            )
        return True

    def _share_out(self, n_workers: int, batch_size: int | None) -> "_Place":
        """Return the position, with how the loader divides what follows: for a position within a worker's share, as before.

        Raises:
            DataError: The loader has other workers or batches than the one whose worker saved the position.
        """
        place = self._resume
        at_a_time = batch_size or (self.reader.batch_size if self._assigned is None else 1)
        if n_workers == 1:
            # A single worker reads everything in order.
            at_a_time = 1
        if place.n_read and (place.n_workers, place.at_a_time) != (n_workers, at_a_time):
            raise DataError(
                f"The state was saved with {place.n_workers} workers and batches of {place.at_a_time}, not with {n_workers} and "
                f"{at_a_time}. Give the loader num_workers={place.n_workers} and batch_size={place.at_a_time}."
            )
        return replace(place, n_workers=n_workers, at_a_time=at_a_time)

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

    def _batches(self, place: "_Place") -> dict[int, Numbers]:
        """Return the batches of this rank from a position on, by their number in the epoch.

        Their numbers and members do not depend on what was taken down since the epoch began. Batches of which nothing was left when the
        position was loaded are no worker's turn, so that the loader returns the others in order.
        """
        assert self._assigned is not None
        order_N = self._order(place.epoch)
        order_N = order_N[~np.isin(order_N, place.taken_down)]
        seed = epoch_seed(self._seed, place.epoch)
        parts = plan_batches(order_N, self._assigned.bucket_N, self.reader, seed=seed).parts()
        is_gone_N = np.zeros(len(self._row_N), np.bool_)
        is_gone_N[place.gone_since] = True
        return {at: parts[at] for at in range(place.start, len(parts)) if not is_gone_N[parts[at]].all()}

    def state_dict(self) -> State:
        """Return the position of this process. torchdata's StatefulDataLoader calls it in each worker.

        Raises:
            DataError: Workers read, and this is not one of them.
        """
        if int(self._shared.n_workers) and get_worker_info() is None:
            raise DataError(
                "The workers of the loader read ahead, so that the dataset cannot know which samples have arrived. "
                "Save dataset.state_after(n_samples)."
            )
        if get_worker_info() is not None and self._is_behind():
            # torchdata asks a persistent worker for its state before the worker begins the epoch.
            return self._state(self._start_of(int(self._shared.epoch)))
        return self._state(replace(self._resume, n_read=self._n_read))

    def state_after(self, n_samples: int) -> State:
        """Return the position after this rank received `n_samples` since the last `set_epoch` or `load_state_dict`.

        For loaders without a state of their own: workers read ahead, so that only the training loop knows what arrived. The loader
        returns batches in order, which is torch's default.

        Args:
            n_samples: Number of samples that the loader took for the batches that arrived.

        Raises:
            DataError: The samples are not whole batches, or cannot have arrived.
        """
        place = self._resume
        if not n_samples:
            return self._state(place)
        if self._assigned is not None:
            batches = list(self._batches(place).items())[place.n_read :]
            sizes = [int(self._is_live(part).sum()) for _, part in batches]
            (ends,) = np.nonzero(np.cumsum(sizes) == n_samples)
            if not len(ends):
                raise DataError(f"{n_samples} samples are not a number of whole batches. Save the state after a batch.")
            return self._state(replace(place, start=batches[ends[0]][0] + 1, n_read=0))
        number_M = self._rank_numbers()[place.start :]
        coming_M = np.flatnonzero(~np.isin(number_M, place.taken_down))[place.n_read :]
        live_M = coming_M[self._is_live(number_M[coming_M])]
        self._check_count(n_samples, n_left=len(live_M))
        return self._state(replace(place, start=place.start + int(live_M[n_samples - 1]) + 1, n_read=0))

    def _check_count(self, n_samples: int, *, n_left: int) -> None:
        most, batch_size = n_left, 0
        if self._nth == int(self._shared.begun):
            # The first worker is the first to deliver, and never has fewer samples than another one.
            most = min(n_left, int(self._shared.n_taken) * max(int(self._shared.n_workers), 1))
            batch_size = int(self._shared.batch_size)
        if n_samples > most:
            raise DataError(
                f"{n_samples} samples cannot have arrived: at most {most} were read since the last set_epoch or load_state_dict. "
                "Count from 0 there."
            )
        if batch_size and n_samples % batch_size and n_samples != n_left:
            raise DataError(
                f"{n_samples} samples are not whole batches of {batch_size}. Count all samples that the loader took, also those "
                "that its collate_fn left out."
            )

    def load_state_dict(self, state: State) -> None:
        """Resume from a saved position. Load it before the loader's first batch, and then begin with `set_epoch(state["epoch"])`.

        Raises:
            DataError: The position belongs to another subset, order or share.
        """
        about = self._about()
        if wrong := [name for name, value in about.items() if state.get(name) != value]:
            is_other = wrong[0] == "members"
            raise DataError(
                f"The state is not of this dataset: its {wrong[0]} is {state.get(wrong[0])!r}, but {about[wrong[0]]!r} here."
                + is_other * " It was saved with another version; give its number: SubsetDataset(…, version=…)."
            )
        if "at_a_time" not in state and self._assigned is None and state.get("n_workers", 1) > 1:
            # Saved in a worker by version 0.1, which divided samples by the reader's batch size.
            state = {**state, "at_a_time": state["batch_size"]}
        self._resume = _Place(**{name: state[name] for name in _Place.__slots__ if name in state})
        self._shared.epoch.fill_(self._resume.epoch)
        # The states of a loader's workers are theirs alone, and agree about what was left out when the shares were computed.
        if get_worker_info() is None:
            self._awaits_epoch, self._nth = True, self._shared.add_position(is_loaded=True)
            if not self._resume.n_read and self._assigned is None:
                self._resume = replace(self._resume, taken_down=self._gone())
            elif not self._resume.n_read:
                self._resume = replace(self._resume, gone_since=self._gone())
        self._n_read = self._resume.n_read

    def _rank_numbers(self) -> Numbers:
        epoch = self._resume.epoch
        if self._shuffle is not None and self._place_N is not None:
            seed, reader = epoch_seed(self._seed, epoch), self.reader
            return self._shuffle.epoch_order(self._place_N, seed=seed, share=reader.share, read_N=self._reads(epoch))
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

    The share is of a loader with `n_workers` that takes `at_a_time` samples from each in turn; with buckets, batches. `taken_down` lists
    the members that were left out when the shares were computed. With buckets it lists those that were left out when the batches were
    made, and `gone_since` those that were missing when the shares were computed.
    """

    epoch: int
    start: int = 0
    n_read: int = 0
    n_workers: int = 1
    at_a_time: int = 1
    taken_down: list[int] = field(default_factory=list)
    gone_since: list[int] = field(default_factory=list)


class _Shared:
    """What a dataset and its copies in the loader's workers know of each other, in shared memory.

    Persistent workers learn nothing else. Positions are numbered in the order in which `set_epoch` and `load_state_dict` set them.
    """

    def __init__(self) -> None:
        numbers = torch.zeros(7, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it without types
        # The epoch; the last position, the last one that was loaded, and the last one that a reader began with.
        self.epoch, self.position, self.loaded, self.begun = numbers[:4].unbind()
        # Of the readers of the last position: the workers, if it is workers that read; how many samples the loader takes at a time, 0 if
        # unknown; and how many the first worker has read.
        self.n_workers, self.batch_size, self.n_taken = numbers[4:].unbind()

    def add_position(self, *, is_loaded: bool) -> int:
        """Return the number of a new position."""
        nth = int(self.position.add_(1))
        if is_loaded:
            self.loaded.fill_(nth)
        for value in (self.n_workers, self.batch_size, self.n_taken):
            value.zero_()
        return nth

    def begin(self, nth: int, *, n_workers: int, batch_size: int) -> None:
        """Note that a reader begins with a position, unless the training loop has set another one since.

        The training loop may also look at a few samples while its workers read.
        """
        if nth != int(self.position):
            return
        is_first = int(self.begun) < nth
        self.batch_size.fill_(batch_size if is_first or batch_size == int(self.batch_size) else 0)
        self.n_workers.fill_(max(n_workers, int(self.n_workers)))
        self.begun.fill_(nth)

    def take(self, n_taken: int) -> None:
        """Note how many samples the first worker has read."""
        if n_taken > int(self.n_taken):
            self.n_taken.fill_(n_taken)


def _loader_batch_size() -> int | None:
    """Return how many samples the loader takes at a time from the dataset that is being read, or None if it is not torch's.

    The order in which the samples of several workers arrive depends on it. torch tells a dataset the number of workers, but the batch
    size only to the loader's fetcher, which is one of the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if (name := "possibly_batched_index") in frame.f_code.co_varnames:
            index = frame.f_locals[name]
            return 1 if index is None else len(index)
        frame = frame.f_back
    return None


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


def _of_this_process(reader: Reader) -> Reader:
    """Return a reader with the rank and the number of ranks of torch's process group, if it has none of its own."""
    rank, world_size = reader.share
    if reader.rank is None and distributed.is_available() and distributed.is_initialized():
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
    return replace(reader, rank=rank, world_size=world_size)
