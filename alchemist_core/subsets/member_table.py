"""Where the members of a subset lie: columns, because millions of rows are no Python objects. Knows no database and no tar.

Letters: N members of the table · K of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alchemist_core.selection.keys import Domain, mix64
from alchemist_core.shards.storage import join_uri
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.store.manifests import hash_column

LOCATION_COLUMNS = ("key", "exts", "offsets", "sizes", "content_hash", "repair")
"""What a location says beside its member's number and its shard."""
_TYPES = {
    "number": pa.int64(), "source": pa.int32(), "key": pa.large_string(), "exts": pa.list_(pa.string()),
    "offsets": pa.list_(pa.int64()), "sizes": pa.list_(pa.int64()), "content_hash": pa.binary(32),
    "repair": pa.string(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemberSource:
    """One chosen record and where the bytes of its members lie; `content_hash` is over all of them, where ingest took it.

    `repair` says what a reader has to repair in them.
    """

    uri: str
    key: str
    exts: tuple[str, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    pair_hash: bytes
    rank: float
    content_hash: bytes | None = None
    repair: str | None = None


class MemberTable:
    """Members with their first live location, in any order.

    Args:
        table: The columns of `LOCATION_COLUMNS` and number, source (an index into `uris`), pair_hash, rank.
        uris: Addresses of the source tars, sorted: whatever the order of the rows, the same members have the same codes.
    """

    def __init__(self, table: pa.Table, uris: Sequence[str]) -> None:
        self.table, self.uris = table, uris

    def __len__(self) -> int:
        """Count the members."""
        return int(self.table.num_rows)

    def numbers(self) -> NDArray[np.int64]:
        """Return which row of the manifest each member is; it may have more."""
        number_N: NDArray[np.int64] = self.table.column("number").to_numpy()
        return number_N

    def rows(self, index_K: NDArray[np.int64]) -> list[MemberSource]:
        """Return some members as Python objects: for hundreds of them."""
        part = self.table.take(pa.array(index_K))
        names = (*LOCATION_COLUMNS[:-2], "pair_hash", "rank", *LOCATION_COLUMNS[-2:])
        key, exts, offsets, sizes, *rest = (part.column(name).to_pylist() for name in names)
        uris = [self.uris[source] for source in part.column("source").to_pylist()]
        columns = (uris, key, *(map(tuple, column) for column in (exts, offsets, sizes)), *rest)
        return [MemberSource(*row) for row in zip(*columns, strict=True)]

    def source_order(self) -> NDArray[np.int64]:
        """Return the order of the sources' addresses and of the places in them: what a disk reads fastest."""
        first_N = pc.list_element(self.table.column("offsets"), 0).to_numpy()
        return np.lexsort((first_N, self.table.column("source").to_numpy()))

    def hash_order(self, seed: int) -> NDArray[np.int64]:
        """Return an order that nothing but the seed and the pairs decides; the selection's own hash would follow the ranks."""
        hash64_N = first_64_bits(hash_column(self.table.column("pair_hash")))
        # Two of 30 million share 64 bits once in 40,000 pools: the manifest, in the order of all bits, decides between them.
        return np.lexsort((self.numbers(), hash64_N, mix64(Domain.SHUFFLE, seed, hash64_N)))

    def commonest_image_ext(self) -> str:
        """Return the pictures' commonest extension; the first in the alphabet of those that are equally common."""
        counts = pc.value_counts(pc.list_flatten(self.table.column("exts"))).to_pylist()
        images = {found["values"]: found["counts"] for found in counts if found["values"] in IMAGE_EXTS}
        return min(images, key=lambda ext: (-images[ext], ext), default="jpg")

    def n_members(self) -> NDArray[np.int64]:
        """Return how many files each record has."""
        n_members_N: NDArray[np.int64] = pc.list_value_length(self.table.column("exts")).to_numpy().astype(np.int64)
        return n_members_N


def gather_members(
    batches: Iterable[Sequence[Sequence[Any]]], pair_hash_K32: NDArray[np.uint8], rank_K: NDArray[np.float64]
) -> MemberTable:
    """Gather streamed locations of a manifest's rows into columns; only one batch at a time is Python objects.

    Args:
        batches: Rows of (number of the manifest's row, root, address under it, key, exts, offsets, sizes, content hash, repair).
        pair_hash_K32: The manifest's hashes.
        rank_K: The manifest's ranks.
    """
    sources: dict[str, int] = {}
    parts = [_columns(batch, sources) for batch in batches]
    table = pa.concat_tables([pa.table({name: pa.array([], kind) for name, kind in _TYPES.items()}), *parts])
    del parts
    uris = sorted(sources)
    table = table.set_column(1, "source", pa.array(_recode(table.column("source").to_numpy(), sources, uris)))
    number_N = table.column("number").to_numpy()
    hashes = pa.py_buffer(np.ascontiguousarray(pair_hash_K32[number_N]))
    pair_hash_N = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(number_N), [None, hashes])
    table = table.append_column("pair_hash", pair_hash_N).append_column("rank", pa.array(rank_K[number_N]))
    # In one piece: to take rows from a thousand pieces would look for each row among them.
    return MemberTable(table.combine_chunks(), uris)


def table_of(sources: Sequence[MemberSource]) -> MemberTable:
    """Put a few records into columns, in their order."""
    rows = [
        (number, "", s.uri, s.key, s.exts, s.offsets, s.sizes, s.content_hash, s.repair)
        for number, s in enumerate(sources)
    ]
    pair_hash_N32 = np.frombuffer(b"".join(source.pair_hash for source in sources), np.uint8).reshape(-1, 32)
    return gather_members([rows], pair_hash_N32, np.array([source.rank for source in sources], np.float64))


def first_64_bits(pair_hash_N32: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the first 64 bits of each hash, as Postgres keeps them: big-endian, signed.

    >>> first_64_bits(np.array([[255] * 31 + [0]], np.uint8)).tolist()
    [-1]
    """
    return np.ascontiguousarray(pair_hash_N32[:, :8]).view(">i8").ravel().astype(np.int64)


def _recode(source_N: NDArray[np.int32], sources: dict[str, int], uris: Sequence[str]) -> NDArray[np.int32]:
    """Turn numbers of addresses as they came into their places in the sorted list."""
    place = np.empty(len(uris), np.int32)
    place[[sources[uri] for uri in uris]] = np.arange(len(uris), dtype=np.int32)
    return place[source_N]


def _columns(batch: Sequence[Sequence[Any]], sources: dict[str, int]) -> pa.Table:
    number, root, uri, *rest = zip(*batch, strict=True) if batch else ([],) * 9
    source = [sources.setdefault(join_uri(*place), len(sources)) for place in zip(root, uri, strict=True)]
    values = dict(zip(("number", "source", *LOCATION_COLUMNS), (number, source, *rest), strict=True))
    values["content_hash"] = [None if value is None else bytes(value) for value in values["content_hash"]]
    return pa.table({name: pa.array(values[name], kind) for name, kind in _TYPES.items()})
