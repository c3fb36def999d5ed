"""What a copy is to hold and what it holds: the manifest beside materialized shards. Reads no source."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alchemist_core.data.tar_writer import sync_folder

MANIFEST_NAME = "manifest.parquet"
_PLAN, _SHARDS = b"alchemist.plan", b"alchemist.shards"


@dataclass(frozen=True, slots=True)
class MemberSource:
    """One chosen record and where the bytes of its members lie."""

    uri: str
    key: str
    exts: tuple[str, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    pair_hash: bytes
    rank: float


@dataclass(frozen=True, slots=True)
class MaterializedShard:
    """One finished tar of a copy; `n_bytes_written` is 0 where it was already there."""

    path: Path
    n_samples: int
    sha256: bytes
    n_bytes_written: int


def hash_plan(samples: Sequence[MemberSource], shard_size: int) -> bytes:
    """Name a copy by everything that decides its bytes."""
    digest = hashlib.sha256(str(shard_size).encode())
    for sample in samples:
        digest.update(repr(astuple(sample)).encode("utf-8", "backslashreplace"))
    return digest.digest()


def find_finished(out_dir: Path, plan: bytes) -> list[MaterializedShard] | None:
    """Return the shards of a finished copy of this plan after reading them all; None if anything is missing or wrong."""
    path = out_dir / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        about = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid:
        return None
    if about.get(_PLAN) != plan.hex().encode():
        return None
    shards = [
        MaterializedShard(out_dir / name, n_samples, bytes.fromhex(sha256), 0)
        for name, n_samples, sha256 in json.loads(about[_SHARDS])
    ]
    return shards if all(_is_whole(shard) for shard in shards) else None


def write_copy_manifest(
    path: Path, samples: Sequence[MemberSource], shards: Sequence[MaterializedShard], plan: bytes
) -> None:
    """Write one row a sample, in the order of the shards: its new key, and where it came from."""
    names = [shard.path.name for shard in shards for _ in range(shard.n_samples)]
    columns = {
        "shard": pa.array(names, pa.string()),
        "key": pa.array([f"{index:09d}" for index in range(len(samples))], pa.string()),
        "pair_hash": pa.array([sample.pair_hash for sample in samples], pa.binary(32)),
        "rank": pa.array([sample.rank for sample in samples], pa.float64()),
        "source_uri": pa.array([sample.uri for sample in samples], pa.string()),
        "source_key": pa.array([sample.key for sample in samples], pa.string()),
        "source_exts": pa.array([list(sample.exts) for sample in samples], pa.list_(pa.string())),
        "source_sizes": pa.array([list(sample.sizes) for sample in samples], pa.list_(pa.int64())),
    }
    about = {
        _PLAN: plan.hex(),
        _SHARDS: json.dumps([[shard.path.name, shard.n_samples, shard.sha256.hex()] for shard in shards]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with aside.open("wb") as file:
        pq.write_table(pa.table(columns).replace_schema_metadata(about), file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def _is_whole(shard: MaterializedShard) -> bool:
    if not shard.path.exists():
        return False
    with shard.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == shard.sha256
