"""Copies chosen records into new tars, byte by byte. Knows neither why they were chosen nor any database.

The same records give the same bytes, whatever the order in which they come. Members keep their bytes; where a record came
from stands in `manifest.parquet`. All is written into a hidden folder beside, which takes its name when it is complete.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alchemist_core.data.copy_journal import Journal
from alchemist_core.data.copy_manifest import (
    has_right_sums,
    read_copy_manifest,
    write_copy_manifest,
    write_dataset_info,
    write_sums,
)
from alchemist_core.data.manifests import hash_column, sort_hashes
from alchemist_core.data.member_table import MemberTable
from alchemist_core.data.shard_copying import CopiedShard, InFolder, ShardPlan, TarPlace
from alchemist_core.data.tar_writer import sync_folder
from alchemist_core.data.workers import n_own_cores
from alchemist_core.errors import DataError

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


class Copy(NamedTuple):
    """A finished copy; `n_bytes_written` is 0 where it was there."""

    folder: Path
    shards: list[CopiedShard]
    n_bytes_written: int


def copy_members(
    members: MemberTable,
    out_dir: Path,
    layout: Layout,
    *,
    place: TarPlace = InFolder("read_back"),  # noqa: B008  it is frozen
    report: Report | None = None,
) -> Copy:
    """Copy the records into `out_dir/NNNNNN.tar`, with a manifest and what readers of datasets look for.

    What is already there and right is kept: a run after a finished one writes nothing, a run after a killed one goes on
    with the tars that are missing. Where `place` moves finished tars away, the folder keeps what describes them. Pictures
    of different formats get the extension of the commonest, so that a dataset has one picture column; readers look at the
    content.

    Raises:
        DataError: A source's bytes are not those of its pair any more, a pair comes twice, the disk is full or gives back
            other bytes, or the folder holds something else. Nothing has taken the folder's name then.
    """
    identity, aside = identify_copy(members, layout), hidden_folder(out_dir)
    with _sole_writer(out_dir.parent), ThreadPoolExecutor(_THREADS_A_CORE * n_own_cores()) as pool:
        if (shards := _find_copy(out_dir, identity)) is not None:
            if all(pool.map(partial(place.has, out_dir), shards)) and has_right_sums(out_dir, shards):
                return Copy(out_dir, shards, 0)
            _reopen(out_dir, aside)
        order_N = _order(members, layout)
        journal = Journal(aside, identity)
        shards, n_bytes = _CopyRun(members, order_N, layout.shard_size, aside, place).copy(pool, journal, report)
        write_copy_manifest(aside, members, order_N, shards, identity)
        write_dataset_info(aside, out_dir.name, members, shards)
        write_sums(aside, shards)
        journal.remove()
        sync_folder(aside)
        aside.replace(out_dir)
        sync_folder(out_dir.parent)
    return Copy(out_dir, shards, n_bytes)


def hidden_folder(out_dir: Path) -> Path:
    """Return where a copy grows until it is complete."""
    return out_dir.with_name(f".{out_dir.name}.part")


def identify_copy(members: MemberTable, layout: Layout) -> str:
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
    n_N = members.n_members()[order_N]
    leading = np.flatnonzero(n_N == n_N.max(initial=0))[:_N_LEADING]
    return np.concatenate([order_N[leading], np.delete(order_N, leading)])


def _find_copy(out_dir: Path, identity: str) -> list[CopiedShard] | None:
    """Return what the folder's manifest says it holds; None where there is no folder.

    Raises:
        DataError: The folder is not this copy.
    """
    if not out_dir.exists():
        return None
    found = read_copy_manifest(out_dir)
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
class _CopyRun:
    members: MemberTable
    order_N: NDArray[np.int64]
    shard_size: int
    folder: Path
    place: TarPlace

    def copy(self, pool: ThreadPoolExecutor, journal: Journal, report: Report | None) -> tuple[list[CopiedShard], int]:
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
        self, number: int, first: int, *, image_ext: str, known: dict[str, CopiedShard]
    ) -> tuple[CopiedShard, int]:
        records = self.members.rows(self.order_N[first : first + self.shard_size])
        plan = ShardPlan(f"{number:06d}.tar", first, records, image_ext)
        found = known.get(plan.name)
        if found is not None and found.plan == plan.sha256() and self.place.has(self.folder, found):
            return found, 0
        return self.place.write(self.folder, plan)
