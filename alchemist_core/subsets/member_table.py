"""Members of a subset version in columns, with the location of their bytes: millions of rows are too many Python objects.

It does not know the store, so that a process that copies members loads no database driver.

Letters: N members of the table · K of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alchemist_core.selection.keys import Domain, mix64
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.store.manifests import hash_column

SIZE_COLUMNS = ("width", "height")
"""Pixels of the image; columns of a table that was read for a copy."""
WEIGHT_COLUMN = "weight"
"""How often an epoch reads the member on average; a column of such a table if the version has weights."""
# Columns of a member's location, in the order of `MemberLocation`.
_ROW_COLUMNS = ("key", "exts", "offsets", "sizes", "pair_hash", "rank", "content_hash", "repair", "content_checksum")


@dataclass(frozen=True, slots=True)
class MemberLocation:
    """One member and the location of the files of its record in a source tar."""

    uri: str
    key: str
    exts: tuple[str, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    pair_hash: bytes
    rank: float
    content_hash: bytes | None = None
    """Hash over all files; None for samples that were ingested before it existed."""
    repair: str | None = None
    """The repairs that a reader must apply, as `shards.repairs.join_repairs` writes them."""
    content_checksum: bytes | None = None
    """XXH3-128 over all files; None for samples that were ingested before it existed."""


class MemberTable:
    """Members with their first live location, in any order.

    Args:
        table: The columns of `LOCATION_TYPES`, source (an index into `uris`), pair_hash and rank; maybe `SIZE_COLUMNS` and `WEIGHT_COLUMN`.
        uris: Addresses of the source tars, sorted, so that `source` does not depend on the order of the rows.
    """

    def __init__(self, table: pa.Table, uris: Sequence[str]) -> None:
        self.table, self.uris = table, uris

    def __len__(self) -> int:
        """Return the number of members."""
        return int(self.table.num_rows)

    def numbers(self) -> NDArray[np.int64]:
        """Return each member's row in the manifest, which may have more rows than the table."""
        number_N: NDArray[np.int64] = self.table.column("number").to_numpy()
        return number_N

    def rows(self, index_K: NDArray[np.int64]) -> list[MemberLocation]:
        """Return some members as Python objects. Meant for hundreds of rows, not for all."""
        part = self.table.take(pa.array(index_K))
        key, exts, offsets, sizes, *rest = (part.column(name).to_pylist() for name in _ROW_COLUMNS)
        uris = [self.uris[source] for source in part.column("source").to_pylist()]
        columns = (uris, key, *(map(tuple, column) for column in (exts, offsets, sizes)), *rest)
        return [MemberLocation(*row) for row in zip(*columns, strict=True)]

    def take(self, index_K: NDArray[np.int64]) -> "MemberTable":
        """Return some members, in the order of their indices."""
        return MemberTable(self.table.take(pa.array(index_K)).combine_chunks(), self.uris)

    def with_own_sources(self) -> "MemberTable":
        """Return the same members with the addresses of their own sources only, which is less to send to another process."""
        source_S, place_N = np.unique(self.table.column("source").to_numpy(), return_inverse=True)
        column = self.table.column_names.index("source")
        table = self.table.set_column(column, "source", pa.array(place_N.astype(np.int32)))
        return MemberTable(table, [self.uris[source] for source in source_S.tolist()])

    def source_order(self) -> NDArray[np.int64]:
        """Return the order by source tar and by offset in it, which a disk reads fastest."""
        return np.lexsort((self.first_offsets(), self.table.column("source").to_numpy()))

    def first_offsets(self) -> NDArray[np.int64]:
        """Return the offset of each record in its source."""
        offset_N: NDArray[np.int64] = pc.list_element(self.table.column("offsets"), 0).to_numpy()
        return offset_N

    def hash_order(self, seed: int) -> NDArray[np.int64]:
        """Return an order that depends only on the seed and the samples, and is independent of the ranks.

        The hash that sampling uses would not do: among the members it is correlated with the ranks.
        """
        hash64_N = first_64_bits(hash_column(self.table.column("pair_hash")))
        # Two of 30 million samples share 64 bits with a chance of 1 in 40,000; the manifest's order, by all bits, then breaks the tie.
        return np.lexsort((self.numbers(), hash64_N, mix64(Domain.SHUFFLE, seed, hash64_N)))

    def commonest_image_ext(self) -> str:
        """Return the images' commonest extension; of equally common ones the alphabetically first."""
        counts = pc.value_counts(pc.list_flatten(self.table.column("exts"))).to_pylist()
        images = {found["values"]: found["counts"] for found in counts if found["values"] in IMAGE_EXTS}
        return min(images, key=lambda ext: (-images[ext], ext), default="jpg")

    def weights(self) -> NDArray[np.float64] | None:
        """Return how often an epoch reads each member on average; None: once each."""
        if WEIGHT_COLUMN not in self.table.column_names:
            return None
        weight_N: NDArray[np.float64] = self.table.column(WEIGHT_COLUMN).to_numpy()
        return weight_N

    def n_files(self) -> NDArray[np.int64]:
        """Return the number of files of each member's record."""
        n_files_N: NDArray[np.int64] = pc.list_value_length(self.table.column("exts")).to_numpy().astype(np.int64)
        return n_files_N


def first_64_bits(pair_hash_N32: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the first 64 bits of each hash as Postgres stores them: big-endian, signed.

    >>> first_64_bits(np.array([[255] * 31 + [0]], np.uint8)).tolist()
    [-1]
    """
    return np.ascontiguousarray(pair_hash_N32[:, :8]).view(">i8").ravel().astype(np.int64)
