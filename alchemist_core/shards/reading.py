"""Reads tars for ingest: each once from front to back, several at a time in worker processes, yielded in order. Uses no database.

From top to bottom: the interface, the order of results, limits on one record, the reader of a single pass.
"""

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
from alchemist_core.shards.storage import ShardFile, is_s3, open_shard, remedy_of
from alchemist_core.shards.tars import NotATarError
from alchemist_core.shards.workers import Done, WorkerDiedError, Workers

# Most finished shards that wait for their turn; all their samples are in memory.
_MAX_EARLY = 8
# The record that a worker is reading, counted from 1; 0 if none.
_RECORD = struct.Struct("<q")
_BLOCK_BYTES = 1 << 22
_N_CACHED = 4


@dataclass(frozen=True, slots=True)
class ShardContent:
    """The SHA-256 and the size of a tar as it was read, and its records, or the reason why it is not a tar."""

    sha256: bytes
    size_bytes: int
    samples: list[Sample]
    faults: list[Fault]
    rejection: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the tar lacks its end mark, or ends in too many zeros, like one that is still being uploaded."""
        return any(fault.reason == Reason.TRUNCATED_TAR.value for fault in self.faults)


def read_shards(
    files: Sequence[ShardFile],
    *,
    n_workers: int,
    reading: Reading = Reading(),  # noqa: B008  it is frozen
) -> Iterator[ShardContent | DataError]:
    """Yield the content of every file, in the given order, while workers read ahead; an error for a file that cannot be read.

    An error of one shard (missing, a worker died on it twice, out of memory) does not affect the others. Of a shard on which workers
    die, only the record that they were reading is quarantined.
    """
    tasks = [ReadShardTask(file, reading) for file in files]
    if n_workers == 0:
        yield from (_read_here(task) for task in tasks)
    else:
        yield from _read_in_workers(tasks, n_workers)


@dataclass(frozen=True, slots=True)
class ReadShardTask:
    """One tar to read: its hash, index, image headers and captions, and on request each image's perceptual hash.

    `lost` holds the records on which a process died, with the reasons for which they are quarantined.
    """

    file: ShardFile
    reading: Reading
    lost: Mapping[int, tuple[Reason, str]] = field(default_factory=dict)

    def read(self) -> None:
        """Read nothing ahead: a shard may be larger than memory."""

    def work(self, _data: None, place: memoryview) -> ShardContent:
        """Read the tar in a worker process.

        Raises:
            DataError: The tar is missing, or its storage fails.
        """
        _RECORD.pack_into(place, 0, 0)
        return self.read_content(MayDie(place, self.lost))

    def read_content(self, guard: RecordGuard) -> ShardContent:
        """Read the tar.

        Raises:
            DataError: The tar is missing, or its storage fails.
            CostlyImageError: The guard refused an image.
        """
        with open_shard(self.file.uri) as file:
            # The file may have been replaced since it was listed.
            size_bytes = file.seek(0, io.SEEK_END)
            reader = OnePassReader(file, size_bytes)
            try:
                records = list(read_samples(cast("BinaryIO", reader), size_bytes, self.reading, guard))
            except NotATarError as error:
                return ShardContent(reader.sha256(), size_bytes, [], [], rejection=str(error))
            samples = [record for record in records if isinstance(record, Sample)]
            faults = [record for record in records if isinstance(record, Fault)]
            return ShardContent(reader.sha256(), size_bytes, samples, faults)


def _read_in_workers(tasks: Sequence[ReadShardTask], n_workers: int) -> Iterator[ShardContent | DataError]:
    uses_s3 = any(is_s3(task.file.uri) for task in tasks)
    with Workers(n_workers, module=__name__, place_bytes=_RECORD.size, uses_s3=uses_s3) as workers:
        yield from _ReadInOrder(tasks, workers).contents()


def _read_here(task: ReadShardTask) -> ShardContent | DataError:
    """Read a shard in this process, or in a worker process if it holds a costly image."""
    try:
        return task.read_content(CheapOnly())
    except CostlyImageError:
        (content,) = _read_in_workers([task], 1)
        return content
    except Exception as error:  # noqa: BLE001  an error that a shard's bytes cause concerns that shard only
        return _error_of(task, error)


def _error_of(task: ReadShardTask, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(
        f"Shard {task.file.uri} cannot be read ({type(error).__name__}: {error}). {remedy_of(task.file.uri)}"
    )


class _ReadInOrder:
    """Gives tasks to workers, and holds results that arrive early until their turn."""

    def __init__(self, tasks: Sequence[ReadShardTask], workers: Workers) -> None:
        self._tasks, self._workers = list(tasks), workers
        self._early: dict[int, ShardContent | DataError] = {}
        # Tasks and records on which one worker died; it may have been killed from outside.
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
        """Quarantine the record if it took too long or a second worker died on it; return an error if no record was being read."""
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
                f"Two worker processes died while they read {uri} ({done.error}), probably for lack of memory. {remedy_of(uri)}"
            )
        return None


class CheapOnly:
    """Guards a reader in this process: a costly image ends the reading of the shard by an error, before it is decoded."""

    def one_record(self, ordinal: int) -> AbstractContextManager[None]:  # noqa: ARG002  named as in the protocol
        """Set no limit: only cheap images are admitted."""
        return nullcontext()

    def admit(self, data: bytes) -> None:
        """Refuse an image that may take long.

        Raises:
            CostlyImageError: The image is costly.
        """
        if is_costly(data):
            raise CostlyImageError("an image of this shard must be read in a separate process")


class MayDie:
    """Guards a reader in a worker process, which is killed on a record that takes too long; notes the record's number first.

    Args:
        place: Memory shared with the parent.
        lost: Records on which a process died, with the reasons.
    """

    def __init__(self, place: memoryview, lost: Mapping[int, tuple[Reason, str]]) -> None:
        self._place, self._lost = place, lost

    @contextmanager
    def one_record(self, ordinal: int) -> Iterator[None]:
        """Note the record, and limit its time and memory.

        Raises:
            BadImageError: A process died on it.
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


class OnePassReader(io.RawIOBase):
    """Reads a file in blocks and hashes each block, in order, when it is first read."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._size_bytes = file, size_bytes
        self._digest = hashlib.sha256()
        self._n_hashed = 0
        self._position = 0
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self.n_read_bytes = 0
        """Bytes read from the file so far; equal to its size at the end if no block was read twice."""

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes; all remaining ones without a size."""
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
        """Read the blocks that were not read yet and return the hash of the whole file."""
        n_blocks = -(-self._size_bytes // _BLOCK_BYTES)
        if self._n_hashed < n_blocks:
            self._block(n_blocks - 1)
        return self._digest.digest()

    def _block(self, number: int) -> bytes:
        if number in self._cached:
            return self._cached[number]
        while self._n_hashed < number:
            self._load(self._n_hashed)
        return self._load(number)

    def _load(self, number: int) -> bytes:
        self._file.seek(number * _BLOCK_BYTES)
        # Not beyond the size: a file that is still written grows while it is read.
        data = self._file.read(min(_BLOCK_BYTES, self._size_bytes - number * _BLOCK_BYTES))
        self.n_read_bytes += len(data)
        if number == self._n_hashed:
            self._digest.update(data)
            self._n_hashed += 1
        self._cached[number] = data
        while len(self._cached) > _N_CACHED:
            self._cached.popitem(last=False)
        return data
