"""Located samples in a table on the disk: a million of them as Python objects takes 1.2 GB, in each process of a run.

Letters: N samples · M of them.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Literal, NamedTuple, overload

from alchemist_core.lazy import NDArray, np
from alchemist_core.settings import load_settings
from alchemist_core.store.manifests import HASH_BYTES, ROWS_A_PIECE


class LocatedSample(NamedTuple):
    """A sample with a location that can be read now: a row of the view `live_locations`."""

    sample_id: int
    pair_hash: bytes
    image_hash: bytes
    perceptual_hash: int | None
    caption: str
    dataset_id: int
    root_uri: str
    shard_id: int
    uri: str
    ordinal: int
    key: str
    file_exts: list[str]
    file_offsets: list[int]
    file_sizes: list[int]
    content_hash: bytes | None
    repair: str | None
    content_checksum: bytes | None = None


# What is read of all rows at once. A row's other values are before its end in the file of rows.
_COLUMNS = [
    ("pair_hash", f"V{HASH_BYTES}"), ("image_hash", f"V{HASH_BYTES}"), ("shard_id", "i8"), ("ordinal", "i8"), ("end", "i8")
]  # fmt: skip
_PACKED = struct.Struct(f"={HASH_BYTES}s{HASH_BYTES}sqqq")
_HASHES = ("pair_hash", "image_hash", "content_hash", "content_checksum")
# After so many reads a process lets the pages go. The kernel maps 64 KiB around each page that is read: at most 32 MiB of two files.
_READS_IN_MEMORY = 256


class _Files:
    """The rows and the columns of a table, mapped into memory."""

    def __init__(self, rows: BinaryIO, columns: BinaryIO) -> None:
        self._mapped = [_map(file) for file in (rows, columns)]
        self.rows, packed = self._mapped
        self.columns = np.frombuffer(packed, _COLUMNS) if packed else np.empty(0, _COLUMNS)
        self._n_read = 0

    def read(self, row: int) -> LocatedSample:
        self._n_read += 1
        if self._n_read % _READS_IN_MEMORY == 0:
            self.let_go()
        start, end = int(self.columns["end"][row - 1]) if row else 0, int(self.columns["end"][row])
        return _decode(self.rows[start:end])

    def let_go(self) -> None:
        """Stop counting the pages that were read as memory of this process. The kernel keeps them as long as it has room."""
        for mapped in self._mapped:
            if isinstance(mapped, mmap.mmap):
                mapped.madvise(mmap.MADV_DONTNEED)


class SampleTable(Sequence[LocatedSample]):
    """Located samples in two temporary files. `spool_samples` makes one; a slice is another one, in the same files."""

    def __init__(self, files: _Files, index_N: NDArray[np.int64] | None = None) -> None:
        self._files, self._index_N = files, index_N

    def __len__(self) -> int:
        return len(self._files.columns if self._index_N is None else self._index_N)

    @overload
    def __getitem__(self, at: int) -> LocatedSample: ...

    @overload
    def __getitem__(self, at: slice) -> SampleTable: ...

    def __getitem__(self, at: int | slice) -> LocatedSample | SampleTable:
        if isinstance(at, slice):
            return self.take(np.arange(*at.indices(len(self))))
        place = range(len(self))[at]
        row = place if self._index_N is None else int(self._index_N[place])
        return self._files.read(row)

    def __iter__(self) -> Iterator[LocatedSample]:
        return (self[at] for at in range(len(self)))

    def take(self, index_M: NDArray[np.int64]) -> SampleTable:
        """Return some rows, in the order of their indices."""
        index_M = index_M if self._index_N is None else self._index_N[index_M]
        return SampleTable(self._files, index_M)

    def hashes(self, name: Literal["pair_hash", "image_hash"]) -> NDArray[np.uint8]:
        """Return the hashes of all rows, as 32 bytes each."""
        hash_N: NDArray[np.uint8] = self._column(name).view(np.uint8).reshape(-1, HASH_BYTES)
        return hash_N

    def by_shard(self) -> list[NDArray[np.int64]]:
        """Return the indices of the rows of each shard, in the order in which their files lie in it."""
        shard_N, ordinal_N = self._column("shard_id"), self._column("ordinal")
        place_N = np.lexsort((ordinal_N, shard_N))
        return [] if not len(self) else np.split(place_N, np.flatnonzero(np.diff(shard_N[place_N])) + 1)

    def _column(self, name: str) -> NDArray[Any]:
        values = self._files.columns[name]
        column_N = np.empty(len(self), values.dtype)
        for start in range(0, len(self), ROWS_A_PIECE):
            piece = slice(start, start + ROWS_A_PIECE)
            column_N[piece] = values[piece if self._index_N is None else self._index_N[piece]]
            self._files.let_go()
        return column_N


def spool_samples(parts: Iterable[Iterable[Sequence[Any]]]) -> SampleTable:
    """Write rows to temporary files, which the system deletes when no process has them open, even after a kill.

    Args:
        parts: Rows with the values of a `LocatedSample`, some at a time.
    """
    home = load_settings().artifacts
    # Beside the artifacts, because the system's temporary folder may be in memory.
    folder, end = home if home.is_dir() else None, 0
    with TemporaryFile(dir=folder) as rows, TemporaryFile(dir=folder) as columns:
        for part in parts:
            for row in part:
                sample = LocatedSample._make(row)
                end += rows.write(_encode(sample))
                hashes = bytes(sample.pair_hash), bytes(sample.image_hash)
                columns.write(_PACKED.pack(*hashes, sample.shard_id, sample.ordinal, end))
        return SampleTable(_Files(rows, columns))


def _encode(sample: LocatedSample) -> bytes:
    """Return a row as JSON; hashes are hexadecimal."""
    values = (bytes(value).hex() if isinstance(value, bytes | memoryview) else value for value in sample)
    return json.dumps([*values]).encode()


def _decode(row: bytes) -> LocatedSample:
    values: dict[str, Any] = dict(zip(LocatedSample._fields, json.loads(row), strict=True))
    values |= {name: bytes.fromhex(values[name]) for name in _HASHES if values[name] is not None}
    return LocatedSample(**values)


def _map(file: BinaryIO) -> mmap.mmap | bytes:
    file.flush()
    # An empty file cannot be mapped.
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
