"""A process that works off tasks: `python -m alchemist_core.shards.worker FD ARENA_FD MODULE`. Started by `workers`.

It reads ahead: while one task is worked on, a thread reads the bytes that the next one needs. It holds no lock that another
process waits for, so that it can be killed at any moment, and it ends when its parent does.
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
    """What can be sent to a worker: it is pickled, and so is what its work returns."""

    def read(self) -> Any:
        """Fetch the bytes that the work needs; runs beside the work of the task before."""
        ...

    def work(self, data: Any, place: memoryview) -> Any:
        """Return the result; what is too large to be sent is written to the place, which the parent sees too."""
        ...


READY = "ready"
# One in work, one whose bytes are read meanwhile, one on its way: as many places as tasks.
N_PLACES = 3
_END: tuple[None, tuple[bool, Any]] = (None, (False, None))


def serve(connection: Connection, arena: memoryview) -> None:
    """Answer every task with a pair: whether it succeeded, and its result or its exception."""
    connection.send(READY)
    coming: Queue[tuple[Task | None, tuple[bool, Any]]] = Queue(maxsize=1)
    Thread(target=_read_ahead, args=(connection, coming), daemon=True, name="read-ahead").start()
    for number in itertools.count():
        task, (is_read, data) = coming.get()
        if task is None:
            return
        place = place_of(arena, number)
        connection.send(_attempt(partial(task.work, data, place)) if is_read else (False, data))


def place_of(arena: memoryview, number: int) -> memoryview:
    """Return where a worker's `number`-th task may leave something; it is the next but two's place again."""
    size = len(arena) // N_PLACES
    return arena[number % N_PLACES * size :][:size]


def _read_ahead(connection: Connection, coming: "Queue[tuple[Task | None, tuple[bool, Any]]]") -> None:
    try:
        while True:
            is_whole, task = _attempt(connection.recv)
            if isinstance(task, (EOFError, OSError)):
                break
            # A task that cannot be unpickled is answered like one that fails: its sender waits.
            coming.put((task, _attempt(task.read) if is_whole else (False, task)))
    finally:
        coming.put(_END)


def _attempt(function: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, function()
    except MemoryError:
        # An image in work took what there was, whoever asked last: the parent finds out which one.
        os.abort()
    except Exception as error:  # noqa: BLE001  it is raised in the parent, which knows what it means
        return False, error


def main() -> None:
    """Serve the connection over the arena whose file descriptors are the arguments; the module is where its tasks are from."""
    # Ctrl-C reaches the whole group; the parent decides, and its end ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection_fd, arena_fd, module = sys.argv[1:]
    # Now, and not with the first task: whoever awaits a worker's readiness may then count on its speed.
    importlib.import_module(module)
    with Connection(int(connection_fd)) as connection:
        try:
            serve(connection, memoryview(mmap.mmap(int(arena_fd), 0)))
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main()
