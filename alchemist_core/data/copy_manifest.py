"""What lies beside the tars of a copy: its manifest, and what readers of datasets look for."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alchemist_core.data.artifacts import write_bytes_atomically
from alchemist_core.data.member_table import MemberTable
from alchemist_core.data.shard_copying import CopiedShard
from alchemist_core.data.tars import IMAGE_EXTS

MANIFEST_NAME, INDEX_NAME, CARD_NAME, SUMS_NAME = "manifest.parquet", "wids.json", "README.md", "SHA256SUMS"
SCHEMA = pa.schema([
    ("shard", pa.string()), ("key", pa.string()), ("pair_hash", pa.binary(32)), ("rank", pa.float64()),
    ("source_uri", pa.dictionary(pa.int32(), pa.string())), ("source_key", pa.large_string()),
    ("source_exts", pa.list_(pa.string())), ("source_offsets", pa.list_(pa.int64())), ("source_sizes", pa.list_(pa.int64())),
    ("repair", pa.string()),
])  # fmt: skip
_IDENTITY, _SHARDS = b"alchemist.copy", b"alchemist.shards"
_GROUP_ROWS = 1 << 17
_COLUMN_KINDS = {"txt": "string", "json": "json"} | dict.fromkeys(IMAGE_EXTS, "image")


def read_copy_manifest(place: Path | BinaryIO) -> tuple[str, list[CopiedShard]] | None:
    """Return a copy's identity and its tars, as the manifest in its folder, or an open one, says; None where that is none."""
    try:
        about = pq.read_schema(place / MANIFEST_NAME if isinstance(place, Path) else place).metadata or {}
        return about[_IDENTITY].decode(), [CopiedShard(*shard) for shard in json.loads(about[_SHARDS])]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_copy_manifest(
    folder: Path, members: MemberTable, order_N: NDArray[np.int64], shards: Sequence[CopiedShard], identity: str
) -> None:
    """Write one row a record, in the order of the tars: its new key, and where it came from."""
    about = {_IDENTITY: identity, _SHARDS: json.dumps(shards)}
    names = np.array([shard.name for shard in shards], dtype=object)
    shard_N = np.repeat(np.arange(len(shards)), [shard.n_samples for shard in shards])
    aside = folder / f".{MANIFEST_NAME}.part"
    with pq.ParquetWriter(aside, SCHEMA.with_metadata(about), compression="zstd") as writer:
        for first in range(0, len(order_N), _GROUP_ROWS):
            rows = slice(first, first + _GROUP_ROWS)
            writer.write_table(_manifest_rows(members, order_N[rows], names[shard_N[rows]], first))
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(folder / MANIFEST_NAME)


def write_dataset_info(folder: Path, name: str, members: MemberTable, shards: Sequence[CopiedShard]) -> None:
    """Write a dataset card, which makes the folder one for Hugging Face datasets, and an index of the tars as webdataset has it."""
    listed = [{"url": shard.name, "nsamples": shard.n_samples, "filesize": shard.size_bytes} for shard in shards]
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": listed}
    write_bytes_atomically(folder / INDEX_NAME, (json.dumps(index, indent=1) + "\n").encode())
    n_samples, n_bytes = len(members), sum(shard.size_bytes for shard in shards)
    info: dict[str, Any] = {
        "splits": [{"name": "train", "num_examples": n_samples, "num_bytes": n_bytes}],
        "download_size": n_bytes, "dataset_size": n_bytes,
    }  # fmt: skip
    if (features := _features(members)) is not None:
        info["features"] = features
    files = [{"split": "train", "path": "*.tar"}]
    # JSON is YAML, too.
    card = {"configs": [{"config_name": "default", "data_files": files}], "dataset_info": info}
    text = f"---\n{json.dumps(card, indent=1)}\n---\n\n{n_samples:,} image-text pairs; `{MANIFEST_NAME}` says where each came from.\n"
    write_bytes_atomically(folder / CARD_NAME, text.encode())


def write_sums(folder: Path, shards: Sequence[CopiedShard]) -> None:
    """List every file's sha256 as `sha256sum --check` reads it: who gets the copy from somewhere can prove it whole."""
    write_bytes_atomically(folder / SUMS_NAME, _sums(folder, shards))


def has_right_sums(folder: Path, shards: Sequence[CopiedShard]) -> bool:
    """Tell whether what lies beside the tars is what was written, and the list names the tars' sums."""
    try:
        return (folder / SUMS_NAME).read_bytes() == _sums(folder, shards)
    except FileNotFoundError:
        return False


def _sums(folder: Path, shards: Sequence[CopiedShard]) -> bytes:
    sums = {shard.name: shard.sha256 for shard in shards}
    for name in (CARD_NAME, MANIFEST_NAME, INDEX_NAME):
        with (folder / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def _manifest_rows(
    members: MemberTable, index_K: NDArray[np.int64], names: NDArray[np.object_], first: int
) -> pa.Table:
    part = members.table.take(pa.array(index_K))
    columns = {
        "shard": names.tolist(),
        "key": [f"{number:09d}" for number in range(first, first + len(index_K))],
        "pair_hash": part.column("pair_hash"),
        "rank": part.column("rank"),
        "source_uri": _with_words(part.column("source"), members.uris),
        **{f"source_{name}": part.column(name) for name in ("key", "exts", "offsets", "sizes")},
        "repair": part.column("repair"),
    }
    return pa.table(columns, schema=SCHEMA)


def _with_words(codes: pa.ChunkedArray, words: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.combine_chunks(), pa.array(words, pa.string()))


def _features(members: MemberTable) -> list[dict[str, str]] | None:
    """Return the columns that Hugging Face's reader will find; None where only it knows what it makes of a member."""
    exts = set(pc.unique(pc.list_flatten(members.table.column("exts"))).to_pylist())
    if not exts or not exts <= _COLUMN_KINDS.keys():
        return None
    columns = {ext: kind for ext, kind in _COLUMN_KINDS.items() if ext in exts - IMAGE_EXTS}
    columns |= {members.commonest_image_ext(): "image", "__key__": "string", "__url__": "string"}
    return [{"name": name, "dtype": kind} for name, kind in columns.items()]
