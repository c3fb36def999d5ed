"""Materialized datasets: the records of a subset version, copied byte by byte into new tars with a manifest.

A dataset is in a folder of the home, in any other folder, or under an `s3://` prefix. The same records give the same bytes,
in every order in which they arrive. `manifest.parquet` names each record's source and is written last: a dataset without it is
not finished. A folder is filled under a hidden name and renamed when it is complete. For an object store each tar is written
in the home, uploaded and deleted, so that only the tars in progress need space.

From top to bottom: the interface; a dataset in a folder; storage of tars; reading records; the manifest and the files beside it; the
journal by which an interrupted run resumes. `tar_copies` makes the bytes of the tars. Large datasets are written by worker processes,
which import this module: it must not load the store. Letters: N members · K of them.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alchemist_core.cores import n_own_cores
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
from alchemist_core.selection.weights import epoch_size_of, reads_of_epoch
from alchemist_core.settings import load_settings
from alchemist_core.shards import s3
from alchemist_core.shards.samples import repair_sample
from alchemist_core.shards.storage import is_s3, open_shard, sha256_of, view_ranges
from alchemist_core.shards.tar_writer import write_blocks
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.shards.workers import WorkerDiedError, Workers
from alchemist_core.store.manifests import WEIGHT, hash_column, hashes_sha256, sort_hashes
from alchemist_core.subsets.member_table import SIZE_COLUMNS, WEIGHT_COLUMN, MemberLocation, MemberTable, first_64_bits
from alchemist_core.subsets.tar_copies import TarCopy, TarPlan, check_record
from alchemist_core.telemetry import OnProgress

Verify = Literal["read_back", "source"]
"""source: compare each record read from its source with what ingest registered; read_back: also read each written tar again."""
OnFound = Callable[[bool], None]
"""Called before the first byte is written, with whether files are at the address already. They are those of the same dataset: others were
refused. It may refuse these too, because another store can have made them."""
MANIFEST_NAME, INDEX_NAME, CARD_NAME, SUMS_NAME = "manifest.parquet", "wids.json", "README.md", "SHA256SUMS"
JOURNAL_NAME = ".journal"
DATASETS = "materialized"
"""Folder of the artifacts."""
# What can be before NAME/vVERSION-... in an address: the folder of the home, or that of --to, which is absolute or in a bucket.
_ROOTS = rf"{DATASETS}|(?:/.*)?|s3://[^/]+(?:/.*)?"
# Hugging Face's reader infers the columns from this many first samples if the dataset card does not declare them.
_N_LEADING = 5
# Half of the threads or worker processes wait for the disk while the others compute.
_WRITERS_A_CORE = 2
# Threads of one process use about this many cores; on so few they copy faster than processes, which take time to start.
_CORES_FOR_THREADS = 4
# Starting a worker process takes as much processor time as copying about this many bytes.
_BYTES_A_WORKER = 1 << 29
# Disks are not faster with more, and each worker needs its own memory.
_MOST_WORKERS = 32
# One tar that a worker is writing, and one that it has received already.
_TARS_A_WORKER = 2
_N_REQUESTS = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """What determines the tars of a dataset beside its members: samples per tar, and the seed of the order (None: source order)."""

    shard_size: int
    shuffle_seed: int | None = None


class MaterializedShard(NamedTuple):
    """One finished tar; `plan` is the hash of its planned contents."""

    name: str
    n_samples: int
    size_bytes: int
    sha256: str
    plan: str


class MaterializedDataset(NamedTuple):
    """A finished dataset; `n_bytes_written` is 0 if it was there already."""

    folder: Path
    shards: list[MaterializedShard]
    n_bytes_written: int
    found: "FoundChecksums | None" = None
    """Checksums of the copied members whose store has none; None if there are none."""


class FoundChecksums(NamedTuple):
    """Members by their row in the table, and the checksum of each."""

    row_K: NDArray[np.int64]
    checksum_K16: NDArray[np.uint8]


class WrittenTar(NamedTuple):
    """A finished tar; the number of bytes written to the storage, 0 if it was there; checksums by the record's number in the tar."""

    shard: MaterializedShard
    n_bytes: int
    found: FoundChecksums | None = None


# --- The interface ------------------------------------------------------------------------------------------------------------


def materialize_to(
    members: MemberTable,
    uri: str,
    layout: Layout,
    *,
    verify: Verify = "read_back",
    on_found: OnFound | None = None,
    on_progress: OnProgress | None = None,
) -> MaterializedDataset:
    """Copy records to a folder or an `s3://` prefix. Correct parts that are there already are not written again.

    Raises:
        DataError: As `materialize_folder`; or the object store refuses, or the prefix holds something else.
    """
    if not is_s3(uri):
        return materialize_folder(
            members,
            dataset_folder(uri),
            layout,
            storage=FolderStorage(verify),
            on_found=on_found,
            on_progress=on_progress,
        )
    bucket = _ObjectStorage(uri.rstrip("/"), identify_dataset(members, layout), verify)
    if (shards := bucket.find_dataset(on_found)) is not None:
        return MaterializedDataset(Path(uri), shards, 0)
    local = _staging(uri) / bucket.uri.rpartition("/")[2]
    dataset = materialize_folder(members, local, layout, storage=bucket, on_progress=on_progress)
    beside = sorted(local.iterdir(), key=lambda path: path.name == MANIFEST_NAME)
    n_bytes = dataset.n_bytes_written + sum(map(bucket.put, beside))
    shutil.rmtree(_staging(uri))
    return dataset._replace(n_bytes_written=n_bytes)


def dataset_name(name: str, version: int, layout: Layout) -> str:
    """Return the last two parts of the address of a version's dataset; each layout has its own.

    >>> dataset_name("cats", 2, Layout(1000, shuffle_seed=7))
    'cats/v2-1000-s7'
    """
    order = "" if layout.shuffle_seed is None else f"-s{layout.shuffle_seed}"
    return f"{name}/v{version}-{layout.shard_size}{order}"


def require_own_address(uri: str, name: str, version: int) -> None:
    """Check that an address of the store is one that `materialize` makes for a version, before anything is deleted by it.

    Raises:
        DataError: It is not. A person who may change rows could name any folder, or a whole bucket.

    >>> require_own_address("s3://bucket/copies/cats/v2-1000-s7", "cats", 2)
    """
    own = rf"(?:{_ROOTS})/{re.escape(name)}/v{version}-[0-9]+(?:-s[0-9]+)?"
    if ".." in name.split("/") or not re.fullmatch(own, uri, re.DOTALL):
        raise DataError(
            f"{uri!r} is not an address that alchemist materialize makes for this version "
            f"({DATASETS}/{name}/v{version}-..., or {name}/v{version}-... under --to), so nothing of it is removed. "
            "Find out who changed this row of the store."
        )


def layout_of(uri: str) -> Layout:
    """Return the layout that an address of `dataset_name` is for.

    >>> layout_of("s3://bucket/copies/cats/v2-1000-s7")
    Layout(shard_size=1000, shuffle_seed=7)
    """
    _, shard_size, *seed = uri.rpartition("/")[2].split("-")
    return Layout(int(shard_size), int(seed[0].removeprefix("s")) if seed else None)


def dataset_folder(uri: str) -> Path:
    """Return the folder of a dataset: in the home, or that of an absolute address, which --to allows and `artifact_path` refuses."""
    return load_settings().artifacts / uri


def display_address(uri: str) -> str:
    """Return a dataset's address for display. The store holds addresses relative to the home, so that a home can be moved."""
    return uri if is_s3(uri) else str(dataset_folder(uri))


def require_reachable(uri: str) -> None:
    """Check an object store before anything is recorded or read.

    Raises:
        DataError: The bucket does not exist, or cannot be reached.
    """
    if is_s3(uri):
        s3.find_objects(uri)


def is_finished(uri: str) -> bool:
    """Return whether a dataset has its manifest. One whose object store cannot be reached counts as finished."""
    if not is_s3(uri):
        return (dataset_folder(uri) / MANIFEST_NAME).exists()
    try:
        s3.stat_object(f"{uri.rstrip('/')}/{MANIFEST_NAME}")
    except MissingShardError:
        return False
    except DataError:
        return True
    return True


def materialized_size(uri: str) -> int:
    """Return the size of a dataset in bytes, finished or not.

    Raises:
        DataError: It cannot be read, so that it is unknown whether it exists.
    """
    n_uploaded = sum(size for _, size, _ in s3.find_objects(uri)) if is_s3(uri) else 0
    try:
        return n_uploaded + sum(map(_folder_size, _folders(uri)))
    except OSError as error:
        raise DataError(
            f"{error.filename or uri} cannot be read ({error.strerror}). Correct its permissions, then run again."
        ) from error


def is_in_home(uri: str) -> bool:
    """Return whether an address is in the home, where no other store writes."""
    return not is_s3(uri) and not Path(uri).is_absolute()


def find_identities(uri: str) -> set[str | None]:
    """Return the identities (`identify_dataset`) of the files at an address outside the home; None for files without one.

    A folder has that of its manifest, an unfinished one that of its journal. An unfinished one without a journal has none to compare and is
    not counted: it is empty, or what an interrupted removal left. Each object has its own.

    Raises:
        DataError: The object store cannot be read.
    """
    if is_s3(uri):
        objects = [found for found, _, _ in s3.find_objects(uri)]
        with ThreadPoolExecutor(_N_REQUESTS) as pool:
            return {label.get(_IDENTITY_LABEL) for _, label in pool.map(s3.read_labels, objects)}
    folder, partial = dataset_folder(uri), partial_path(dataset_folder(uri))
    found: set[str | None] = {_identity_in(folder)} if folder.exists() else set()
    if partial.exists() and (identity := _identity_in(partial)) is not None:
        found.add(identity)
    return found


def _identity_in(folder: Path) -> str | None:
    if (manifest := read_dataset_manifest(folder)) is not None:
        return manifest[0]
    try:
        return (folder / JOURNAL_NAME).read_text(encoding="utf-8", errors="replace").partition("\n")[0] or None
    except OSError:
        return None


def remove_materialized(uri: str) -> None:
    """Delete a dataset, finished or not. The caller has compared the address (`require_own_address`) and what is there (`find_identities`).

    Raises:
        DataError: A part of it cannot be deleted and still exists.
    """
    if is_s3(uri):
        s3.remove_objects(uri)
    # The unfinished one first, whose name the finished one then takes: what an interrupted removal leaves has no manifest to be found by.
    for folder in reversed(_folders(uri)):
        try:
            shutil.rmtree(folder if is_s3(uri) else folder.replace(partial_path(dataset_folder(uri))))
        except OSError as error:
            raise DataError(
                f"{folder} cannot be removed ({error.strerror or error}). Correct the folder's permissions, then run again."
            ) from error


class RepeatSamples:
    """Repeats the samples of a materialized dataset as often as an epoch reads them: `WebDataset(...).compose(RepeatSamples(folder))`.

    It yields what `SubsetDataset` reads in the same epoch with the same seed. Repeats follow each other, so shuffle behind it.

    Args:
        folder: Folder with the dataset's `manifest.parquet`.
        seed: Seed of the reads.
        epoch: Number of the epoch.
    """

    def __init__(self, folder: Path | str, *, seed: int = 0, epoch: int = 0) -> None:
        path = Path(folder) / MANIFEST_NAME
        self._n_reads_of: dict[str, int] | None = None
        # Datasets of versions without repeats and weights have no such column.
        if WEIGHT_COLUMN in pq.read_schema(path).names:
            table = pq.read_table(path, columns=["key", "pair_hash", WEIGHT_COLUMN]).combine_chunks()
            hash64_N, weight_N = first_64_bits(hash_column(table["pair_hash"])), table[WEIGHT_COLUMN].to_numpy()
            read_N = reads_of_epoch(weight_N, hash64_N, seed=seed, epoch=epoch)
            self._n_reads_of = dict(zip(table["key"].to_pylist(), read_N.tolist(), strict=True))

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield each sample as often as the epoch reads it."""
        for sample in samples:
            for _ in range(1 if self._n_reads_of is None else self._n_reads_of[sample["__key__"]]):
                yield dict(sample)


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


def _folder_size(folder: Path) -> int:
    def refuse(error: OSError) -> None:
        raise error

    found = os.walk(folder, onerror=refuse)
    return sum(Path(where, name).lstat().st_size for where, _, names in found for name in names)


def _staging(uri: str) -> Path:
    """Return the folder of the home from which a dataset is uploaded."""
    return artifact_path(f"uploading/{hashlib.sha256(uri.encode()).hexdigest()[:16]}")


def _folders(uri: str) -> list[Path]:
    if is_s3(uri):
        return [_staging(uri)] if _staging(uri).exists() else []
    return [folder for folder in (dataset_folder(uri), partial_path(dataset_folder(uri))) if folder.exists()]


# --- A dataset in a folder ----------------------------------------------------------------------------------------------------


def materialize_folder(
    members: MemberTable,
    out_dir: Path,
    layout: Layout,
    *,
    storage: "TarStorage | None" = None,
    on_found: OnFound | None = None,
    on_progress: OnProgress | None = None,
) -> MaterializedDataset:
    """Copy the records into `out_dir/NNNNNN.tar`, with a manifest and the files that readers of datasets expect.

    Correct parts that are there already are kept: running it again after it finished writes nothing, after a kill it writes
    the missing tars. If `storage` moves finished tars elsewhere, the folder keeps the files that describe them. Images of
    different formats get the most common extension, so that a dataset has one image column; readers detect the format by content.

    Raises:
        DataError: A source's bytes are not those registered for the sample, a sample occurs twice, the disk is full or returns
            other bytes, or the folder holds something else. The folder does not exist then.
    """
    storage = storage or FolderStorage("read_back")
    identity, partial = identify_dataset(members, layout), partial_path(out_dir)
    with _sole_writer(out_dir.parent) as lock, ThreadPoolExecutor(_WRITERS_A_CORE * n_own_cores()) as pool:
        shards = _find_dataset(out_dir, identity)
        if on_found is not None:
            on_found(out_dir.exists() or partial.exists())
        if shards is not None:
            if all(pool.map(lambda shard: storage.has(out_dir, shard), shards)) and _has_right_sums(out_dir, shards):
                return MaterializedDataset(out_dir, shards, 0)
            # Reuse the correct parts of a damaged dataset.
            shutil.rmtree(partial, ignore_errors=True)
            out_dir.replace(partial)
        order_N = _order(members, layout)
        journal = Journal(partial, identity)
        writing = _Writing(members, order_N, layout.shard_size, partial, storage, dict(journal.known))
        n_workers = count_workers(members, writing.n_tars)
        tars = writing.write_in_workers(n_workers, lock) if n_workers else writing.write_in_threads(pool)
        written = writing.write_missing(tars, journal, on_progress)
        shards = [tar.shard for tar in written]
        write_dataset_manifest(partial, members, order_N, shards, identity)
        _write_dataset_info(partial, out_dir.name, members, shards)
        write_bytes_atomically(partial / SUMS_NAME, _sums(partial, shards))
        journal.remove()
        sync_folder(partial)
        partial.replace(out_dir)
        sync_folder(out_dir.parent)
    return MaterializedDataset(out_dir, shards, sum(tar.n_bytes for tar in written), writing.rows_found(written))


def identify_dataset(members: MemberTable, layout: Layout) -> str:
    """Return a hash of the members and the layout. It does not depend on the locations of the members' bytes.

    Raises:
        DataError: A sample occurs twice.
    """
    return identify_members(hash_column(members.table.column("pair_hash")), members.weights(), layout)


def identify_members(pair_hash_N32: NDArray[np.uint8], weight_N: NDArray[np.float64] | None, layout: Layout) -> str:
    """Return the same hash of members in any order, and of their weights if the version has any.

    Raises:
        DataError: A sample occurs twice.
    """
    sorted_N32 = sort_hashes(pair_hash_N32)
    is_again_N = (sorted_N32[1:] == sorted_N32[:-1]).all(axis=1)
    if is_again_N.any():
        again = sorted_N32[1:][is_again_N][0].tobytes()
        raise DataError(
            f"{int(is_again_N.sum())} samples occur twice among the members, the first is {again.hex()[:16]}. Select again."
        )
    digest = hashlib.sha256(f"1 {layout.shard_size} {layout.shuffle_seed} ".encode())
    digest.update(np.ascontiguousarray(sorted_N32).data)
    if weight_N is not None:
        digest.update(hashes_sha256(pair_hash_N32, weight_N).encode())
    return digest.hexdigest()


def _order(members: MemberTable, layout: Layout) -> NDArray[np.int64]:
    """Return the order of the records, with five records that have every file first."""
    seed = layout.shuffle_seed
    order_N = members.source_order() if seed is None else members.hash_order(seed)
    n_N = members.n_files()[order_N]
    leading = np.flatnonzero(n_N == n_N.max(initial=0))[:_N_LEADING]
    return np.concatenate([order_N[leading], np.delete(order_N, leading)])


def _find_dataset(out_dir: Path, identity: str) -> list[MaterializedShard] | None:
    """Return the tars that the folder's manifest lists; None if the folder does not exist.

    Raises:
        DataError: The folder holds something else.
    """
    if not out_dir.exists():
        return None
    found = read_dataset_manifest(out_dir)
    if found is None or found[0] != identity:
        raise DataError(f"{out_dir} exists and holds something else. Remove the folder, or name another one.")
    return found[1]


@contextmanager
def _sole_writer(folder: Path) -> Iterator[int]:
    """Hold the folder's lock and yield its file descriptor; waits while another process writes there.

    The system releases the lock when the last process that has the descriptor ends: a worker that outlives its parent still writes.

    Raises:
        DataError: The folder cannot be written. Errors of a source are raised as such before.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(
            f"{folder} cannot be written ({reason}). Make room, or correct the folder's permissions, then run again."
        ) from error


def count_workers(members: MemberTable, n_tars: int) -> int:
    """Return how many worker processes write tars; 0: threads of this process do, which are faster on up to four cores.

    As configured by `decode_workers`, else two per core, or fewer if there are few bytes or tars.
    """
    if (n_set := load_settings().decode_workers) is not None:
        return min(n_set, n_tars)
    if n_own_cores() <= _CORES_FOR_THREADS:
        return 0
    n_bytes = pc.sum(pc.list_flatten(members.table.column("sizes"))).as_py() or 0
    n_workers = min(_WRITERS_A_CORE * n_own_cores(), n_tars, n_bytes // _BYTES_A_WORKER, _MOST_WORKERS)
    return n_workers if n_workers > 1 else 0


@dataclass(frozen=True, slots=True)
class WriteTarTask:
    """One tar to write, unless it is stored already, in a thread or in a worker process."""

    storage: "TarStorage"
    folder: Path
    plan: TarPlan
    known: MaterializedShard | None
    """The tar of this name that an earlier run finished."""

    def read(self) -> None:
        """Read nothing ahead: a tar may be larger than memory."""

    def work(self, _data: None, _place: memoryview) -> "WrittenTar":
        """Write the tar in a worker process.

        Raises:
            DataError: As `TarStorage.write`.
        """
        return self.write()

    def write(self) -> "WrittenTar":
        """Write the tar, or return the stored one.

        Raises:
            DataError: As `TarStorage.write`.
        """
        found = self.known
        if found is not None and found.plan == self.plan.sha256() and self.storage.has(self.folder, found):
            return WrittenTar(found, 0)
        return self.storage.write(self.folder, self.plan)


@dataclass(frozen=True, slots=True)
class _Writing:
    members: MemberTable
    order_N: NDArray[np.int64]
    shard_size: int
    folder: Path
    storage: "TarStorage"
    known: Mapping[str, MaterializedShard]

    @property
    def n_tars(self) -> int:
        return -(-len(self.order_N) // self.shard_size)

    def write_missing(
        self, tars: Generator[tuple[int, "WrittenTar"], None, None], journal: "Journal", on_progress: OnProgress | None
    ) -> list[WrittenTar]:
        """Record each tar when it is written; returns all tars in their order."""
        written: dict[int, WrittenTar] = {}
        n_done = 0
        with closing(tars):
            for number, tar in tars:
                written[number] = tar
                n_done += tar.shard.n_samples
                if tar.n_bytes:
                    journal.add(tar.shard)
                if on_progress is not None:
                    on_progress(n_done, len(self.order_N), tar.shard.name)
        return [written[number] for number in range(self.n_tars)]

    def write_in_threads(self, pool: ThreadPoolExecutor) -> Generator[tuple[int, "WrittenTar"], None, None]:
        """Write every missing tar, several at a time; yield each tar's number and the tar, as they are finished."""
        image_ext = self.members.commonest_image_ext()
        futures = {
            pool.submit(lambda number: self._task(number, image_ext).write(), number): number
            for number in range(self.n_tars)
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    def write_in_workers(self, n_workers: int, lock: int) -> Generator[tuple[int, "WrittenTar"], None, None]:
        """Do the same in processes that hold the lock, each for one tar at a time. A tar on which a process died is written again, once."""
        image_ext = self.members.commonest_image_ext()
        waiting, suspects, n_sent = deque(range(self.n_tars)), set[int](), 0
        # They copy and decode nothing, and where they read and write is known only tar by tar.
        with Workers(n_workers, module=__name__, keep_open=(lock,), uses_s3=True) as workers:
            while waiting or n_sent:
                while waiting and n_sent < _TARS_A_WORKER * n_workers:
                    number = waiting.popleft()
                    workers.submit(self._task(number, image_ext), number)
                    n_sent += 1
                for done in workers.wait():
                    n_sent -= 1
                    if done.error is None:
                        yield done.ticket, done.result
                        continue
                    self._accept_death(done.ticket, done.error, suspects)
                    waiting.appendleft(done.ticket)

    def _accept_death(self, number: int, error: Exception, suspects: set[int]) -> None:
        """Raise an error of a task, unless its worker died and may have been killed from outside."""
        if not isinstance(error, WorkerDiedError):
            raise error
        if error.is_begun and number in suspects:
            raise DataError(
                f"Two worker processes died while they wrote {number:06d}.tar ({error}), probably for lack of memory. Run again with "
                "ALCHEMIST_DECODE_WORKERS=0, which starts none."
            ) from error
        if error.is_begun:
            suspects.add(number)

    def _task(self, number: int, image_ext: str) -> WriteTarTask:
        first = number * self.shard_size
        members = self.members.take(self.order_N[first : first + self.shard_size]).with_own_sources()
        plan = TarPlan(f"{number:06d}.tar", first, members, image_ext)
        return WriteTarTask(self.storage, self.folder, plan, self.known.get(plan.name))

    def rows_found(self, written: Sequence[WrittenTar]) -> FoundChecksums | None:
        """Return the checksums that were found, by the members' rows in the table."""
        found = [
            FoundChecksums(self.order_N[number * self.shard_size :][tar.found.row_K], tar.found.checksum_K16)
            for number, tar in enumerate(written)
            if tar.found is not None
        ]
        return FoundChecksums(*(np.concatenate(parts) for parts in zip(*found, strict=True))) if found else None


# --- Storage of tars ----------------------------------------------------------------------------------------------------------


class TarStorage(Protocol):
    """Keeps finished tars: in the folder in which they are written, or in another place."""

    def has(self, folder: Path, shard: MaterializedShard) -> bool:
        """Return whether a finished tar is stored and undamaged."""

    def write(self, folder: Path, plan: TarPlan) -> WrittenTar:
        """Write a tar in the folder and store it."""


@dataclass(frozen=True, slots=True)
class FolderStorage:
    """Leaves tars in the folder."""

    verify: Verify

    def has(self, folder: Path, shard: MaterializedShard) -> bool:
        """Return whether a tar has its size and, if verified by reading back, its bytes."""
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.size_bytes:
            return False
        with path.open("rb") as file:
            return self.verify == "source" or disk_sha256(file).hex() == shard.sha256

    def write(self, folder: Path, plan: TarPlan) -> WrittenTar:
        """Write a tar.

        Raises:
            DataError: As `write_blocks` and `read_into`; or a record does not hold the registered sample.
        """
        copy = TarCopy(plan)
        digest = write_blocks(folder / plan.name, copy.blocks(), read_back=self.verify == "read_back")
        size_bytes = (folder / plan.name).stat().st_size
        shard = MaterializedShard(plan.name, len(plan.members), size_bytes, digest.hex(), plan.sha256())
        row_K, checksum_K16 = copy.found()
        return WrittenTar(shard, size_bytes, FoundChecksums(row_K, checksum_K16) if len(row_K) else None)


_IDENTITY_LABEL, _SHA256_LABEL = "alchemist-copy", "alchemist-sha256"


@dataclass(frozen=True, slots=True)
class _ObjectStorage:
    """Uploads tars to a prefix. Each object's metadata holds the identity of the dataset and the object's SHA-256."""

    uri: str
    identity: str
    verify: Verify

    def has(self, _folder: Path, shard: MaterializedShard) -> bool:
        """Return whether a tar is uploaded and undamaged."""
        return self._is_whole(f"{self.uri}/{shard.name}", shard.size_bytes, shard.sha256)

    def write(self, folder: Path, plan: TarPlan) -> WrittenTar:
        """Write a tar, upload it and delete it here; `n_bytes` counts the bytes uploaded."""
        written = FolderStorage("source").write(folder, plan)
        n_bytes = self.put(folder / plan.name, sha256=written.shard.sha256)
        (folder / plan.name).unlink()
        return written._replace(n_bytes=n_bytes)

    def put(self, path: Path, *, sha256: str | None = None) -> int:
        """Upload a file unless it is there; returns the number of bytes uploaded.

        Raises:
            DataError: The store refuses it, or returns other bytes.
        """
        to, size_bytes, digest = f"{self.uri}/{path.name}", path.stat().st_size, sha256 or file_sha256(path).hex()
        if self._is_whole(to, size_bytes, digest):
            return 0
        s3.put_file(to, path, {_IDENTITY_LABEL: self.identity, _SHA256_LABEL: digest})
        # Compared with the hash of the bytes as they were made, because the local disk can have changed them since.
        if not self._reads_back(to, digest):
            raise DataError(
                f"{to} differs from what was written to {path}. Check the local disk and the object store, then run again."
            )
        return size_bytes

    def find_dataset(self, on_found: OnFound | None = None) -> list[MaterializedShard] | None:
        """Return the tars of a finished and undamaged dataset; None if it must be written or completed.

        Raises:
            DataError: The prefix holds something else, or the store cannot be reached.
        """
        sizes = {found: size for found, size, _ in s3.find_objects(self.uri)}
        with ThreadPoolExecutor(_N_REQUESTS) as pool:
            labels = dict(zip(sizes, (label for _, label in pool.map(s3.read_labels, sizes)), strict=True))
            if strange := [found for found, label in labels.items() if label.get(_IDENTITY_LABEL) != self.identity]:
                raise DataError(
                    f"{strange[0]} exists and belongs to something else. Remove everything under {self.uri}, or name another "
                    "address."
                )
            if on_found is not None:
                on_found(bool(sizes))
            beside = {f"{self.uri}/{name}" for name in (CARD_NAME, INDEX_NAME, SUMS_NAME, MANIFEST_NAME)}
            shards = self._read_manifest() if beside <= labels.keys() else None
            if shards is None:
                return None
            tars = {f"{self.uri}/{shard.name}": (shard.size_bytes, shard.sha256) for shard in shards}
            if any((sizes.get(tar), labels.get(tar, {}).get(_SHA256_LABEL)) != wanted for tar, wanted in tars.items()):
                return None
            is_read_back = pool.map(self._reads_back, labels, (label[_SHA256_LABEL] for label in labels.values()))
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
        return (found_bytes, label.get(_SHA256_LABEL)) == (size_bytes, digest) and self._reads_back(uri, digest)

    def _reads_back(self, uri: str, digest: str) -> bool:
        return self.verify == "source" or sha256_of(uri).hex() == digest


# --- Reading records ----------------------------------------------------------------------------------------------------------


def read_records(records: Sequence[MemberLocation]) -> Iterator[list[memoryview]]:
    """Yield the files of each record, in the order given. Opens each source once and reads it from front to back.

    Raises:
        DataError: A source is missing, or a record does not hold the registered sample.
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
    for record, files in zip(records, found, strict=True):
        check_record(record, files)
        yield files


# --- The manifest, and the files that describe the tars -----------------------------------------------------------------------

SCHEMA = pa.schema([
    ("shard", pa.string()), ("key", pa.string()), ("pair_hash", pa.binary(32)), ("rank", pa.float64()),
    ("source_uri", pa.dictionary(pa.int32(), pa.string())), ("source_key", pa.large_string()),
    ("source_exts", pa.list_(pa.string())), ("source_offsets", pa.list_(pa.int64())), ("source_sizes", pa.list_(pa.int64())),
    ("repair", pa.string()), ("width", pa.int32()), ("height", pa.int32()),
])  # fmt: skip
# Keys in the Parquet file's metadata.
_IDENTITY_KEY, _SHARDS_KEY = b"alchemist.copy", b"alchemist.shards"
_GROUP_ROWS = 1 << 17
_COLUMN_KINDS = {"txt": "string", "json": "json"} | dict.fromkeys(IMAGE_EXTS, "image")


def read_dataset_manifest(source: Path | BinaryIO) -> tuple[str, list[MaterializedShard]] | None:
    """Return the identity and the tars of a dataset from the manifest in its folder, or from an open one; None if it is not valid."""
    try:
        metadata = pq.read_schema(source / MANIFEST_NAME if isinstance(source, Path) else source).metadata or {}
        shards = [MaterializedShard(*shard) for shard in json.loads(metadata[_SHARDS_KEY])]
        return metadata[_IDENTITY_KEY].decode(), shards
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def write_dataset_manifest(
    folder: Path, members: MemberTable, order_N: NDArray[np.int64], shards: Sequence[MaterializedShard], identity: str
) -> None:
    """Write one row per record, in the order of the tars: its new key and its source; its weight if the version has weights."""
    metadata = {_IDENTITY_KEY: identity, _SHARDS_KEY: json.dumps(shards)}
    names = pa.array([shard.name for shard in shards], pa.string())
    shard_N = np.repeat(np.arange(len(shards)), [shard.n_samples for shard in shards])
    with (
        atomic_write(folder / MANIFEST_NAME, is_sole_writer=True) as partial_file,
        pq.ParquetWriter(partial_file, _schema_of(members).with_metadata(metadata), compression="zstd") as writer,
    ):
        for first in range(0, len(order_N), _GROUP_ROWS):
            rows = slice(first, first + _GROUP_ROWS)
            writer.write_table(_manifest_rows(members, order_N[rows], names.take(pa.array(shard_N[rows])), first))


def _schema_of(members: MemberTable) -> pa.Schema:
    return SCHEMA if members.weights() is None else SCHEMA.append(WEIGHT)


def _manifest_rows(members: MemberTable, index_K: NDArray[np.int64], names: pa.StringArray, first: int) -> pa.Table:
    part = members.table.take(pa.array(index_K))
    columns = {
        "shard": names,
        "key": pc.utf8_lpad(pa.array(np.arange(first, first + len(index_K))).cast(pa.string()), 9, "0"),
        "pair_hash": part.column("pair_hash"),
        "rank": part.column("rank"),
        "source_uri": _with_words(part.column("source"), members.uris),
        **{f"source_{name}": part.column(name) for name in ("key", "exts", "offsets", "sizes")},
        "repair": part.column("repair"),
        **{name: part.column(name) if name in part.column_names else pa.nulls(len(part)) for name in SIZE_COLUMNS},
    }
    if WEIGHT_COLUMN in part.column_names:
        columns[WEIGHT_COLUMN] = part.column(WEIGHT_COLUMN)
    return pa.table(columns, schema=_schema_of(members))


def _with_words(codes: pa.ChunkedArray, words: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.combine_chunks(), pa.array(words, pa.string()))


def _write_dataset_info(folder: Path, name: str, members: MemberTable, shards: Sequence[MaterializedShard]) -> None:
    """Write a dataset card, by which Hugging Face datasets opens the folder, and webdataset's index of the tars."""
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
    # JSON is valid YAML.
    card = {"configs": [{"config_name": "default", "data_files": files}], "dataset_info": info}
    text = f"---\n{json.dumps(card, indent=1)}\n---\n\n{n_samples:,} image-text pairs; `{MANIFEST_NAME}` says where each came from.\n"
    if (weight_N := members.weights()) is not None:
        text += (
            f"\nAn epoch reads {epoch_size_of(weight_N):,} samples: the column `{WEIGHT_COLUMN}` of `{MANIFEST_NAME}` says how often each "
            "is read on average.\n"
        )
    write_bytes_atomically(folder / CARD_NAME, text.encode())


def _features(members: MemberTable) -> list[dict[str, str]] | None:
    """Return the columns that Hugging Face's reader will find; None if a file has an extension that only the reader can interpret."""
    exts = set(pc.unique(pc.list_flatten(members.table.column("exts"))).to_pylist())
    if not exts or not exts <= _COLUMN_KINDS.keys():
        return None
    columns = {ext: kind for ext, kind in _COLUMN_KINDS.items() if ext in exts - IMAGE_EXTS}
    columns |= {members.commonest_image_ext(): "image", "__key__": "string", "__url__": "string"}
    return [{"name": name, "dtype": kind} for name, kind in columns.items()]


def _has_right_sums(folder: Path, shards: Sequence[MaterializedShard]) -> bool:
    """Return whether the files beside the tars are unchanged, and the list has the tars' hashes."""
    try:
        return (folder / SUMS_NAME).read_bytes() == _sums(folder, shards)
    except FileNotFoundError:
        return False


def _sums(folder: Path, shards: Sequence[MaterializedShard]) -> bytes:
    """Return the SHA-256 of every file in the format of `sha256sum --check`, so that users of the dataset can verify it."""
    sums = {shard.name: shard.sha256 for shard in shards}
    for name in (CARD_NAME, MANIFEST_NAME, INDEX_NAME):
        sums[name] = file_sha256(folder / name).hex()
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


# --- The journal --------------------------------------------------------------------------------------------------------------


class Journal:
    """Records the finished tars of an unfinished dataset. Creates the folder, and empties it if it was another dataset's.

    Args:
        folder: Folder of the tars; no other process writes there.
        identity: Identity of the dataset.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._path = folder / JOURNAL_NAME
        self.known: dict[str, MaterializedShard] = {}
        if not self._read(identity):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._path.write_text(f"{identity}\n", encoding="utf-8")
        self._remove_partial_files()

    def add(self, shard: MaterializedShard) -> None:
        """Record a finished tar, which was synced to the disk before."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(shard)}\n")

    def remove(self) -> None:
        """Delete the journal, which the manifest replaces, and the partial files of workers that died."""
        self._remove_partial_files()
        self._path.unlink(missing_ok=True)

    def _remove_partial_files(self) -> None:
        """Delete what killed processes left."""
        for left in self._path.parent.glob(".*"):
            if left != self._path:
                left.unlink()

    def _read(self, identity: str) -> bool:
        """Read the tars that an interrupted run finished; a line that a kill cut off is ignored."""
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
