"""Worker processes and their tasks. A worker that dies is replaced; the caller decides what to do with its tasks.

Each worker has its own connection and shares nothing with the others, so that a killed worker cannot block another one. A worker
whose parent was killed finds its connection closed and exits.
"""

import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from alchemist_core.errors import AlchemistError
from alchemist_core.shards.worker import N_PLACES, READY, Task, place_of

# A worker decodes images that strangers made, so it gets these variables of its parent and no other: none of them is a secret.
_PASSED = {
    "PATH", "HOME", "TMPDIR", "LANG", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES", "PYDANTIC_DISABLE_PLUGINS",
    # The settings that tasks read.
    "ALCHEMIST_HOME", "ALCHEMIST_DECODE_LIMIT_S",
}  # fmt: skip
_PASSED_PREFIXES = ("LC_", "PYTHON", "MALLOC_", "OMP_", "OPENBLAS_", "MKL_", "ARROW_")
# What a worker needs in addition that reads or writes an object store: the account among them.
_PASSED_FOR_S3 = {"ALCHEMIST_S3_ENDPOINT_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"}
_PASSED_PREFIXES_FOR_S3 = ("AWS_", "SSL_")
# Each worker computes on one thread. Large freed arrays stay with the process, which saves the page faults of the next one.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_MMAP_THRESHOLD_": "268435456",
}


class WorkerDiedError(AlchemistError):
    """Reports that a worker exited with tasks left; `is_begun` is set for the one that it was working on."""

    def __init__(self, code: int, *, is_begun: bool) -> None:
        super().__init__(f"a worker process ended with code {code}")
        self.code, self.is_begun = code, is_begun


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a task: its result and its shared memory (valid until the next task is submitted), or its error.

    The shared memory is also set if a worker died on the task: it holds what the worker had written.
    """

    ticket: Any
    result: Any = None
    place: memoryview | None = None
    error: Exception | None = None


def own_environment(*, uses_s3: bool = False) -> dict[str, str]:
    """Return the environment of a worker. The case of a variable's name does not matter, because settings are read so."""
    names = _PASSED | _PASSED_FOR_S3 if uses_s3 else _PASSED
    prefixes = (*_PASSED_PREFIXES, *_PASSED_PREFIXES_FOR_S3) if uses_s3 else _PASSED_PREFIXES
    passed = {
        name: value for name, value in os.environ.items() if name.upper() in names or name.upper().startswith(prefixes)
    }
    return passed | _ENVIRONMENT


class Workers:
    """A number of worker processes; a task goes to the one with the fewest tasks.

    Args:
        n_workers: Number of processes.
        module: Name of the tasks' module; imported before a worker reports that it is ready.
        place_bytes: Shared memory per task, for results too large to be pickled.
        keep_open: File descriptors that the workers inherit, such as that of a lock, which is held until the last of them has exited.
        uses_s3: Whether tasks read or write an object store: only then the workers get the variables of its account.
    """

    def __init__(
        self, n_workers: int, *, module: str, place_bytes: int = 1, keep_open: Sequence[int] = (), uses_s3: bool = False
    ) -> None:
        self.uses_s3 = uses_s3
        self._start = partial(_Worker, module, N_PLACES * place_bytes, keep_open, own_environment(uses_s3=uses_s3))
        self._workers = [self._start() for _ in range(n_workers)]

    @property
    def pids(self) -> list[int]:
        """Process ids, to measure their memory or to kill them."""
        return [worker.process.pid for worker in self._workers]

    def await_ready(self) -> None:
        """Block until every worker is ready. Without it the first tasks wait."""
        while starting := {worker.connection: worker for worker in self._workers if not worker.is_ready}:
            for connection in wait(list(starting)):
                assert isinstance(connection, Connection)
                list(self._receive(starting[connection]))

    def has_room(self) -> bool:
        """Return whether another task would be started soon."""
        return any(len(worker.tickets) < N_PLACES for worker in self._workers)

    def is_idle(self) -> bool:
        """Return whether no task is pending."""
        return not any(worker.tickets for worker in self._workers)

    def submit(self, task: Task, ticket: Any) -> None:
        """Send a task to a worker; its result comes back with the ticket."""
        worker = min(self._workers, key=lambda worker: len(worker.tickets))
        worker.tickets.append(ticket)
        with suppress(BrokenPipeError, ConnectionResetError):  # It died; `wait` finds this and returns its tickets.
            worker.connection.send(task)

    def wait(self) -> Iterator[Done]:
        """Wait until a task has ended and yield all that have.

        Raises:
            AlchemistError: A worker cannot start.
        """
        busy = {worker.connection: worker for worker in self._workers if worker.tickets}
        for connection in wait(list(busy)):
            assert isinstance(connection, Connection)
            yield from self._receive(busy[connection])

    def _receive(self, worker: "_Worker") -> Iterator[Done]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):  # A message that is cut off raises OSError.
            yield from self._replace(worker)
            return
        if message == READY:
            worker.is_ready = True
            return
        is_success, value = message
        ticket = worker.tickets.popleft()
        place = place_of(worker.arena, worker.n_done)
        worker.n_done += 1
        yield Done(ticket, result=value, place=place) if is_success else Done(ticket, error=value)

    def _replace(self, worker: "_Worker") -> Iterator[Done]:
        """Replace a dead worker by a new one, and return the dead one's tasks."""
        worker.close()
        code = worker.process.returncode
        if not worker.is_ready:
            raise AlchemistError(
                f"A worker process ended with code {code} while it started. See its error message above."
            )
        self._workers[self._workers.index(worker)] = self._start()
        for number, ticket in enumerate(worker.tickets):
            place = place_of(worker.arena, worker.n_done + number)
            yield Done(ticket, place=place, error=WorkerDiedError(code, is_begun=number == 0))

    def close(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """One process and the tickets of its tasks, in the order in which it works on them."""

    def __init__(self, module: str, arena_bytes: int, keep_open: Sequence[int], environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs, _anonymous_file() as file:
            file.truncate(arena_bytes)
            self.arena = memoryview(mmap.mmap(file.fileno(), arena_bytes))
            fds = (theirs.fileno(), file.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-m", "alchemist_core.shards.worker", *map(str, fds), module],
                pass_fds=(*fds, *keep_open), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        self.connection = Connection(ours.detach())
        self.tickets: deque[Any] = deque()
        self.n_done = 0
        self.is_ready = False

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


def _anonymous_file() -> IO[bytes]:
    """Open a nameless file in memory: a killed process leaves nothing behind."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("alchemist-arena"), "r+b")
    return tempfile.TemporaryFile()
