"""A subset's manifest: a Parquet file with a row per member. Its hash is over the members' pair hashes, and their weights if there are any.

Members are kept in columns: 30 million rows are too many Python objects. Letters: N samples · K members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemist_core.errors import DataError
from alchemist_core.files import atomic_write
from alchemist_core.lazy import NDArray, np, pa, pq

HASH_BYTES = 32
ROWS_A_PIECE = 1 << 16
# Not the same select: after another night or takedown, it makes another version.
_REMEDY = "alchemist export subset NAME --version N --out FILE makes it again."
if TYPE_CHECKING:
    # A column of manifests of versions whose members are repeated or weighted.
    WEIGHT: pa.Field


def __getattr__(name: str) -> Any:
    # Made when it is used, because it loads pyarrow.
    if name == "WEIGHT":
        return pa.field("weight", pa.float64())
    raise AttributeError(name)


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """Aligned columns of the members, in the order of pair_hash."""

    pair_hash_K32: NDArray[np.uint8]
    rank_K: NDArray[np.float64]
    score_K: NDArray[np.float64]
    # How often an epoch reads each member on average; None: once each.
    weight_K: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Count the members."""
        return len(self.pair_hash_K32)

    def sha256(self) -> str:
        """Return the SHA-256 over the members, and their weights if there are any.

        >>> Manifest(hash_rows([]), np.empty(0), np.empty(0)).sha256()[:8]
        'e3b0c442'
        """
        return hashes_sha256(self.pair_hash_K32, self.weight_K)

    def pair_hashes(self) -> list[bytes]:
        """Return the hashes as Python objects. Meant for thousands of members, not for millions."""
        return list_hashes(self.pair_hash_K32)


def hash_rows(pair_hash_K: Sequence[bytes]) -> NDArray[np.uint8]:
    """Pack hashes of 32 bytes into an array, one row for each.

    >>> hash_rows([bytes(32), bytes(range(32))]).shape
    (2, 32)
    """
    return np.frombuffer(b"".join(pair_hash_K), np.uint8).reshape(-1, HASH_BYTES)


def list_hashes(pair_hash_K32: NDArray[np.uint8]) -> list[bytes]:
    """Return the rows of an array as a list of hashes.

    >>> list_hashes(hash_rows([b"x" * 32])) == [b"x" * 32]
    True
    """
    data = pair_hash_K32.tobytes()
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def hash_order(pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the indices that sort hashes in ascending order: by their first 64 bits, and by all bits if these are equal.

    >>> hash_order(hash_rows([b"b" * 32, b"a" * 31 + b"z", b"a" * 32])).tolist()
    [2, 1, 0]
    """
    prefix_K = hash_prefixes(pair_hash_K32)
    order_K = np.argsort(prefix_K)
    sorted_K = prefix_K[order_K]
    tied = np.flatnonzero(sorted_K[1:] == sorted_K[:-1])
    # In a corpus of 30 million samples, the probability that two share 64 bits is 1 in 40,000.
    for first in tied[np.append(True, np.diff(tied) > 1)] if len(tied) else ():
        last = int(np.searchsorted(sorted_K, sorted_K[first], side="right"))
        order_K[first:last] = sorted(order_K[first:last].tolist(), key=lambda i: pair_hash_K32[i].tobytes())
    return order_K


def sort_hashes(pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return hashes in ascending order; sorted hashes, the usual case, are not copied."""
    prefix_K = hash_prefixes(pair_hash_K32)
    return pair_hash_K32 if bool((prefix_K[1:] > prefix_K[:-1]).all()) else pair_hash_K32[hash_order(pair_hash_K32)]


def hash_prefixes(pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 64 bits of each hash as a number that sorts as the hash does.

    >>> hash_prefixes(hash_rows([bytes([0, 0, 0, 0, 0, 0, 1, 5]) * 4])).tolist()
    [261]
    """
    return np.ascontiguousarray(pair_hash_K32[:, :8]).view(">u8").ravel().astype(np.uint64)


def find_hashes(sorted_N32: NDArray[np.uint8], wanted_K32: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the index of each wanted hash among hashes in ascending order; -1 where it is not among them.

    >>> find_hashes(hash_rows([b"a" * 32, b"c" * 32]), hash_rows([b"c" * 32, b"b" * 32])).tolist()
    [1, -1]
    """
    place_K, prefix_N = np.full(len(wanted_K32), -1), hash_prefixes(sorted_N32)
    for start in range(0, len(wanted_K32) if len(sorted_N32) else 0, ROWS_A_PIECE):
        wanted_P32 = wanted_K32[start : start + ROWS_A_PIECE]
        prefix_P = hash_prefixes(wanted_P32)
        place_P = np.minimum(np.searchsorted(prefix_N, prefix_P), len(prefix_N) - 1)
        while True:
            is_here_P = (sorted_N32[place_P] == wanted_P32).all(1)
            next_P = np.minimum(place_P + 1, len(prefix_N) - 1)
            # Several hashes with the same 64 bits: the wanted one may be the next.
            is_later_P = ~is_here_P & (next_P > place_P) & (prefix_N[next_P] == prefix_P)
            if not is_later_P.any():
                break
            place_P = np.where(is_later_P, next_P, place_P)
        place_K[start : start + ROWS_A_PIECE] = np.where(is_here_P, place_P, -1)
    return place_K


def hashes_sha256(pair_hash_K32: NDArray[np.uint8], weight_K: NDArray[np.float64] | None = None) -> str:
    """Return the sha256 of the sorted hashes, one after another: it names the set of samples in any order.

    The samples' weights, if there are any, follow in the same order.

    >>> hashes_sha256(hash_rows([b"b" * 32, b"a" * 32])) == hashlib.sha256(b"a" * 32 + b"b" * 32).hexdigest()
    True
    """
    if weight_K is None:
        return hashlib.sha256(np.ascontiguousarray(sort_hashes(pair_hash_K32)).data).hexdigest()
    order_K = hash_order(pair_hash_K32)
    digest = hashlib.sha256(np.ascontiguousarray(pair_hash_K32[order_K]).data)
    digest.update(_weight_bytes(weight_K[order_K]))
    return digest.hexdigest()


def _weight_bytes(weight_K: NDArray[np.float64]) -> bytes:
    return b"weights" + np.ascontiguousarray(weight_K, "<f8").tobytes()


def rows_sha256(
    pair_hash_N32: NDArray[np.uint8], place_K: NDArray[np.int64], weight_K: NDArray[np.float64] | None = None
) -> str:
    """Return the hash that a manifest of some rows would have, without copying the rows.

    Args:
        pair_hash_N32: Hashes in ascending order.
        place_K: Indices of the rows, ascending.
        weight_K: Weights of these rows; None: without weights.

    >>> rows_sha256(hash_rows([b"a" * 32, b"b" * 32]), np.array([1])) == hashes_sha256(hash_rows([b"b" * 32]))
    True
    """
    digest = hashlib.sha256()
    for start in range(0, len(place_K), ROWS_A_PIECE):
        digest.update(np.take(pair_hash_N32, place_K[start : start + ROWS_A_PIECE], axis=0).data)
    if weight_K is not None:
        digest.update(_weight_bytes(weight_K))
    return digest.hexdigest()


def _schema() -> pa.Schema:
    return pa.schema([("pair_hash", pa.binary(HASH_BYTES)), ("rank", pa.float64()), ("score", pa.float64())])


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically and durably."""
    schema = _schema()
    hashes = pa.py_buffer(np.ascontiguousarray(manifest.pair_hash_K32))
    pair_hash = pa.FixedSizeBinaryArray.from_buffers(schema.field(0).type, len(manifest), [None, hashes])
    table = pa.table([pair_hash, manifest.rank_K, manifest.score_K], schema=schema)
    if manifest.weight_K is not None:
        table = table.append_column(__getattr__("WEIGHT"), pa.array(manifest.weight_K))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hashes cannot be compressed.
    compression = {name: "NONE" if name == "pair_hash" else "ZSTD" for name in table.column_names}
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression=compression, use_dictionary=False)


def read_manifest(path: Path, *, sha256: str) -> Manifest:
    """Read a manifest and compare its members and their weights with the registered hash.

    Raises:
        DataError: The file is missing, cannot be read, or has other members.
    """
    if not path.is_file():
        raise DataError(f"The manifest {path} is missing. {_REMEDY}")
    schema = _schema()
    try:
        if "weight" in pq.read_schema(path).names:
            schema = schema.append(__getattr__("WEIGHT"))
        # Not pq.read_table, which imports pandas: a quarter of a second at the start of a training.
        table = pq.ParquetFile(path).read(columns=schema.names).cast(schema).combine_chunks()
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"The manifest {path} cannot be read ({why}). Delete it. {_REMEDY}") from error
    hashes, *columns = table.columns
    manifest = Manifest(hash_column(hashes), *(column.to_numpy().astype(np.float64, copy=False) for column in columns))
    if manifest.sha256() != sha256:
        raise DataError(
            f"The manifest {path} does not hold the registered members (sha256 {sha256}). Delete it. {_REMEDY}"
        )
    return manifest


def read_first_bits(path: Path) -> NDArray[np.uint64]:
    """Return the first 64 bits of the members' hashes, in the order of the file. The hash of the manifest is not checked.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    try:
        file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        parts = [
            np.ascontiguousarray(hash_column(pa.chunked_array(batch.columns))[:, :8]).view(">u8").ravel()
            for batch in file.iter_batches(batch_size=ROWS_A_PIECE, columns=["pair_hash"])
        ]
    except (OSError, ValueError) as error:
        raise DataError(f"The manifest {path} cannot be read: {error}.") from error
    return np.concatenate([np.empty(0, np.uint64), *parts], dtype=np.uint64)


def hash_column(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return a column of hashes as an array with a row per hash; a column in one chunk is not copied."""
    rows = [
        np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, HASH_BYTES)[chunk.offset : chunk.offset + len(chunk)]
        for chunk in column.chunks
    ]
    return np.concatenate(rows) if len(rows) != 1 else rows[0]
