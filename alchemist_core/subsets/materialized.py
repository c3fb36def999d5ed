"""Copies chosen records into new tars, byte by byte. Knows neither why they were chosen nor any database.

The same records give the same bytes, whatever the order in which they come. Members keep their bytes; where a record came
from stands in `manifest.parquet`. All is written into a hidden folder beside, which takes its name when it is complete.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alchemist_core.errors import DataError, MissingShardError
from alchemist_core.files import (
    artifact_path,
    atomic_write,
    disk_sha256,
    file_sha256,
    partial_path,
    sync_folder,
    write_bytes_atomically,
)
from alchemist_core.shards import s3
from alchemist_core.shards.captions import BadTextError, read_annotation
from alchemist_core.shards.repairs import split_repairs
from alchemist_core.shards.samples import hash_content, hash_pair, repair_sample
from alchemist_core.shards.storage import is_s3, open_shard, remedy_of, sha256_of, view_ranges
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.shards.workers import n_own_cores
from alchemist_core.store.manifests import hash_column, sort_hashes
from alchemist_core.subsets.members import MemberLocation, MemberTable

Verify = Literal["read_back", "source"]
"""How much is checked: each record as it comes from its source; or also each tar as the disk gives it back."""
_CHUNK_RECORDS, _CHUNK_BYTES = 256, 1 << 24


class MaterializedShard(NamedTuple):
    """One finished tar; `plan` is the hash of what it was to hold."""

    name: str
    n_samples: int
    size_bytes: int
    sha256: str
    plan: str


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What one tar is to hold: the records, the number of the first in the copy, the extension of all pictures."""

    name: str
    first: int
    records: list[MemberLocation]
    image_ext: str

    def sha256(self) -> str:
        """Hash everything that decides the tar's bytes; where the records come from does not."""
        digest = hashlib.sha256(f"{self.first} {self.image_ext}".encode())
        for record in self.records:
            digest.update(record.pair_hash + repr((record.exts, record.sizes)).encode())
        return digest.hexdigest()


class TarPlace(Protocol):
    """Where finished tars of a copy are kept: the folder in which they are written, or somewhere else to which they are moved."""

    def has(self, folder: Path, shard: MaterializedShard) -> bool:
        """Tell whether a finished tar is there and whole."""

    def write(self, folder: Path, plan: ShardPlan) -> tuple[MaterializedShard, int]:
        """Copy a tar's records there, by way of the folder; returns it and the bytes that were written there."""


@dataclass(frozen=True, slots=True)
class InFolder:
    """Tars stay in the folder."""

    verify: Verify

    def has(self, folder: Path, shard: MaterializedShard) -> bool:
        """Tell whether a tar has its size and, if read back, its bytes."""
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.size_bytes:
            return False
        with path.open("rb") as file:
            return self.verify == "source" or disk_sha256(file).hex() == shard.sha256

    def write(self, folder: Path, plan: ShardPlan) -> tuple[MaterializedShard, int]:
        """Copy a tar's records.

        Raises:
            DataError: As `write_tar` and `view_ranges`; or a record is not the pair that was registered.
        """
        digest = write_tar(folder / plan.name, _entries(plan), read_back=self.verify == "read_back")
        size_bytes = (folder / plan.name).stat().st_size
        return MaterializedShard(plan.name, len(plan.records), size_bytes, digest.hex(), plan.sha256()), size_bytes


def read_records(records: Sequence[MemberLocation]) -> Iterator[list[memoryview]]:
    """Yield the members of each record, in the order given; each source is opened once and read in its own order.

    Raises:
        DataError: A source is gone, or a record is not the pair that was registered.
    """
    by_uri: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        by_uri.setdefault(record.uri, []).append(position)
    found: list[list[memoryview]] = [[] for _ in records]
    for uri, positions in by_uri.items():
        spans = [span for at in positions for span in zip(records[at].offsets, records[at].sizes, strict=True)]
        views = iter(view_ranges(uri, spans))
        for at in positions:
            found[at] = [next(views) for _ in records[at].exts]
    for record, members in zip(records, found, strict=True):
        check_record(record, members)
        yield members


def check_record(record: MemberLocation, members: Sequence[bytes | memoryview]) -> None:
    """Refuse bytes that are not those that were registered, by every member's hash, or by the pair's name where ingest took none.

    Raises:
        DataError: They are others.
    """
    hashes = [hashlib.sha256(data).digest() for data in members]
    if record.content_hash is not None:
        if hash_content(hashes) != record.content_hash:
            raise DataError(_describe_change(record, "a member has another sha256"))
        return
    by_ext = dict(zip(record.exts, members, strict=True))
    text, document = (bytes(by_ext[ext]) if ext in by_ext else None for ext in ("txt", "json"))
    try:
        caption = read_annotation(text, document, split_repairs(record.repair)).caption
    except BadTextError as error:
        raise DataError(_describe_change(record, str(error))) from error
    image_hash = next((found for ext, found in zip(record.exts, hashes, strict=True) if ext in IMAGE_EXTS), b"")
    if hash_pair(image_hash, hashlib.sha256(caption.encode()).digest()) != record.pair_hash:
        raise DataError(_describe_change(record, "its picture or caption has another sha256"))


def _entries(plan: ShardPlan) -> Iterator[tuple[str, memoryview]]:
    number = plan.first
    for chunk in _chunks(plan.records):
        for record, members in zip(chunk, read_records(chunk), strict=True):
            for ext, data in zip(record.exts, members, strict=True):
                yield f"{number:09d}.{plan.image_ext if ext in IMAGE_EXTS else ext}", data
            number += 1


def _chunks(records: Sequence[MemberLocation]) -> Iterator[list[MemberLocation]]:
    """Yield as many records at a time as are read together: few, where they are large."""
    chunk: list[MemberLocation] = []
    size_bytes = 0
    for record in records:
        chunk.append(record)
        size_bytes += sum(record.sizes)
        if len(chunk) == _CHUNK_RECORDS or size_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    yield chunk


def _describe_change(record: MemberLocation, detail: str) -> str:
    return (
        f"{record.uri}: record {record.key!r} is not the pair {record.pair_hash.hex()[:16]} that was registered ({detail}). "
        f"{remedy_of(record.uri)}, and select again."
    )


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


def read_dataset_manifest(place: Path | BinaryIO) -> tuple[str, list[MaterializedShard]] | None:
    """Return a copy's identity and its tars, as the manifest in its folder, or an open one, says; None where that is none."""
    try:
        about = pq.read_schema(place / MANIFEST_NAME if isinstance(place, Path) else place).metadata or {}
        return about[_IDENTITY].decode(), [MaterializedShard(*shard) for shard in json.loads(about[_SHARDS])]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_dataset_manifest(
    folder: Path, members: MemberTable, order_N: NDArray[np.int64], shards: Sequence[MaterializedShard], identity: str
) -> None:
    """Write one row a record, in the order of the tars: its new key, and where it came from."""
    about = {_IDENTITY: identity, _SHARDS: json.dumps(shards)}
    names = np.array([shard.name for shard in shards], dtype=object)
    shard_N = np.repeat(np.arange(len(shards)), [shard.n_samples for shard in shards])
    with (
        atomic_write(folder / MANIFEST_NAME, is_sole_writer=True) as partial,
        pq.ParquetWriter(partial, SCHEMA.with_metadata(about), compression="zstd") as writer,
    ):
        for first in range(0, len(order_N), _GROUP_ROWS):
            rows = slice(first, first + _GROUP_ROWS)
            writer.write_table(_manifest_rows(members, order_N[rows], names[shard_N[rows]], first))


def write_dataset_info(folder: Path, name: str, members: MemberTable, shards: Sequence[MaterializedShard]) -> None:
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


def write_sums(folder: Path, shards: Sequence[MaterializedShard]) -> None:
    """List every file's sha256 as `sha256sum --check` reads it: who gets the copy from somewhere can prove it whole."""
    write_bytes_atomically(folder / SUMS_NAME, _sums(folder, shards))


def has_right_sums(folder: Path, shards: Sequence[MaterializedShard]) -> bool:
    """Tell whether what lies beside the tars is what was written, and the list names the tars' sums."""
    try:
        return (folder / SUMS_NAME).read_bytes() == _sums(folder, shards)
    except FileNotFoundError:
        return False


def _sums(folder: Path, shards: Sequence[MaterializedShard]) -> bytes:
    sums = {shard.name: shard.sha256 for shard in shards}
    for name in (CARD_NAME, MANIFEST_NAME, INDEX_NAME):
        sums[name] = file_sha256(folder / name).hex()
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


JOURNAL_NAME = ".journal"


class Journal:
    """Opens a folder for a copy, made where it is not there, and emptied where it was another copy's.

    Args:
        folder: Where the tars grow; nobody else writes there.
        identity: The copy's name.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._path = folder / JOURNAL_NAME
        self.known: dict[str, MaterializedShard] = {}
        if not self._read(identity):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._path.write_text(f"{identity}\n", encoding="utf-8")
        # What a kill left half written; nobody else writes here.
        for cut in folder.glob(".*"):
            if cut != self._path:
                cut.unlink()

    def add(self, shard: MaterializedShard) -> None:
        """Note a finished tar, which is safe on the disk by now."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(shard)}\n")

    def remove(self) -> None:
        """Forget it: the manifest says all."""
        self._path.unlink(missing_ok=True)

    def _read(self, identity: str) -> bool:
        """Take up what an interrupted copy finished; a line that was cut by a kill is as good as none."""
        manifest = read_dataset_manifest(self._path.parent)
        if manifest is not None and manifest[0] == identity:
            self.known = {shard.name: shard for shard in manifest[1]}
            return True
        if not self._path.is_file():
            return False
        found, *lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        for line in lines:
            with suppress(ValueError, TypeError):
                shard = MaterializedShard(*json.loads(line))
                self.known[shard.name] = shard
        return found == identity


Report = Callable[[int, int, str], None]
# Hugging Face's reader takes the columns of a dataset from so many first samples, where it is not told them.
_N_LEADING = 5
# Some threads wait for the disk while as many as there are cores compute.
_THREADS_A_CORE = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """What decides the tars of a copy beside its members: records a tar; the order of the sources, or one by hash and seed."""

    shard_size: int
    shuffle_seed: int | None = None


class MaterializedDataset(NamedTuple):
    """A finished copy; `n_bytes_written` is 0 where it was there."""

    folder: Path
    shards: list[MaterializedShard]
    n_bytes_written: int


def materialize_folder(
    members: MemberTable,
    out_dir: Path,
    layout: Layout,
    *,
    place: TarPlace = InFolder("read_back"),
    report: Report | None = None,
) -> MaterializedDataset:
    """Copy the records into `out_dir/NNNNNN.tar`, with a manifest and what readers of datasets look for.

    What is already there and right is kept: a run after a finished one writes nothing, a run after a killed one goes on
    with the tars that are missing. Where `place` moves finished tars away, the folder keeps what describes them. Pictures
    of different formats get the extension of the commonest, so that a dataset has one picture column; readers look at the
    content.

    Raises:
        DataError: A source's bytes are not those of its pair any more, a pair comes twice, the disk is full or gives back
            other bytes, or the folder holds something else. Nothing has taken the folder's name then.
    """
    identity, aside = identify_dataset(members, layout), hidden_folder(out_dir)
    with _sole_writer(out_dir.parent), ThreadPoolExecutor(_THREADS_A_CORE * n_own_cores()) as pool:
        if (shards := _find_dataset(out_dir, identity)) is not None:
            if all(pool.map(partial(place.has, out_dir), shards)) and has_right_sums(out_dir, shards):
                return MaterializedDataset(out_dir, shards, 0)
            _reopen(out_dir, aside)
        order_N = _order(members, layout)
        journal = Journal(aside, identity)
        shards, n_bytes = _Writing(members, order_N, layout.shard_size, aside, place).copy(pool, journal, report)
        write_dataset_manifest(aside, members, order_N, shards, identity)
        write_dataset_info(aside, out_dir.name, members, shards)
        write_sums(aside, shards)
        journal.remove()
        sync_folder(aside)
        aside.replace(out_dir)
        sync_folder(out_dir.parent)
    return MaterializedDataset(out_dir, shards, n_bytes)


def hidden_folder(out_dir: Path) -> Path:
    """Return where a copy grows until it is complete."""
    return partial_path(out_dir)


def identify_dataset(members: MemberTable, layout: Layout) -> str:
    """Name a copy by its members and its layout: where their bytes lie today is no part of it.

    Raises:
        DataError: A pair comes twice.
    """
    pair_hash_N32 = sort_hashes(hash_column(members.table.column("pair_hash")))
    is_again_N = (pair_hash_N32[1:] == pair_hash_N32[:-1]).all(axis=1)
    if is_again_N.any():
        again = pair_hash_N32[1:][is_again_N][0].tobytes()
        raise DataError(f"{int(is_again_N.sum())} pairs are to be copied twice, the first is {again.hex()[:16]}")
    digest = hashlib.sha256(f"1 {layout.shard_size} {layout.shuffle_seed} ".encode())
    digest.update(np.ascontiguousarray(pair_hash_N32).data)
    return digest.hexdigest()


def _order(members: MemberTable, layout: Layout) -> NDArray[np.int64]:
    """Return the order of the records: five that have all members lead."""
    seed = layout.shuffle_seed
    order_N = members.source_order() if seed is None else members.hash_order(seed)
    n_N = members.n_files()[order_N]
    leading = np.flatnonzero(n_N == n_N.max(initial=0))[:_N_LEADING]
    return np.concatenate([order_N[leading], np.delete(order_N, leading)])


def _find_dataset(out_dir: Path, identity: str) -> list[MaterializedShard] | None:
    """Return what the folder's manifest says it holds; None where there is no folder.

    Raises:
        DataError: The folder is not this copy.
    """
    if not out_dir.exists():
        return None
    found = read_dataset_manifest(out_dir)
    if found is None or found[0] != identity:
        raise DataError(f"{out_dir} is there and holds something else; remove the folder, or name another one")
    return found[1]


def _reopen(out_dir: Path, aside: Path) -> None:
    """Take a damaged copy's name away and go on with what is right in it."""
    shutil.rmtree(aside, ignore_errors=True)
    out_dir.replace(aside)


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process copies into the folder; a killed one leaves no lock.

    Raises:
        DataError: The folder cannot be written. What concerns a source is said before it comes here.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(
            f"{folder} cannot be written ({reason}); make room, or correct the folder's rights, then run again"
        ) from error


@dataclass(frozen=True, slots=True)
class _Writing:
    members: MemberTable
    order_N: NDArray[np.int64]
    shard_size: int
    folder: Path
    place: TarPlace

    def copy(
        self, pool: ThreadPoolExecutor, journal: Journal, report: Report | None
    ) -> tuple[list[MaterializedShard], int]:
        """Copy every tar that is missing, several at a time; returns all of them and the bytes written."""
        image_ext = self.members.commonest_image_ext()
        firsts = range(0, len(self.order_N), self.shard_size)
        work = partial(self._ensure, image_ext=image_ext, known=dict(journal.known))
        futures = [pool.submit(work, number, first) for number, first in enumerate(firsts)]
        n_done = n_bytes = 0
        try:
            for future in as_completed(futures):
                shard, n_new = future.result()
                n_done, n_bytes = n_done + shard.n_samples, n_bytes + n_new
                if n_new:
                    journal.add(shard)
                if report is not None:
                    report(n_done, len(self.order_N), shard.name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result()[0] for future in futures], n_bytes

    def _ensure(
        self, number: int, first: int, *, image_ext: str, known: dict[str, MaterializedShard]
    ) -> tuple[MaterializedShard, int]:
        records = self.members.rows(self.order_N[first : first + self.shard_size])
        plan = ShardPlan(f"{number:06d}.tar", first, records, image_ext)
        found = known.get(plan.name)
        if found is not None and found.plan == plan.sha256() and self.place.has(self.folder, found):
            return found, 0
        return self.place.write(self.folder, plan)


_N_QUESTIONS = 16
_COPY, _SHA256 = "alchemist-copy", "alchemist-sha256"


def display_address(uri: str) -> str:
    """Return where a copy lies, as people write it: relative addresses are under the home, so that it can be moved."""
    return uri if is_s3(uri) else str(artifact_path(uri))


def require_reachable(uri: str) -> None:
    """Refuse an object store that cannot be asked, before anything is noted or read.

    Raises:
        DataError: There is no such bucket, or it cannot be reached.
    """
    if is_s3(uri):
        s3.find_objects(uri)


def materialize_to(
    members: MemberTable, uri: str, layout: Layout, *, verify: Verify = "read_back", report: Report | None = None
) -> MaterializedDataset:
    """Copy records to a folder or an `s3://` prefix, as `materialize_folder` does: what is there and right is not written again.

    Raises:
        DataError: As `materialize_folder`; or the object store refuses, or holds something else under the prefix.
    """
    if not is_s3(uri):
        return materialize_folder(members, artifact_path(uri), layout, place=InFolder(verify), report=report)
    bucket = _InBucket(uri.rstrip("/"), identify_dataset(members, layout), verify)
    if (shards := bucket.find_dataset()) is not None:
        return MaterializedDataset(Path(uri), shards, 0)
    local = _staging(uri) / bucket.uri.rpartition("/")[2]
    copy = materialize_folder(members, local, layout, place=bucket, report=report)
    beside = sorted(local.iterdir(), key=lambda path: path.name == MANIFEST_NAME)
    n_bytes = copy.n_bytes_written + sum(map(bucket.put, beside))
    shutil.rmtree(_staging(uri))
    return copy._replace(n_bytes_written=n_bytes)


def is_finished(uri: str) -> bool:
    """Tell whether a copy has its manifest, which is written last; one that cannot be looked at counts as finished."""
    if not is_s3(uri):
        return (artifact_path(uri) / MANIFEST_NAME).exists()
    try:
        s3.stat_object(f"{uri.rstrip('/')}/{MANIFEST_NAME}")
    except MissingShardError:
        return False
    except DataError:
        return True
    return True


def materialized_size(uri: str) -> int:
    """Return the bytes that a copy takes up, also one that was not finished.

    Raises:
        DataError: It cannot be looked at, so that nobody knows whether it is there.
    """
    n_uploaded = sum(size for _, size, _ in s3.find_objects(uri)) if is_s3(uri) else 0
    try:
        return n_uploaded + sum(map(_folder_size, _folders(uri)))
    except OSError as error:
        raise DataError(
            f"{error.filename or uri} cannot be looked at ({error.strerror}): correct its rights, then run again"
        ) from error


def remove_materialized(uri: str) -> None:
    """Remove a copy, also one that was not finished.

    Raises:
        DataError: Something of it cannot be removed, and is still there.
    """
    if is_s3(uri):
        s3.remove_objects(uri)
    for folder in _folders(uri):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise DataError(
                f"{folder} cannot be removed ({error.strerror or error}): correct the folder's rights, then run again"
            ) from error


def _folder_size(folder: Path) -> int:
    def refuse(error: OSError) -> None:
        raise error

    found = os.walk(folder, onerror=refuse)
    return sum(Path(where, name).lstat().st_size for where, _, names in found for name in names)


def _staging(uri: str) -> Path:
    """Return the folder of the home by way of which a copy is uploaded."""
    return artifact_path(f"uploading/{hashlib.sha256(uri.encode()).hexdigest()[:16]}")


def _folders(uri: str) -> list[Path]:
    if is_s3(uri):
        return [_staging(uri)] if _staging(uri).exists() else []
    return [folder for folder in (artifact_path(uri), hidden_folder(artifact_path(uri))) if folder.exists()]


@dataclass(frozen=True, slots=True)
class _InBucket:
    """A copy under a prefix, whose objects all bear its identity and their sha256 as labels."""

    uri: str
    identity: str
    verify: Verify

    def has(self, _folder: Path, shard: MaterializedShard) -> bool:
        """Tell whether an uploaded tar is there and whole."""
        return self._is_whole(f"{self.uri}/{shard.name}", shard.size_bytes, shard.sha256)

    def write(self, folder: Path, plan: ShardPlan) -> tuple[MaterializedShard, int]:
        """Copy a tar's records, upload it and free its room; bytes are those that were sent."""
        shard, _ = InFolder("source").write(folder, plan)
        n_bytes = self.put(folder / shard.name)
        (folder / shard.name).unlink()
        return shard, n_bytes

    def put(self, path: Path) -> int:
        """Upload a file unless it is there; returns the bytes that were sent.

        Raises:
            DataError: The store refuses it, or gives back other bytes.
        """
        to, size_bytes = f"{self.uri}/{path.name}", path.stat().st_size
        digest = file_sha256(path).hex()
        if self._is_whole(to, size_bytes, digest):
            return 0
        s3.put_file(to, path, {_COPY: self.identity, _SHA256: digest})
        if self.verify == "read_back" and sha256_of(to).hex() != digest:
            raise DataError(f"{to} reads back otherwise than it was written; check the object store, then run again")
        return size_bytes

    def find_dataset(self) -> list[MaterializedShard] | None:
        """Return the tars of a finished and undamaged copy; None where it has to be made, or made whole.

        Raises:
            DataError: Something else lies under the prefix, or the store cannot be asked.
        """
        sizes = {found: size for found, size, _ in s3.find_objects(self.uri)}
        with ThreadPoolExecutor(_N_QUESTIONS) as pool:
            labels = dict(zip(sizes, (label for _, label in pool.map(s3.read_labels, sizes)), strict=True))
            if strange := [found for found, label in labels.items() if label.get(_COPY) != self.identity]:
                raise DataError(
                    f"{strange[0]} is there and belongs to something else; remove what lies under {self.uri}, or name another place"
                )
            shards = self._read_manifest() if f"{self.uri}/{MANIFEST_NAME}" in labels else None
            if shards is None:
                return None
            tars = {f"{self.uri}/{shard.name}": (shard.size_bytes, shard.sha256) for shard in shards}
            if any((sizes.get(tar), labels.get(tar, {}).get(_SHA256)) != wanted for tar, wanted in tars.items()):
                return None
            is_read_back = pool.map(self._reads_back, labels, (label[_SHA256] for label in labels.values()))
            return shards if all(is_read_back) else None

    def _read_manifest(self) -> list[MaterializedShard] | None:
        with open_shard(f"{self.uri}/{MANIFEST_NAME}") as file:
            found = read_dataset_manifest(file)
        return found[1] if found else None

    def _is_whole(self, uri: str, size_bytes: int, digest: str) -> bool:
        try:
            found_bytes, label = s3.read_labels(uri)
        except DataError:
            return False
        return (found_bytes, label.get(_SHA256)) == (size_bytes, digest) and self._reads_back(uri, digest)

    def _reads_back(self, uri: str, digest: str) -> bool:
        return self.verify == "source" or sha256_of(uri).hex() == digest


class RepairSamples:
    """Repairs the samples of a materialized dataset as they are read: `WebDataset(...).map(RepairSamples(folder))`.

    Args:
        folder: Folder with the dataset's `manifest.parquet`.
    """

    def __init__(self, folder: Path | str) -> None:
        path = Path(folder) / MANIFEST_NAME
        self._repair_of: dict[str, str] = {}
        # Datasets that were materialized before ingest repaired anything have no such column.
        if "repair" in pq.read_schema(path).names:
            table = pq.read_table(path, columns=["key", "repair"])
            table = table.filter(pc.is_valid(table["repair"]))
            self._repair_of = dict(zip(*(table[name].to_pylist() for name in ("key", "repair")), strict=True))

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample, repaired if ingest repaired it."""
        return repair_sample(sample, self._repair_of.get(sample["__key__"]))
