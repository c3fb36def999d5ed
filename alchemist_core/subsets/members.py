"""Finds the members of a subset version and the locations of their bytes in the store.

Letters: N members of the table · K of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.errors import DataError
from alchemist_core.store.locations import LOCATION_TYPES, read_locations, read_places
from alchemist_core.store.manifests import Manifest
from alchemist_core.store.samples import read_sizes, read_taken_down
from alchemist_core.store.subsets import SubsetRow, count_taken_down, published_version
from alchemist_core.subsets.member_table import SIZE_COLUMNS, WEIGHT_COLUMN, MemberLocation, MemberTable
from alchemist_core.subsets.selected import load_manifest

_RESELECT = "Select again: the new version leaves them out."


class LocatedSubset(NamedTuple):
    """A manifest, and those of its rows that have a live location."""

    manifest: Manifest
    members: MemberTable
    size_N2: NDArray[np.int32] | None = None
    """Width and height of each row of the manifest, where they were asked for."""
    place_N: NDArray[np.int64] | None = None
    """Place of each row in the order of the sources, from 0, where it was asked for."""

    def missing(self) -> NDArray[np.int64]:
        """Return the manifest's rows without a live location."""
        is_missing_N = np.ones(len(self.manifest), bool)
        is_missing_N[self.members.numbers()] = False
        return np.flatnonzero(is_missing_N)


def locate_subset(engine: Engine, subset: SubsetRow) -> LocatedSubset:
    """Read a version's manifest, and the live locations of its members from the store.

    A manifest that `subset gc` removed is made again, and stored if the home can be written.

    Raises:
        DataError: Neither the manifest nor a reselection gives the registered members.
    """
    manifest = load_manifest(engine, subset, must_store=False)
    located, addresses = read_locations(engine, manifest.pair_hash_K32)
    return LocatedSubset(manifest, gather_members(located, addresses, manifest.pair_hash_K32, manifest.rank_K))


def locate_all(engine: Engine, subset: SubsetRow) -> MemberTable:
    """Return the locations of all members, with the sizes of their images, and their weights if the version has any.

    Raises:
        DataError: A member has no live location.
    """
    located = locate_subset(engine, subset)
    if len(missing := located.missing()):
        why = "taken down, or their shard is missing, changed or retired: see alchemist shard list"
        raise _lost(subset, located.manifest, missing, why, remedy=_remedy(engine, subset))
    members = located.members
    size_N2 = read_sizes(engine, located.manifest.pair_hash_K32)[members.numbers()]
    for column, name in enumerate(SIZE_COLUMNS):
        members.table = members.table.append_column(name, pa.array(size_N2[:, column]))
    if (weight_K := located.manifest.weight_K) is not None:
        members.table = members.table.append_column(WEIGHT_COLUMN, pa.array(weight_K[members.numbers()]))
    return members


def locate_remaining(
    engine: Engine, subset: SubsetRow, *, has_sizes: bool = False, has_places: bool = False
) -> LocatedSubset:
    """Return the locations of all members that were not taken down, and on request the sizes of all images and the order of all members.

    Raises:
        DataError: A member that was not taken down has no live location.
    """
    located = locate_subset(engine, subset)
    missing = located.missing()
    taken_down = set(read_taken_down(engine)) if len(missing) else set()
    lost = np.array([n for n in missing if located.manifest.pair_hash_K32[n].tobytes() not in taken_down], np.int64)
    if len(lost):
        why = "their shard is missing, changed or retired: see alchemist shard list"
        raise _lost(subset, located.manifest, lost, why, remedy=_RESELECT)
    pair_hash_N32 = located.manifest.pair_hash_K32
    return located._replace(
        size_N2=read_sizes(engine, pair_hash_N32) if has_sizes else None,
        place_N=read_places(engine, pair_hash_N32) if has_places else None,
    )


def _lost(subset: SubsetRow, manifest: Manifest, number_K: NDArray[np.int64], why: str, *, remedy: str) -> DataError:
    first = manifest.pair_hash_K32[number_K[0]].tobytes().hex()[:16]
    return DataError(
        f"{len(number_K):,} of {len(manifest):,} members of {subset.title} have no live location, the first is "
        f"sample {first} ({why}). {remedy}"
    )


def _remedy(engine: Engine, subset: SubsetRow) -> str:
    """Offer the published version instead, if none of its members was taken down."""
    published = published_version(engine, subset.name)
    if published is None or published.subset_id == subset.subset_id:
        return _RESELECT
    with engine.connect() as connection:
        if count_taken_down(connection, published.subset_id):
            return _RESELECT
    return f"Or use {published.title}, which is published and has no member that was taken down: --version {published.version}."


def gather_members(
    located: pa.Table, addresses: Mapping[int, str], pair_hash_K32: NDArray[np.uint8], rank_K: NDArray[np.float64]
) -> MemberTable:
    """Join the locations of a manifest's rows with the manifest.

    Args:
        located: The columns of `LOCATION_TYPES`; `number` is a row of the manifest.
        addresses: Address of each shard by its id.
        pair_hash_K32: The manifest's hashes.
        rank_K: The manifest's ranks.
    """
    uris = sorted(set(addresses.values()))
    place_of = {uri: place for place, uri in enumerate(uris)}
    shard_ids = np.array(sorted(addresses), np.int64)
    place_S = np.array([place_of[addresses[shard_id]] for shard_id in shard_ids.tolist()], np.int32)
    source_N = (
        place_S[np.searchsorted(shard_ids, located.column("shard_id").to_numpy())] if len(located) else place_S[:0]
    )
    number_N = located.column("number").to_numpy()
    hashes = pa.py_buffer(np.ascontiguousarray(pair_hash_K32[number_N]))
    table = located.append_column("source", pa.array(source_N, pa.int32()))
    table = table.append_column(
        "pair_hash", pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(number_N), [None, hashes])
    )
    table = table.append_column("rank", pa.array(rank_K[number_N]))
    # One chunk: taking rows from a thousand chunks would search the chunk of each row.
    return MemberTable(table.combine_chunks(), uris)


def table_of(members: Sequence[MemberLocation]) -> MemberTable:
    """Put a few members into columns, in their order."""
    uris = sorted({member.uri for member in members})
    values = {
        "number": range(len(members)), "shard_id": [uris.index(member.uri) for member in members],
        "ordinal": range(len(members)),
        **{name: [getattr(member, name) for member in members] for name in list(LOCATION_TYPES)[3:]},
    }  # fmt: skip
    located = pa.table({name: pa.array(values[name], kind) for name, kind in LOCATION_TYPES.items()})
    pair_hash_N32 = np.frombuffer(b"".join(member.pair_hash for member in members), np.uint8).reshape(-1, 32)
    return gather_members(
        located, dict(enumerate(uris)), pair_hash_N32, np.array([member.rank for member in members], np.float64)
    )
