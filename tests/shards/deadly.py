"""Tasks of worker processes in tests: some kill the worker, some are slow."""

import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alchemist_core.shards.decoding import Decoded, DecodeTask
from alchemist_core.shards.reading import MayDie, ReadShardTask, ShardContent


@dataclass(frozen=True)
class DieTask:
    """Kills the process that works on it."""

    def read(self) -> None:
        return None

    def work(self, data: None, place: memoryview) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DeadlyShardTask(ReadShardTask):
    """Kills the process that reads the shard, as an image does that needs more memory than there is."""

    def work(self, _data: None = None, _place: memoryview | None = None) -> ShardContent:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class DeadlyRecordTask(ReadShardTask):
    """Kills the process that reads the second record, until that record is quarantined."""

    def work(self, _data: None, place: memoryview) -> ShardContent:
        return self.read_content(_Killer(place, self.lost))


class _Killer(MayDie):
    @contextmanager
    def one_record(self, ordinal: int) -> Iterator[None]:
        with super().one_record(ordinal):
            if ordinal == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield


@dataclass(frozen=True)
class CutTask:
    """Kills the process in the middle of its answer, as the kernel does that is short of memory."""

    def read(self) -> None:
        return None

    def work(self, data: None, place: memoryview) -> None:
        # A message is its length and so many bytes; the connection is the worker's first argument.
        os.write(int(sys.argv[1]), struct.pack("!i", 1000) + b"half")
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class EnvironmentTask:
    """Returns the variables that the process has."""

    def read(self) -> None:
        return None

    def work(self, data: None, place: memoryview) -> dict[str, str]:
        return dict(os.environ)


@dataclass(frozen=True)
class SleepTask:
    seconds: float

    def read(self) -> None:
        return None

    def work(self, data: None, place: memoryview) -> None:
        time.sleep(self.seconds)


def _refuse() -> None:
    raise ValueError("not to be had here")


class UnreadableTask:
    """Cannot be unpickled, as a task whose module the worker does not find."""

    def __reduce__(self) -> tuple:
        return _refuse, ()


@dataclass(frozen=True)
class KillerTask(DecodeTask):
    """Decodes all images but one, on which the process dies, like a decoder with a bug."""

    deadly_hash: bytes = b""

    def work(self, data: list[bytes], place: memoryview) -> Decoded:
        if self.deadly_hash in self.image_hash_B:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(data, place)
