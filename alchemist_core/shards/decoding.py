"""Decodes images for scoring, in worker processes beside other work, or in the calling process.

If a worker dies on a task, its images are tried one by one: the one on which a worker dies again is reported as a fault, and the
others are decoded.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alchemist_core.errors import DataError
from alchemist_core.heuristics.measures import LUMA_SIDE, MEASURES, measure
from alchemist_core.shards.byte_ranges import ByteRange
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion
from alchemist_core.shards.faults import Reason
from alchemist_core.shards.images import BadImageError, decode_views, explain_death, is_costly, one_image
from alchemist_core.shards.storage import is_s3, read_ranges, require_registered
from alchemist_core.shards.workers import Done, WorkerDiedError, Workers

Bound = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Faults and measures of a task's images, by their index in the task; the pixels are kept apart."""

    faults: dict[int, tuple[Reason, str]] = field(default_factory=dict)
    measure_BM: NDArray[np.float32] | None = None
    """NaN for bad images and for those not to be measured; None if no image was to be measured."""


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """Images of one shard to decode: their byte ranges, their registered SHA-256, and the side in pixels and version of the decode."""

    uri: str
    ranges: list[ByteRange]
    image_hash_B: list[bytes]
    side: int
    is_measured_B: list[bool]
    decode_version: DecodeVersion = UNPINNED

    def read(self) -> list[bytes]:
        """Read the bytes of all images."""
        return read_ranges(self.uri, self.ranges)

    def work(self, data: list[bytes], place: memoryview, bound: Bound = one_image) -> Decoded:
        """Decode into shared memory, and measure the images that are to be measured.

        Args:
            data: The bytes of all images.
            place: Memory for the pixels.
            bound: Limits one image; by default an image that exceeds the limits kills this process.

        Raises:
            ChangedShardError: An image has another SHA-256 than registered.
        """
        image_BHWC = view_images(place, len(data), self.side)
        luma_BHW = np.zeros((len(data), LUMA_SIDE, LUMA_SIDE), np.uint8) if any(self.is_measured_B) else None
        faults: dict[int, tuple[Reason, str]] = {}
        for at, image in enumerate(data):
            require_registered(self.uri, self.ranges[at], self.image_hash_B[at], image)
            try:
                luma_side = LUMA_SIDE if self.is_measured_B[at] else None
                with bound():
                    image_BHWC[at], luma_HW = decode_views(image, self.side, self.decode_version, luma_side=luma_side)
            except BadImageError as error:
                faults[at] = (error.reason, error.detail)
                continue
            if luma_BHW is not None and luma_HW is not None:
                luma_BHW[at] = luma_HW
        return Decoded(faults, None if luma_BHW is None else self._measure(luma_BHW, faults))

    def _measure(self, luma_BHW: NDArray[np.uint8], faults: dict[int, tuple[Reason, str]]) -> NDArray[np.float32]:
        wanted = [at for at, is_measured in enumerate(self.is_measured_B) if is_measured and at not in faults]
        measure_BM = np.full((len(luma_BHW), len(MEASURES)), np.nan, np.float32)
        measure_BM[wanted] = measure(luma_BHW[wanted])
        return measure_BM


def view_images(place: memoryview, n_images: int, side: int) -> NDArray[np.uint8]:
    """View memory as an array of images."""
    return np.frombuffer(place, np.uint8, n_images * side * side * 3).reshape(n_images, side, side, 3)


TASK_IMAGES = 64
"""Most images in a task."""


@dataclass(frozen=True, slots=True)
class DecodedPart:
    """Images that were decoded together: their pixels, valid until the next task is submitted, and their faults and measures."""

    ticket: Any
    first: int
    """Index of the first image in the submitted task."""
    image_BHWC: NDArray[np.uint8]
    decoded: Decoded
    error: DataError | None = None
    """Set if the shard cannot be read; the part has no pixels then."""

    @property
    def n_images(self) -> int:
        """Number of images in the part, decoded or lost by the error."""
        return len(self.image_BHWC)


class Decoders(Protocol):
    """Decodes tasks. The caller submits while there is room, then waits."""

    def await_ready(self) -> None:
        """Block until the workers are ready. Only benchmarks need it, before they start timing."""
        ...

    def has_room(self) -> bool:
        """Return whether another task would be started soon."""
        ...

    def is_idle(self) -> bool:
        """Return whether no task is pending."""
        ...

    def submit(self, task: DecodeTask, ticket: Any) -> None:
        """Accept a task."""
        ...

    def wait(self) -> Iterator[DecodedPart]:
        """Wait until a result is ready and yield all that are; a task may come back in parts."""
        ...

    def close(self) -> None:
        """Stop all workers."""
        ...


def open_decoders(n_workers: int, side: int, *, uses_s3: bool = False) -> Decoders:
    """Start worker processes; with `n_workers` 0, tasks are decoded in this process during `wait`.

    Args:
        n_workers: Number of processes.
        side: Side of the decoded images in pixels.
        uses_s3: Whether shards are in an object store, so that worker processes need its account.
    """
    return ProcessDecoders(n_workers, side, uses_s3=uses_s3) if n_workers else InlineDecoders(side)


class InlineDecoders:
    """Decodes in this process, one task at a time; a task with a costly image goes to a worker process, which may be killed."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._place = memoryview(bytearray(TASK_IMAGES * side * side * 3))
        self._waiting: deque[tuple[DecodeTask, Any]] = deque()
        self._apart: ProcessDecoders | None = None

    def await_ready(self) -> None:
        """Return at once."""

    def has_room(self) -> bool:
        """Return whether no task is pending."""
        return not self._waiting

    def is_idle(self) -> bool:
        """Return whether no task is pending."""
        return not self._waiting

    def submit(self, task: DecodeTask, ticket: Any) -> None:
        """Accept a task."""
        self._waiting.append((task, ticket))

    def wait(self) -> Iterator[DecodedPart]:
        """Decode the pending tasks."""
        while self._waiting:
            task, ticket = self._waiting.popleft()
            try:
                data = task.read()
                if any(map(is_costly, data)):
                    yield from self._decode_apart(task, ticket)
                    continue
                decoded = task.work(data, self._place, nullcontext)
            except DataError as error:
                yield _failed(task, ticket, 0, error)
                continue
            yield DecodedPart(ticket, 0, view_images(self._place, len(task.ranges), task.side), decoded)

    def _decode_apart(self, task: DecodeTask, ticket: Any) -> Iterator[DecodedPart]:
        if self._apart is not None and is_s3(task.uri) and not self._apart.uses_s3:
            self._apart.close()
            self._apart = None
        if self._apart is None:
            self._apart = ProcessDecoders(1, self._side, uses_s3=is_s3(task.uri))
        self._apart.submit(task, ticket)
        while not self._apart.is_idle():
            yield from self._apart.wait()

    def close(self) -> None:
        """Drop the pending tasks, and stop the worker process."""
        self._waiting.clear()
        if self._apart is not None:
            self._apart.close()
            self._apart = None


@dataclass(frozen=True, slots=True)
class _Sent:
    """A task, or one image of it that is tried alone after a worker died on the task."""

    task: DecodeTask
    ticket: Any
    first: int = 0
    is_suspect: bool = False


class ProcessDecoders:
    """Decodes in worker processes."""

    def __init__(self, n_workers: int, side: int, *, uses_s3: bool = False) -> None:
        self.uses_s3, place_bytes = uses_s3, TASK_IMAGES * side * side * 3
        self._workers = Workers(n_workers, module=DecodeTask.__module__, place_bytes=place_bytes, uses_s3=uses_s3)
        self._again: deque[_Sent] = deque()

    @property
    def pids(self) -> list[int]:
        """The worker processes."""
        return self._workers.pids

    def await_ready(self) -> None:
        """Block until the processes are ready."""
        self._workers.await_ready()

    def has_room(self) -> bool:
        """Return whether another task would be started soon."""
        return not self._again and self._workers.has_room()

    def is_idle(self) -> bool:
        """Return whether no task is pending."""
        return not self._again and self._workers.is_idle()

    def submit(self, task: DecodeTask, ticket: Any) -> None:
        """Send a task to a worker."""
        self._workers.submit(task, _Sent(task, ticket))

    def wait(self) -> Iterator[DecodedPart]:
        """Wait for the workers. If a shard is missing or holds other bytes than registered, its part holds the error."""
        while self._again and self._workers.has_room():
            sent = self._again.popleft()
            self._workers.submit(sent.task, sent)
        for done in self._workers.wait():
            sent = done.ticket
            if isinstance(done.error, WorkerDiedError):
                yield from self._try_again(sent, done.error)
            elif isinstance(done.error, DataError):
                yield _failed(sent.task, sent.ticket, sent.first, done.error)
            elif done.error is not None:
                raise done.error
            else:
                yield self._part(sent, done)

    def _part(self, sent: _Sent, done: Done) -> DecodedPart:
        assert done.place is not None
        image_BHWC = view_images(done.place, len(sent.task.ranges), sent.task.side)
        return DecodedPart(sent.ticket, sent.first, image_BHWC, done.result)

    def _try_again(self, sent: _Sent, error: WorkerDiedError) -> Iterator[DecodedPart]:
        if not error.is_begun:
            self._again.append(sent)
        elif not sent.is_suspect:
            self._again.extend(_split(sent))
        else:
            fault = Decoded({0: explain_death(error.code)})
            yield DecodedPart(sent.ticket, sent.first, np.zeros((1, 1, 1, 3), np.uint8), fault)

    def close(self) -> None:
        """Stop the processes."""
        self._workers.close()


def _failed(task: DecodeTask, ticket: Any, first: int, error: DataError) -> DecodedPart:
    return DecodedPart(ticket, first, np.zeros((len(task.ranges), 1, 1, 3), np.uint8), Decoded(), error)


def _split(sent: _Sent) -> list[_Sent]:
    task = sent.task
    return [
        replace(sent, first=at, is_suspect=True, task=replace(
            task, ranges=[task.ranges[at]], image_hash_B=[task.image_hash_B[at]], is_measured_B=[task.is_measured_B[at]]
        ))
        for at in range(len(task.ranges))
    ]  # fmt: skip
