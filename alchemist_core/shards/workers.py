"""Worker processes and the tasks that they are at. A worker that dies is replaced; what to do with its tasks the caller says.

Each has a connection of its own and nothing is shared, so that a killed worker cannot stop another one, and a worker whose
parent was killed finds its connection closed and ends.
"""

import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from alchemist_core.errors import AlchemistError
from alchemist_core.shards.worker import N_PLACES, READY, Task, place_of

# Workers compute on one thread each; large freed arrays stay with the process, or every one costs its page faults anew.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_MMAP_THRESHOLD_": "268435456",
}


class WorkerDiedError(AlchemistError):
    """Report that a worker ended while it had work; `is_begun` of the one task that it was at."""

    def __init__(self, code: int, *, is_begun: bool) -> None:
        super().__init__(f"a worker process ended with code {code}")
        self.code, self.is_begun = code, is_begun


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a task: its result and its place (until the next task is submitted), or the error that ended it.

    The place is there, too, where a worker died on the task: it holds what was written until then.
    """

    ticket: Any
    result: Any = None
    place: memoryview | None = None
    error: Exception | None = None


class Workers:
    """As many processes as asked for; tasks go to the one that has least to do.

    Args:
        n_workers: Processes.
        module: Where the tasks are from, by name; imported before a worker says that it is ready.
        place_bytes: Memory, seen by both sides, for what a task's result is too large to be sent.
    """

    def __init__(self, n_workers: int, *, module: str, place_bytes: int = 1) -> None:
        self._module, self._arena_bytes = module, N_PLACES * place_bytes
        self._workers = [_Worker(module, self._arena_bytes) for _ in range(n_workers)]

    @property
    def pids(self) -> list[int]:
        """The processes, for those who watch their memory or kill them."""
        return [worker.process.pid for worker in self._workers]

    def await_ready(self) -> None:
        """Wait until every worker stands; without it the first tasks wait."""
        while starting := {worker.connection: worker for worker in self._workers if not worker.is_ready}:
            for connection in wait(list(starting)):
                assert isinstance(connection, Connection)
                list(self._receive(starting[connection]))

    def has_room(self) -> bool:
        """Tell whether a task would be worked on soon."""
        return any(len(worker.tickets) < N_PLACES for worker in self._workers)

    def is_idle(self) -> bool:
        """Tell whether nothing is awaited."""
        return not any(worker.tickets for worker in self._workers)

    def submit(self, task: Task, ticket: Any) -> None:
        """Give a task to a worker; its end comes back with the ticket."""
        worker = min(self._workers, key=lambda worker: len(worker.tickets))
        worker.tickets.append(ticket)
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # It died: that is found, with all its tickets, at the wait.
            worker.connection.send(task)

    def wait(self) -> Iterator[Done]:
        """Wait until something has ended and yield all that has.

        Raises:
            AlchemistError: A worker cannot even start.
        """
        busy = {worker.connection: worker for worker in self._workers if worker.tickets}
        for connection in wait(list(busy)):
            assert isinstance(connection, Connection)
            yield from self._receive(busy[connection])

    def _receive(self, worker: "_Worker") -> Iterator[Done]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):  # An answer that is cut in its middle is an OSError.
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
        """Start another process in a dead one's place, and give back what that one had before it."""
        worker.close()
        code = worker.process.returncode
        if not worker.is_ready:
            raise AlchemistError(
                f"A worker process ended with code {code} before it began; its own message stands above."
            )
        self._workers[self._workers.index(worker)] = _Worker(self._module, self._arena_bytes)
        for number, ticket in enumerate(worker.tickets):
            place = place_of(worker.arena, worker.n_done + number)
            yield Done(ticket, place=place, error=WorkerDiedError(code, is_begun=number == 0))

    def close(self) -> None:
        """End all processes, whatever they are at."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """One process and the tickets of its tasks, in the order in which it works."""

    def __init__(self, module: str, arena_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs, _anonymous_file() as file:
            file.truncate(arena_bytes)
            self.arena = memoryview(mmap.mmap(file.fileno(), arena_bytes))
            fds = (theirs.fileno(), file.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-m", "alchemist_core.shards.worker", *map(str, fds), module],
                pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **_ENVIRONMENT},
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
    """Open a file in memory that has no name: a killed process leaves nothing behind."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("alchemist-arena"), "r+b")
    return tempfile.TemporaryFile()


def n_own_cores() -> int:
    """Return how many cores are this process's share: those of the machine, over the processes that torchrun started on it."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
