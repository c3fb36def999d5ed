"""Pictures of one image at a time, made in worker processes that may be killed at any moment: small JPEGs for people, pixels for models.

The image of a crawl never reaches a browser, and is never parsed in the process that serves it. An image that takes too long, or on which
two workers die, costs these workers and nothing else.
"""

import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alchemist_core.files import PICTURE_CACHE, artifact_path, atomic_write, shrink
from alchemist_core.shards.byte_ranges import ByteRange
from alchemist_core.shards.faults import Reason
from alchemist_core.shards.images import (
    BadImageError,
    decode_covering,
    encode_picture,
    explain_death,
    one_image,
    read_header,
)
from alchemist_core.shards.storage import is_s3, read_ranges, require_registered
from alchemist_core.shards.worker import Task
from alchemist_core.shards.workers import Done, WorkerDiedError, Workers

SIDES = {"thumbnail": 256, "full": 1600}
"""Longer side of a picture in pixels; a smaller image keeps its size."""
MOST_BYTES = 512 << 20
"""Size of the cache: about 40,000 thumbnails."""


@dataclass(frozen=True, slots=True)
class PictureTask:
    """One image of a shard: its bytes, its registered SHA-256, the longer side of the picture in pixels, and its processor time."""

    uri: str
    place: ByteRange
    image_hash: bytes
    side: int
    limit_s: float

    def read(self) -> bytes:
        """Read the bytes of the image."""
        (data,) = read_ranges(self.uri, [self.place])
        return data

    def work(self, data: bytes, _place: memoryview) -> bytes | tuple[Reason, str]:
        """Return the picture as JPEG, or why there is none.

        Raises:
            ChangedShardError: The image has another SHA-256 than registered.
        """
        require_registered(self.uri, self.place, self.image_hash, data)
        try:
            with one_image(self.limit_s):
                return encode_picture(data, self.side)
        except BadImageError as error:
            # Returned, because this error cannot be unpickled.
            return error.reason, error.detail


@dataclass(frozen=True, slots=True)
class FitTask:
    """The bytes of one image, and the side in pixels of the square into which it is scaled down, whole."""

    data: bytes
    side: int

    def read(self) -> None:
        """Read nothing: the task has the bytes."""

    def work(self, _data: None, _place: memoryview) -> NDArray[np.uint8] | tuple[Reason, str]:
        """Return the pixels (height, width, 3), or why there are none."""
        try:
            with one_image():
                header = read_header(self.data)
                scale = min(1.0, self.side / max(header.width, header.height))
                width, height = (max(1, round(side * scale)) for side in (header.width, header.height))
                return decode_covering(self.data, width, height)
        except BadImageError as error:
            return error.reason, error.detail


class PictureWorkers:
    """A few worker processes, started when they are first needed. A thread takes one for the time of one picture."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        # The last one used first, so that the others stay idle or are never started.
        self._free: LifoQueue[Workers | None] = LifoQueue()
        for _ in range(n_workers):
            self._free.put(None)

    def encode(self, task: PictureTask) -> bytes:
        """Return the picture of a task as JPEG; wait for a free worker.

        Raises:
            BadImageError: The image is not readable, exceeds a limit, or ended two workers.
            DataError: The shard is missing, or holds other bytes than registered.
        """
        picture: bytes = self._run(task, uses_s3=is_s3(task.uri), limit_s=task.limit_s)
        return picture

    def fit(self, data: bytes, side: int) -> NDArray[np.uint8]:
        """Return the pixels (height, width, 3) of an image, scaled down until it fits into a square; wait for a free worker.

        Raises:
            BadImageError: The image is not readable, exceeds a limit, or ended two workers.
        """
        pixels: NDArray[np.uint8] = self._run(FitTask(data, side))
        return pixels

    def _run(self, task: Task, *, uses_s3: bool = False, limit_s: float | None = None) -> Any:
        workers = self._free.get()
        try:
            if workers is not None and uses_s3 and not workers.uses_s3:
                workers.close()
                workers = None
            workers = workers or Workers(1, module=__name__, uses_s3=uses_s3)
            done = _await(workers, task)
            if isinstance(done.error, WorkerDiedError) and done.error.code != -signal.SIGPROF:
                # Perhaps it was killed from outside, even before this picture: its successor tries once more.
                done = _await(workers, task)
        except BaseException:
            # Its state is unknown: the next picture gets a new one.
            if workers is not None:
                workers.close()
            workers = None
            raise
        finally:
            self._free.put(workers)
        if isinstance(done.error, WorkerDiedError):
            raise BadImageError(*explain_death(done.error.code, limit_s))
        if done.error is not None:
            raise done.error
        if isinstance(done.result, tuple):
            raise BadImageError(*done.result)
        return done.result

    def close(self) -> None:
        """End the workers; each that is at work ends after its picture."""
        for _ in range(self.n_workers):
            if (workers := self._free.get()) is not None:
                workers.close()


def _await(workers: Workers, task: Task) -> Done:
    workers.submit(task, None)
    found: list[Any] = []
    while not found:
        found = list(workers.wait())
    done: Done = found[0]
    return done


class PictureCache:
    """Pictures as files named by the hash of their image; the least recently shown are deleted. Processes may share the folder."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = threading.Lock()
        # Enough to measure the folder at the first picture, because an earlier process may have filled it.
        self._n_added_bytes = most_bytes

    def find(self, image_hash: bytes, side: int) -> bytes | None:
        """Return a picture, or None."""
        path = self._path(image_hash, side)
        with suppress(OSError):
            found = path.read_bytes()
            # The time of the last use.
            os.utime(path)
            return found or None
        return None

    def add(self, image_hash: bytes, side: int, picture: bytes) -> None:
        """Keep a picture; without room on the disk it is not kept."""
        path = self._path(image_hash, side)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, is_durable=False) as partial:
                partial.write_bytes(picture)
            with self._lock:
                self._n_added_bytes += len(picture)
                if self._n_added_bytes > self._most_bytes // 20:
                    self._n_added_bytes = 0
                    shrink(self._folder.glob("*/*.jpg"), self._most_bytes)

    def forget(self, image_hashes: Iterable[bytes]) -> int:
        """Delete the pictures of images; return how many were deleted. A takedown calls it."""
        n_deleted = 0
        for image_hash in image_hashes:
            for side in SIDES.values():
                with suppress(OSError):
                    self._path(image_hash, side).unlink()
                    n_deleted += 1
        return n_deleted

    def _path(self, image_hash: bytes, side: int) -> Path:
        name = image_hash.hex()
        return self._folder / name[:2] / f"{name}-{side}.jpg"


def own_cache() -> PictureCache:
    """Return the cache among the artifacts of the home."""
    return PictureCache(artifact_path(PICTURE_CACHE))
