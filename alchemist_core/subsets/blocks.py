"""Reading a subset block by block: neighbours of a source tar are fetched by one request, kept in a bounded cache, and mixed by a buffer.

A block is a number of members that are neighbours in their source. In each epoch the blocks come in another random order, and each member
is moved back by up to `buffer` places, so that a batch mixes the members of many blocks. The order depends on nothing but the seed, the
epoch and the members, like that of a full shuffle.

From top to bottom: the order, the cache on the disk, the reader. Letters: N members of the subset · M that one rank reads · K that one
worker reads · B blocks.
"""

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alchemist_core.errors import DataError
from alchemist_core.files import BLOCK_CACHE, artifact_path, atomic_write, shrink
from alchemist_core.selection.keys import Domain, mix64, uniform_noise
from alchemist_core.shards.storage import read_into
from alchemist_core.subsets.member_table import MemberLocation, MemberTable
from alchemist_core.subsets.tar_copies import check_record

Numbers = NDArray[np.int64]
MOST_BYTES = 1 << 33
"""Size of the cache, 8 GiB."""
_N_AHEAD = 16
_MOST_APART = 1 << 14
"""Reads between two of one block for which the block is kept: two buffers of the default."""
# Blocks are written without fsync, so that a power cut can leave an empty file, which mmap refuses with a ValueError.
_UNREADABLE = (OSError, ValueError)


@dataclass(frozen=True, slots=True)
class BlockShuffle:
    """A shuffle for sources that answer slowly, such as object stores: almost as many samples per second as in source order.

    Args:
        block: Members that are read together.
        buffer: Places by which a member may be moved back. The members of a block are spread over so many places, so that a batch of
            B holds about B * block / buffer other members of the block of one of its members.
        most_bytes: Size of the cache on the disk, which the loader's workers and other processes of the machine share. It should hold
            the members of two buffers.
    """

    block: int = 64
    buffer: int = 8_192
    most_bytes: int = MOST_BYTES

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        if self.block < 1 or self.buffer < 0:
            raise ValueError(f"block {self.block} and buffer {self.buffer} must be at least 1 and 0")

    def fingerprint(self, place_N: Numbers) -> str:
        """Return a hash of all that determines the order in an epoch beside its seed."""
        digest = hashlib.sha256(f"{self.block} {self.buffer} ".encode())
        digest.update(np.ascontiguousarray(place_N).data)
        return digest.hexdigest()[:16]

    def epoch_order(
        self, place_N: Numbers, *, seed: int, share: tuple[int, int] = (0, 1), read_N: Numbers | None = None
    ) -> Numbers:
        """Return the members that one rank reads in an epoch, in their order. Ranks read different blocks.

        Args:
            place_N: Each member's place in the order of the sources, from 0.
            seed: Seed of the epoch.
            share: Number of the rank, and of ranks. The shares differ by at most one read.
            read_N: How often the epoch reads each member; None: once. A rank repeats its members in further passes over its blocks.

        >>> BlockShuffle(block=2, buffer=0).epoch_order(np.arange(6), seed=1).tolist()
        [4, 5, 0, 1, 2, 3]
        """
        by_place_N = np.empty(len(place_N), np.int64)
        by_place_N[place_N] = np.arange(len(place_N))
        order_B = mix64(Domain.BLOCKS, seed, np.arange(-(-len(place_N) // self.block)))
        turn_B = np.empty(len(order_B), np.int64)
        turn_B[np.argsort(order_B, kind="stable")] = np.arange(len(order_B))
        once_N = by_place_N[np.argsort(turn_B[np.arange(len(place_N)) // self.block], kind="stable")]
        n_reads_N = np.ones(len(once_N), np.int64) if read_N is None else read_N[once_N]
        end_N = np.cumsum(n_reads_N)
        rank, n_ranks = share
        start, stop = (int(end_N[-1]) * edge // n_ranks if len(end_N) else 0 for edge in (rank, rank + 1))
        # The reads of a member at the edge of two shares are divided between both.
        own_N = np.clip(end_N, start, stop) - np.clip(end_N - n_reads_N, start, stop)
        passes = [once_N[own_N > nth] for nth in range(int(own_N.max(initial=0)))]
        order_M = np.concatenate([np.empty(0, np.int64), *passes])
        # The noise belongs to the turn, not to the member, which may be read several times.
        turn_M = np.arange(start, stop)
        moved_M = self.buffer * uniform_noise(Domain.BUFFER, seed, turn_M)
        return order_M[np.argsort(turn_M + moved_M, kind="stable")]


# --- The cache on the disk ----------------------------------------------------------------------------------------------------


class BlockCache:
    """Blocks as files; the least recently used are deleted. Processes share the folder, and a block is fetched by one of them.

    Args:
        folder: Folder of the files.
        most_bytes: Most bytes that are kept.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        # Enough to measure the folder at the first block, because an earlier process may have filled it.
        self._n_added_bytes = most_bytes

    def load(self, records: Sequence[MemberLocation]) -> memoryview:
        """Return the bytes of the files of some records, one after another; fetches them if no process has done so.

        Raises:
            DataError: A source is missing or too short.
        """
        path = self._path(records)
        with suppress(*_UNREADABLE):
            return _map(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            # A disk that is full or read-only costs other processes their own request.
            return _fetch(records)
        try:
            # The system releases it when a process dies.
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(*_UNREADABLE):
                return _map(path)
            data = _fetch(records)
            self._keep(path, data)
            # The file's pages belong to all processes.
            with suppress(*_UNREADABLE):
                return _map(path)
            return data
        finally:
            os.close(lock)

    def forget(self, records: Sequence[MemberLocation]) -> None:
        """Delete a block, for example because the disk returned other bytes than were written."""
        self._path(records).unlink(missing_ok=True)

    def _path(self, records: Sequence[MemberLocation]) -> Path:
        """Return a path that depends on all that determines the bytes of a block: other members or locations are another block."""
        digest = hashlib.sha256()
        for record in records:
            digest.update(record.pair_hash + repr((record.uri, record.offsets, record.sizes)).encode())
        name = digest.hexdigest()[:32]
        return self._folder / name[:2] / f"{name}.block"

    def _keep(self, path: Path, data: memoryview) -> None:
        """Keep a block; without room on the disk it is not kept."""
        with suppress(OSError):
            with atomic_write(path, is_durable=False) as partial:
                partial.write_bytes(data)
            # A process that waits for the lock then finds the block; a later one needs no lock.
            path.with_suffix(".lock").unlink(missing_ok=True)
        # Threads may count over each other: the bound is approximate, and the next measurement is exact.
        self._n_added_bytes += len(data)
        if self._n_added_bytes > self._most_bytes // 20:
            self._n_added_bytes = 0
            shrink(self._folder.glob("*/*.block"), self._most_bytes)


def own_block_cache(most_bytes: int = MOST_BYTES) -> BlockCache:
    """Return the cache among the artifacts of the home."""
    return BlockCache(artifact_path(BLOCK_CACHE), most_bytes)


def _map(path: Path) -> memoryview:
    """Return the bytes of a block, and note the time of this use. A block that is deleted meanwhile stays readable."""
    with path.open("rb") as file:
        os.utime(path)
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _fetch(records: Sequence[MemberLocation]) -> memoryview:
    data = memoryview(bytearray(sum(sum(record.sizes) for record in records)))
    runs: dict[str, list[tuple[int, memoryview]]] = {}
    at = 0
    for record in records:
        for offset, size in zip(record.offsets, record.sizes, strict=True):
            runs.setdefault(record.uri, []).append((offset, data[at : at + size]))
            at += size
    for uri, wanted in runs.items():
        read_into(uri, wanted)
    return data


# --- The reader ---------------------------------------------------------------------------------------------------------------


class BlockReader:
    """Reads members in any order, from blocks that are fetched before they are needed.

    A block is let go after its last member, and also where the next one is far away, as in a further pass over the members: it is then
    loaded again, from the cache if it is still there.

    Args:
        members: The members.
        block_N: Block of each row of the table.
        cache: Where blocks are kept.
    """

    def __init__(self, members: MemberTable, block_N: Numbers, cache: BlockCache) -> None:
        self._members, self._block_N, self._cache = members, block_N, cache
        # In the order of the sources, so that the bytes of a block are fetched by few requests.
        self._row_N = np.lexsort((members.first_offsets(), members.table.column("source").to_numpy(), block_N))
        self._start_B = np.searchsorted(block_N[self._row_N], np.arange(int(block_N.max(initial=-1)) + 2))

    def read(self, index_K: Numbers) -> Iterator[tuple[MemberLocation, list[memoryview]]]:
        """Yield members and the bytes of their files in the order given.

        Raises:
            DataError: A source is missing, or holds other bytes.
        """
        block_K = self._block_N[index_K]
        visit_K, first_V = _visits(block_K)
        coming = iter(np.argsort(first_V).tolist())
        n_left = np.bincount(visit_K).tolist()
        pool = ThreadPoolExecutor(_N_AHEAD, thread_name_prefix="blocks")
        loading: dict[int, Future[_Block]] = {}

        def load(visit: int) -> None:
            loading[visit] = pool.submit(self._load, int(block_K[first_V[visit]]))

        try:
            for visit in islice(coming, _N_AHEAD):
                load(visit)
            for place, (row, visit) in enumerate(zip(index_K.tolist(), visit_K.tolist(), strict=True)):
                if place == first_V[visit] and (later := next(coming, None)) is not None:
                    load(later)
                yield self._read(loading[visit].result(), row)
                n_left[visit] -= 1
                if not n_left[visit]:
                    del loading[visit]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, block: int) -> "_Block":
        row_K = self._row_N[self._start_B[block] : self._start_B[block + 1]]
        records = self._members.rows(row_K)
        return _Block(row_K.tolist(), records, self._cache.load(records))

    def _read(self, block: "_Block", row: int) -> tuple[MemberLocation, list[memoryview]]:
        record, files = block.find(row)
        try:
            check_record(record, files)
        except DataError:
            # Either the source has other bytes, or the disk has damaged the block: the source decides.
            self._cache.forget(block.records)
            block.data = _fetch(block.records)
            record, files = block.find(row)
            check_record(record, files)
        return record, files


class _Block:
    """The records of a block, and their bytes."""

    def __init__(self, rows: list[int], records: list[MemberLocation], data: memoryview) -> None:
        self.records, self.data = records, data
        self._place = {row: place for place, row in enumerate(rows)}
        self._starts = list(accumulate((sum(record.sizes) for record in records), initial=0))

    def find(self, row: int) -> tuple[MemberLocation, list[memoryview]]:
        """Return a record and the bytes of its files."""
        place = self._place[row]
        record = self.records[place]
        edges = list(accumulate(record.sizes, initial=self._starts[place]))
        return record, [self.data[start:stop] for start, stop in pairwise(edges)]


def _visits(block_K: Numbers) -> tuple[Numbers, Numbers]:
    """Number the visits to blocks: reads of one block that are near each other. Return the visit of each read, and its first read.

    >>> visit_K, first_V = _visits(np.array([5, 3, 5]))
    >>> visit_K.tolist(), first_V.tolist()
    ([1, 0, 1], [1, 0])
    """
    place_K = np.argsort(block_K, kind="stable")
    is_new_K = np.ones(len(block_K), bool)
    is_new_K[1:] = (np.diff(block_K[place_K]) != 0) | (np.diff(place_K) > _MOST_APART)
    visit_K = np.empty(len(block_K), np.int64)
    visit_K[place_K] = np.cumsum(is_new_K) - 1
    return visit_K, place_K[is_new_K]
