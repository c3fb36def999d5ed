"""The locations of a subset version's members as one file, from which `SubsetDataset` reads without Postgres and without the home.

A row is a member, in the order of the first locations that the members ever had; a member that was taken down before the file was written
has no location. Letters: N members of the version.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alchemist_core.errors import ConfigError, DataError, MissingShardError
from alchemist_core.files import atomic_write
from alchemist_core.shards.storage import is_s3, open_shard, put_file
from alchemist_core.store.locations import LOCATION_TYPES
from alchemist_core.store.manifests import HASH_BYTES, WEIGHT, Manifest, hash_column, hash_order
from alchemist_core.subsets.members import LocatedSubset, gather_members

SUFFIX = ".parquet"
_FROM_LOCATION = ("key", "exts", "offsets", "sizes", "content_hash", "content_checksum", "repair")
SCHEMA = pa.schema([
    ("pair_hash", pa.binary(HASH_BYTES)), ("rank", pa.float64()), ("score", pa.float64()), ("width", pa.int32()), ("height", pa.int32()),
    ("uri", pa.dictionary(pa.int32(), pa.string())), *((name, LOCATION_TYPES[name]) for name in _FROM_LOCATION),
])  # fmt: skip
"""Columns of the file; those from `uri` on are null for members that were taken down. `WEIGHT` follows if the version has weights."""
_ABOUT_KEY = b"alchemist.locations"


def is_location_file(subset: str) -> bool:
    """Return whether the name of a subset is the address of such a file."""
    return subset.endswith(SUFFIX)


def write_location_file(located: LocatedSubset, to: str, *, title: str) -> int:
    """Write the file to a path or an `s3://` address, and return its size in bytes. An existing one is replaced when it is complete.

    Args:
        located: The version, with the sizes of its images and the order of its members.
        to: Address of the file; ends in `.parquet`.
        title: Name and version, for messages.

    Raises:
        ConfigError: The address does not end in `.parquet`, or its folder does not exist.
        DataError: The object store refuses it.
    """
    if not is_location_file(to) or not (is_s3(to) or Path(to).absolute().parent.is_dir()):
        raise ConfigError(
            f"--to {to} is not valid. Give an address that ends in {SUFFIX}, in an existing folder or under s3://."
        )
    if not is_s3(to):
        return _write(located, Path(to), title)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"locations{SUFFIX}"
        size_bytes = _write(located, path, title)
        put_file(to, path)
    return size_bytes


def read_location_file(uri: str) -> LocatedSubset:
    """Return the version that a file describes.

    Raises:
        DataError: The file is missing, is not such a file, or does not hold the members that its metadata names.
    """
    try:
        with open_shard(uri) as file:
            table = pq.ParquetFile(file).read()
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[_ABOUT_KEY])
        table = table.cast(_schema(has_weights=WEIGHT.name in table.column_names)).combine_chunks()
    except MissingShardError as error:
        raise DataError(f"{uri} is missing. Write it: alchemist export locations NAME --to {uri}.") from error
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{uri} is not a file of locations ({error}). Write it: alchemist export locations NAME --to {uri}."
        ) from error
    pair_hash_N32 = hash_column(table.column("pair_hash"))
    # Row i of the manifest is row order_N[i] of the file, which is therefore its place.
    order_N = hash_order(pair_hash_N32)
    number_N = np.empty(len(order_N), np.int64)
    number_N[order_N] = np.arange(len(order_N))
    names = ("rank", "score", WEIGHT.name) if WEIGHT.name in table.column_names else ("rank", "score")
    columns = (table.column(name).to_numpy()[order_N] for name in names)
    manifest = Manifest(np.ascontiguousarray(pair_hash_N32[order_N]), *columns)
    if manifest.sha256() != about.get("members_sha256"):
        raise DataError(
            f"{uri} does not hold the members that it was written with. Write it again: alchemist export locations."
        )
    size_N2 = np.stack([table.column(name).to_numpy()[order_N] for name in ("width", "height")], axis=1)
    table = table.append_column("number", pa.array(number_N)).filter(pc.is_valid(table.column("uri")))
    coded = table.column("uri").combine_chunks()
    table = table.append_column("shard_id", coded.indices.cast(pa.int64()))
    table = table.append_column("ordinal", pa.nulls(len(table), pa.int32()))
    addresses = dict(enumerate(coded.dictionary.to_pylist()))
    located = table.select(list(LOCATION_TYPES))
    members = gather_members(located, addresses, manifest.pair_hash_K32, manifest.rank_K)
    return LocatedSubset(manifest, members, size_N2.astype(np.int32), order_N)


def _write(located: LocatedSubset, path: Path, title: str) -> int:
    manifest, members, size_N2, place_N = located
    if size_N2 is None or place_N is None:
        raise ValueError(
            "A file of locations needs the sizes of the images and the order: locate_remaining(…, has_sizes, has_places)."
        )
    by_place_N = np.empty(len(manifest), np.int64)
    by_place_N[place_N] = np.arange(len(manifest))
    row_N = np.full(len(manifest), -1, np.int64)
    row_N[members.numbers()] = np.arange(len(members))
    row_N = row_N[by_place_N]
    there = members.table.take(pa.array(row_N, mask=row_N < 0))
    hashes = pa.py_buffer(np.ascontiguousarray(manifest.pair_hash_K32[by_place_N]))
    source = there.column("source").combine_chunks()
    columns = {
        "pair_hash": pa.FixedSizeBinaryArray.from_buffers(pa.binary(HASH_BYTES), len(manifest), [None, hashes]),
        "rank": manifest.rank_K[by_place_N], "score": manifest.score_K[by_place_N],
        "width": size_N2[by_place_N, 0], "height": size_N2[by_place_N, 1],
        "uri": pa.DictionaryArray.from_arrays(source, pa.array(members.uris, pa.string())),
        **{name: there.column(name) for name in _FROM_LOCATION},
    }  # fmt: skip
    if manifest.weight_K is not None:
        columns[WEIGHT.name] = manifest.weight_K[by_place_N]
    about = json.dumps({"subset": title, "members_sha256": manifest.sha256()})
    with atomic_write(path) as partial:
        schema = _schema(has_weights=manifest.weight_K is not None).with_metadata({_ABOUT_KEY: about})
        pq.write_table(pa.table(columns, schema=schema), partial, compression="zstd")
    return path.stat().st_size


def _schema(*, has_weights: bool) -> pa.Schema:
    return SCHEMA.append(WEIGHT) if has_weights else SCHEMA
