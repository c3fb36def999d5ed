"""Everything that ingest wants of tars, each read in one pass, several at a time in worker processes. Knows no database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from alchemist_core.data.faults import Fault, Reason
from alchemist_core.data.one_pass import OnePassReader
from alchemist_core.data.pairs import Pair, read_pairs
from alchemist_core.data.storage import ShardFile, open_shard, remedy_of
from alchemist_core.data.workers import Done, WorkerDiedError, Workers
from alchemist_core.errors import DataError

# Shards that are read and wait for their turn: all their pairs are in memory.
_MAX_EARLY = 8


@dataclass(frozen=True, slots=True)
class ShardContent:
    """A tar's sha256 and its records, or why it is no tar."""

    sha256: bytes
    pairs: list[Pair]
    faults: list[Fault]
    rejection: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the tar has no end mark, as one that is being uploaded."""
        return any(fault.reason == Reason.TRUNCATED_TAR.value for fault in self.faults)


@dataclass(frozen=True, slots=True)
class ReadShardTask:
    """One tar to read: its hash, its index, headers and captions, and on request each picture's fingerprint."""

    file: ShardFile
    has_perceptual_hash: bool

    def read(self) -> None:
        """Fetch nothing beforehand: a shard may be larger than memory."""

    def work(self, _data: None = None, _place: memoryview | None = None) -> ShardContent:
        """Read the tar.

        Raises:
            DataError: It is gone.
        """
        size_bytes = self.file.size_bytes
        with open_shard(self.file.uri) as file:
            reader = OnePassReader(file, size_bytes)
            try:
                records = list(
                    read_pairs(cast("BinaryIO", reader), size_bytes, with_perceptual_hash=self.has_perceptual_hash)
                )
            except DataError as error:
                return ShardContent(reader.sha256(), [], [], rejection=str(error))
            pairs = [record for record in records if isinstance(record, Pair)]
            faults = [record for record in records if isinstance(record, Fault)]
            return ShardContent(reader.sha256(), pairs, faults)


def read_shards(
    files: Sequence[ShardFile], *, n_workers: int, has_perceptual_hash: bool
) -> Iterator[ShardContent | DataError]:
    """Yield the content of every file, in their order, while workers read on; an error where one could not be read.

    What is wrong with one shard (it is gone, a worker died on it twice, it needs more memory than there is) stops no other.
    """
    tasks = [ReadShardTask(file, has_perceptual_hash) for file in files]
    if n_workers == 0:
        yield from (_read_here(task) for task in tasks)
        return
    with Workers(n_workers, module=__name__) as workers:
        yield from _ReadInOrder(tasks, workers).contents()


def _read_here(task: ReadShardTask) -> ShardContent | DataError:
    try:
        return task.work()
    except Exception as error:  # noqa: BLE001  whatever a shard's bytes cause, it is that shard's alone
        return _error_of(task, error)


def _error_of(task: ReadShardTask, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(
        f"Shard {task.file.uri} cannot be read ({type(error).__name__}: {error}). {remedy_of(task.file.uri)}"
    )


class _ReadInOrder:
    """Gives tasks to workers and keeps what comes early until its turn."""

    def __init__(self, tasks: Sequence[ReadShardTask], workers: Workers) -> None:
        self._tasks, self._workers = tasks, workers
        self._early: dict[int, ShardContent | DataError] = {}
        self._suspects: set[int] = set()

    def contents(self) -> Iterator[ShardContent | DataError]:
        n_submitted = 0
        for turn in range(len(self._tasks)):
            while turn not in self._early:
                while n_submitted < len(self._tasks) and self._workers.has_room() and len(self._early) < _MAX_EARLY:
                    self._submit(n_submitted)
                    n_submitted += 1
                for done in self._workers.wait():
                    self._receive(done)
            yield self._early.pop(turn)

    def _submit(self, number: int) -> None:
        self._workers.submit(self._tasks[number], number)

    def _receive(self, done: Done) -> None:
        task = self._tasks[done.ticket]
        if not isinstance(done.error, WorkerDiedError):
            self._early[done.ticket] = done.result if done.error is None else _error_of(task, done.error)
        elif done.error.is_begun and done.ticket in self._suspects:
            self._early[done.ticket] = DataError(
                f"Two worker processes died while they read {task.file.uri} ({done.error}): one of its images is hostile, or memory "
                f"is short. {remedy_of(task.file.uri)}"
            )
        else:
            self._suspects |= {done.ticket} if done.error.is_begun else set()
            self._submit(done.ticket)
