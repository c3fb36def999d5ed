"""A subset's manifest: one Parquet row a member. Membership is what counts; the hash is over the members' pair hashes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alchemist_core.errors import DataError

SCHEMA = pa.schema([("pair_hash", pa.binary(32)), ("rank", pa.float64()), ("score", pa.float32())])


@dataclass(frozen=True, slots=True)
class Manifest:
    """Aligned columns of the members, in the order of pair_hash."""

    pair_hash_K: list[bytes]
    rank_K: list[float]
    score_K: list[float]

    def sha256(self) -> str:
        """Hash the membership.

        >>> Manifest([], [], []).sha256()[:8]
        'e3b0c442'
        """
        return members_sha256(self.pair_hash_K)


def members_sha256(pair_hash_K: Sequence[bytes]) -> str:
    """Hash a set of pairs, whatever the order in which they are given."""
    return hashlib.sha256(b"".join(sorted(pair_hash_K))).hexdigest()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest aside and rename it."""
    columns = [manifest.pair_hash_K, manifest.rank_K, manifest.score_K]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.writing")
    pq.write_table(pa.table(columns, schema=SCHEMA), aside, compression="zstd")
    aside.replace(path)


def read_manifest(path: Path, *, sha256: str) -> Manifest:
    """Read a manifest and compare its membership with the registered hash.

    Raises:
        DataError: If the file is missing or its membership differs.
    """
    if not path.is_file():
        raise DataError(f"The manifest {path} is missing. Run the same alchemist select again: its spec re-makes it.")
    table = pq.read_table(path)
    manifest = Manifest(*(table.column(name).to_pylist() for name in SCHEMA.names))
    if manifest.sha256() != sha256:
        raise DataError(
            f"The manifest {path} does not hold the registered members (sha256 {sha256}). Delete it and run alchemist select again."
        )
    return manifest
