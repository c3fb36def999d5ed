"""Everything that ingest wants of tars, each read in one pass, several at a time in worker processes. Knows no database."""

import hashlib
import io
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

from alchemist_core.errors import DataError
from alchemist_core.shards.faults import Fault, Reason
from alchemist_core.shards.images import BadImageError, CostlyImageError, explain_death, is_costly, one_image
from alchemist_core.shards.samples import Reading, RecordGuard, Sample, read_samples
from alchemist_core.shards.storage import ShardFile, open_shard, remedy_of
from alchemist_core.shards.workers import Done, WorkerDiedError, Workers

_BLOCK_BYTES = 1 << 22
_N_KEPT = 4


class OnePassReader(io.RawIOBase):
    """Reads a file in blocks, in order, each hashed when it is first read."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._size_bytes = file, size_bytes
        self._digest = hashlib.sha256()
        self._n_hashed = 0
        self._position = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.n_read_bytes = 0
        """Bytes asked of the file so far: the size of the shard, where nothing was read twice."""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be sought."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return up to so many bytes; all that is left without a size."""
        end = self._size_bytes if size is None or size < 0 else min(self._position + size, self._size_bytes)
        parts = []
        while self._position < end:
            number, start = divmod(self._position, _BLOCK_BYTES)
            part = self._block(number)[start : start + end - self._position]
            if not part:
                break
            parts.append(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def sha256(self) -> bytes:
        """Read what nobody has asked for and return the hash of everything."""
        n_blocks = -(-self._size_bytes // _BLOCK_BYTES)
        if self._n_hashed < n_blocks:
            self._block(n_blocks - 1)
        return self._digest.digest()

    def _block(self, number: int) -> bytes:
        if number in self._kept:
            return self._kept[number]
        while self._n_hashed < number:
            self._load(self._n_hashed)
        return self._load(number)

    def _load(self, number: int) -> bytes:
        self._file.seek(number * _BLOCK_BYTES)
        data = self._file.read(_BLOCK_BYTES)
        self.n_read_bytes += len(data)
        if number == self._n_hashed:
            self._digest.update(data)
            self._n_hashed += 1
        self._kept[number] = data
        while len(self._kept) > _N_KEPT:
            self._kept.popitem(last=False)
        return data


# Shards that are read and wait for their turn: all their pairs are in memory.
_MAX_EARLY = 8
# Which record a worker is reading, counted from one; zero: none.
_RECORD = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class ShardContent:
    """A tar's sha256 and its records, or why it is no tar."""

    sha256: bytes
    samples: list[Sample]
    faults: list[Fault]
    rejection: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the tar has no end mark, as one that is being uploaded."""
        return any(fault.reason == Reason.TRUNCATED_TAR.value for fault in self.faults)


class CheapOnly:
    """Guards a reader whose process must not die: a costly image ends the reading of the shard, not the process."""

    def one_record(self, ordinal: int) -> AbstractContextManager[None]:  # noqa: ARG002  as the protocol has it
        """Bound nothing: what is admitted takes little."""
        return nullcontext()

    def admit(self, data: bytes) -> None:
        """Refuse an image that could take long.

        Raises:
            CostlyImageError: It could.
        """
        if is_costly(data):
            raise CostlyImageError("an image of this shard is to be read in a process of its own")


class MayDie:
    """Guards a reader in a worker process: it dies on a record that takes too long, and has left that record's number before.

    Args:
        place: Memory that the parent sees.
        lost: What became of records on which a process has died.
    """

    def __init__(self, place: memoryview, lost: Mapping[int, tuple[Reason, str]]) -> None:
        self._place, self._lost = place, lost

    @contextmanager
    def one_record(self, ordinal: int) -> Iterator[None]:
        """Note the record, and bound its time and memory.

        Raises:
            BadImageError: A process has died on it.
        """
        if ordinal in self._lost:
            raise BadImageError(*self._lost[ordinal])
        _RECORD.pack_into(self._place, 0, ordinal + 1)
        try:
            with one_image():
                yield
        finally:
            _RECORD.pack_into(self._place, 0, 0)

    def admit(self, data: bytes) -> None:
        """Refuse nothing."""


@dataclass(frozen=True, slots=True)
class ReadShardTask:
    """One tar to read: its hash, its index, headers and captions, and on request each picture's fingerprint.

    `lost` says of records on which a process has died why they are quarantined.
    """

    file: ShardFile
    reading: Reading
    lost: Mapping[int, tuple[Reason, str]] = field(default_factory=dict)

    def read(self) -> None:
        """Fetch nothing beforehand: a shard may be larger than memory."""

    def work(self, _data: None, place: memoryview) -> ShardContent:
        """Read the tar in a process that may die.

        Raises:
            DataError: It is gone.
        """
        _RECORD.pack_into(place, 0, 0)
        return self.read_content(MayDie(place, self.lost))

    def read_content(self, guard: RecordGuard) -> ShardContent:
        """Read the tar.

        Raises:
            DataError: It is gone.
            CostlyImageError: The guard refused an image.
        """
        size_bytes = self.file.size_bytes
        with open_shard(self.file.uri) as file:
            reader = OnePassReader(file, size_bytes)
            try:
                records = list(read_samples(cast("BinaryIO", reader), size_bytes, self.reading, guard))
            except CostlyImageError:
                raise
            except DataError as error:
                return ShardContent(reader.sha256(), [], [], rejection=str(error))
            pairs = [record for record in records if isinstance(record, Sample)]
            faults = [record for record in records if isinstance(record, Fault)]
            return ShardContent(reader.sha256(), pairs, faults)


def read_shards(
    files: Sequence[ShardFile],
    *,
    n_workers: int,
    reading: Reading = Reading(),  # noqa: B008  it is frozen
) -> Iterator[ShardContent | DataError]:
    """Yield the content of every file, in their order, while workers read on; an error where one could not be read.

    What is wrong with one shard (it is gone, a worker died on it twice, it needs more memory than there is) stops no other; a record
    on which workers die is quarantined alone.
    """
    tasks = [ReadShardTask(file, reading) for file in files]
    if n_workers == 0:
        yield from (_read_here(task) for task in tasks)
    else:
        yield from _read_in_workers(tasks, n_workers)


def _read_in_workers(tasks: Sequence[ReadShardTask], n_workers: int) -> Iterator[ShardContent | DataError]:
    with Workers(n_workers, module=__name__, place_bytes=_RECORD.size) as workers:
        yield from _ReadInOrder(tasks, workers).contents()


def _read_here(task: ReadShardTask) -> ShardContent | DataError:
    """Read a shard in this process, unless an image may take long: then in one that may die."""
    try:
        return task.read_content(CheapOnly())
    except CostlyImageError:
        (content,) = _read_in_workers([task], 1)
        return content
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
        self._tasks, self._workers = list(tasks), workers
        self._early: dict[int, ShardContent | DataError] = {}
        # Tasks, with the record that was being read, on which a worker died once: it may have been killed from outside.
        self._suspects: set[tuple[int, int]] = set()

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
            return
        if done.error.is_begun and (error := self._accuse(done.ticket, done)):
            self._early[done.ticket] = error
        else:
            self._submit(done.ticket)

    def _accuse(self, number: int, done: Done) -> DataError | None:
        """Set the record aside on which a worker died, if it took too long or another died on it; return an error if it was none."""
        assert isinstance(done.error, WorkerDiedError)
        assert done.place is not None
        ordinal = _RECORD.unpack_from(done.place)[0] - 1
        reason, detail = explain_death(done.error.code)
        task, is_suspect = self._tasks[number], (number, ordinal) in self._suspects
        self._suspects.add((number, ordinal))
        if ordinal >= 0 and (is_suspect or reason is Reason.TOO_SLOW):
            self._tasks[number] = replace(task, lost={**task.lost, ordinal: (reason, detail)})
        elif is_suspect:
            uri = task.file.uri
            return DataError(
                f"Two worker processes died while they read {uri} ({done.error}): memory is short. {remedy_of(uri)}"
            )
        return None
