"""Processes of this machine: their identity, their sessions, and their end.

Linux keeps what is needed under `/proc`. A pid alone is no identity, since it is reused: with the time of its birth it is.
Knows nothing of what the processes do.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, told from a later one with the same pid by its birth in clock ticks since boot."""

    pid: int
    birth: int


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a live process; none when it is gone or a zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] == "Z":
        return None
    return ProcessIdentity(pid, int(fields[19]))


def is_alive(process: ProcessIdentity) -> bool:
    """Tell whether exactly this process still runs."""
    return identify(process.pid) == process


def find_marked(mark: str) -> list[ProcessIdentity]:
    """Return the live processes of this user that were started with `mark` (NAME=value) in their environment."""
    return _find(lambda pid: mark.encode() in _environment(pid).split(b"\0"))


def find_session(session_id: int) -> list[ProcessIdentity]:
    """Return the live processes of one session."""
    return _find(lambda pid: (fields := _stat(pid)) is not None and int(fields[3]) == session_id)


def end(processes: Iterable[ProcessIdentity], *, grace_s: float) -> None:
    """Ask processes to stop, wait, and kill those that did not."""
    waiting = list(processes)
    send(waiting, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (waiting := [process for process in waiting if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    send(waiting, signal.SIGKILL)


def send(processes: Iterable[ProcessIdentity], signal_number: int) -> None:
    """Send a signal to those that still run, and to nobody else."""
    for process in processes:
        if is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal_number)


def _find(wanted: Callable[[int], bool]) -> list[ProcessIdentity]:
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    found = (identify(pid) for pid in pids if pid != os.getpid() and wanted(pid))
    return [process for process in found if process is not None]


def _stat(pid: int) -> list[str] | None:
    # The name in the second field may hold spaces and brackets: what counts follows the last bracket.
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _environment(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""
