"""A subset version's members with their bytes' places, out of the store; who was taken down since, and who is lost."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path
from alchemist_core.store.manifests import Manifest, read_manifest
from alchemist_core.store.samples import read_taken_down, stream_locations
from alchemist_core.store.subsets import SubsetRow, count_taken_down, published_version
from alchemist_core.subsets.member_table import MemberTable, gather_members

_SELECT = "Select again: the new version leaves them out."


class LocatedSubset(NamedTuple):
    """The manifest, and those of its rows that have a live location."""

    manifest: Manifest
    members: MemberTable

    def missing(self) -> NDArray[np.int64]:
        """Return the manifest's rows without a live location."""
        is_missing_N = np.ones(len(self.manifest), bool)
        is_missing_N[self.members.numbers()] = False
        return np.flatnonzero(is_missing_N)


def locate_subset(engine: Engine, subset: SubsetRow) -> LocatedSubset:
    """Stream where all members lie, in columns.

    Raises:
        DataError: The manifest is missing, or not that of the version.
    """
    manifest = read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256)
    located = stream_locations(engine, manifest.pair_hash_K32)
    return LocatedSubset(manifest, gather_members(located, manifest.pair_hash_K32, manifest.rank_K))


def locate_all(engine: Engine, subset: SubsetRow) -> MemberTable:
    """Return where all members lie.

    Raises:
        DataError: One has no live location, for whatever reason.
    """
    located = locate_subset(engine, subset)
    missing = located.missing()
    if len(missing):
        remedy = _remedy(engine, subset)
        raise _lost(
            subset,
            located.manifest,
            missing,
            f"taken down, or their shard is missing, changed or retired: alchemist shard list). {remedy}",
        )
    return located.members


def locate_remaining(engine: Engine, subset: SubsetRow) -> LocatedSubset:
    """Return where all members lie that were not taken down.

    Raises:
        DataError: One has no live location although nobody took it down.
    """
    located = locate_subset(engine, subset)
    missing = located.missing()
    taken_down = set(read_taken_down(engine)) if len(missing) else set()
    lost = np.array([n for n in missing if located.manifest.pair_hash_K32[n].tobytes() not in taken_down], np.int64)
    if len(lost):
        raise _lost(
            subset,
            located.manifest,
            lost,
            f"their shard is missing, changed or retired: alchemist shard list). {_SELECT}",
        )
    return located


def _lost(subset: SubsetRow, manifest: Manifest, number_K: NDArray[np.int64], why: str) -> DataError:
    first = manifest.pair_hash_K32[number_K[0]].tobytes().hex()[:16]
    return DataError(
        f"{len(number_K):,} of {len(manifest):,} members of {subset.title} have no live location, the first is "
        f"pair {first} ({why}"
    )


def _remedy(engine: Engine, subset: SubsetRow) -> str:
    """Offer the version that was published instead, where it is free of what was taken down."""
    published = published_version(engine, subset.name)
    if published is None or published.subset_id == subset.subset_id:
        return _SELECT
    with engine.connect() as connection:
        if count_taken_down(connection, published.subset_id):
            return _SELECT
    return (
        f"Its successor {published.title} is published and has none that was taken down: --version {published.version}."
    )
