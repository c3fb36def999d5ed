"""A worker process, started by `workers`: `python -m alchemist_core.shards.worker FD ARENA_FD MODULE`.

While it works on one task, a thread reads the bytes of the next one. It holds no lock that outlives it, so that it can be
killed at any moment, and it exits as soon as its parent does, even in the middle of a task.
"""

import importlib
import itertools
import mmap
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from queue import Queue
from threading import Thread
from typing import Any, Protocol


class Task(Protocol):
    """A task for a worker. It is pickled, and so is its result."""

    def read(self) -> Any:
        """Read the bytes that the work needs, while the previous task is being worked on."""
        ...

    def work(self, data: Any, place: memoryview) -> Any:
        """Return the result; data too large to be pickled goes to `place`, memory shared with the parent."""
        ...


READY = "ready"
# One task being worked on, one whose bytes are being read, and one in transit.
N_PLACES = 3


def serve(connection: Connection, arena: memoryview) -> None:
    """Answer every task with a tuple: whether it succeeded, and its result or its exception."""
    connection.send(READY)
    coming: Queue[tuple[Task, tuple[bool, Any]]] = Queue(maxsize=1)
    Thread(target=_read_ahead, args=(connection, coming), daemon=True, name="read-ahead").start()
    for number in itertools.count():
        task, (is_read, data) = coming.get()
        place = place_of(arena, number)
        connection.send(_attempt(partial(task.work, data, place)) if is_read else (False, data))


def place_of(arena: memoryview, number: int) -> memoryview:
    """Return the shared memory of a worker's `number`-th task; every third task uses the same."""
    size = len(arena) // N_PLACES
    return arena[number % N_PLACES * size :][:size]


def _read_ahead(connection: Connection, coming: "Queue[tuple[Task, tuple[bool, Any]]]") -> None:
    while True:
        is_whole, task = _attempt(connection.recv)
        if isinstance(task, (EOFError, OSError)):
            # The parent has ended, so that no process waits for the result of the current task.
            os._exit(0)
        # A task that cannot be unpickled is answered like a failed one, because its sender waits.
        coming.put((task, _attempt(task.read) if is_whole else (False, task)))


def _attempt(function: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, function()
    except MemoryError:
        # Out of memory, perhaps because of the current image: the parent finds out which one.
        os.abort()
    except Exception as error:  # noqa: BLE001  it is raised again in the parent
        return False, error


def main() -> None:
    """Serve a connection. The arguments are the file descriptors of it and of the shared memory, and the module of the tasks."""
    # Ctrl-C reaches the whole process group; this process exits when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection_fd, arena_fd, module = sys.argv[1:]
    # Import the module before the first task, so that a ready worker is fast from the start.
    importlib.import_module(module)
    with Connection(int(connection_fd)) as connection:
        try:
            serve(connection, memoryview(mmap.mmap(int(arena_fd), 0)))
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main()
