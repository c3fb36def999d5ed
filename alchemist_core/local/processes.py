"""Processes of this machine: identify them, find their sessions, and stop them.

Reads `/proc` of Linux. Pids are reused, so a process is identified by its pid and its start time.
It does not depend on what the processes do.
"""

import contextlib
import fcntl
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alchemist_core.code_version import code_version
from alchemist_core.files import atomic_write
from alchemist_core.settings import find_project_file
from alchemist_core.telemetry import warn

PROC = Path("/proc")
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process: its pid, and its start time in clock ticks since boot, because pids are reused."""

    pid: int
    birth: int


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a live process; None if it has ended or is a zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] == "Z":
        return None
    return ProcessIdentity(pid, int(fields[19]))


def is_alive(process: ProcessIdentity) -> bool:
    """Return whether exactly this process still runs."""
    return identify(process.pid) == process


def find_marked(mark: str) -> list[ProcessIdentity]:
    """Return the live processes of this user that were started with `mark` (NAME=value) in their environment."""
    return _find(lambda pid: mark.encode() in _environment(pid).split(b"\0"))


def find_session(session_id: int) -> list[ProcessIdentity]:
    """Return the live processes of one session."""
    return _find(lambda pid: (fields := _stat(pid)) is not None and int(fields[3]) == session_id)


def end(processes: Iterable[ProcessIdentity], *, grace_s: float) -> None:
    """Send SIGTERM to processes, wait, and kill those that still run."""
    waiting = list(processes)
    send(waiting, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (waiting := [process for process in waiting if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    send(waiting, signal.SIGKILL)


def send(processes: Iterable[ProcessIdentity], signal_number: int) -> None:
    """Send a signal to those of the processes that still run."""
    for process in processes:
        if is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal_number)


def _find(wanted: Callable[[int], bool]) -> list[ProcessIdentity]:
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    found = (identify(pid) for pid in pids if pid != os.getpid() and wanted(pid))
    return [process for process in found if process is not None]


def _stat(pid: int) -> list[str] | None:
    # The name in the second field may contain spaces and brackets, so the fields after the last bracket are used.
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _environment(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class ChildState:
    """A supervised process, and how often it was restarted."""

    pid: int
    birth: int
    n_restarts: int

    @property
    def identity(self) -> ProcessIdentity:
        """The identity of the process."""
        return ProcessIdentity(self.pid, self.birth)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a supervised process ended last, when (UTC), and how often it has ended since the supervisor started."""

    how: str
    at: str
    n: int


@dataclass(frozen=True, slots=True)
class StackCommand:
    """A command that starts or stops the stack now: `up` or `down`, its process, and what it waits for."""

    verb: str
    pid: int
    birth: int
    waits_for: str


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports on which the stack listens."""

    airflow: int
    metrics: int
    statsd: int | None = None
    prometheus: int | None = None


@dataclass(frozen=True, slots=True)
class Installation:
    """Which code runs: its version, and the folder of its Python environment."""

    version: str
    folder: str

    def __str__(self) -> str:
        return f"version {self.version} in {self.folder}"


def this_installation() -> Installation:
    """Return the installation of this process."""
    return Installation(code_version(), sys.prefix)


@dataclass(frozen=True, slots=True)
class StackState:
    """Content of stack.json. The ports are kept when the processes end."""

    ports: Ports | None = None
    supervisor_pid: int | None = None
    children: dict[str, ChildState] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    """Names of the processes that the supervisor runs, without programs that were installed after its start; empty without one."""
    project: str | None = None
    """The project file with which the supervisor was started."""
    endings: dict[str, Ending] = field(default_factory=dict)
    """Processes that ended by themselves or were killed since the supervisor started; Postgres too."""
    installation: Installation | None = None
    """The installation with which the supervisor was started; None for one that did not record it yet."""


def state_path(home: Path) -> Path:
    """Return the path of stack.json."""
    return home / "stack.json"


def read_state(home: Path) -> StackState:
    """Return the state as last written. It is empty for a new home, and for a copied home, whose file names the original's processes.

    It is empty too if the file is unreadable: `stack up` writes it again, and finds the processes of this home by their environment.
    """
    path = state_path(home)
    try:
        return _parse_state(home, json.loads(path.read_text()))
    except FileNotFoundError:
        return StackState()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _warn_unreadable(path, f"{type(error).__name__}: {error}")
        return StackState()


def _parse_state(home: Path, raw: dict[str, Any]) -> StackState:
    owner = Path(raw.get("home", home))
    if owner.exists() and not owner.samefile(home):
        return StackState()
    children = {name: ChildState(**child) for name, child in raw["children"].items()}
    ports = Ports(**raw["ports"]) if raw["ports"] else None
    programs = tuple(raw.get("programs", ()))
    endings = {name: Ending(**ending) for name, ending in raw.get("endings", {}).items()}
    installation = Installation(**raw["installation"]) if raw.get("installation") else None
    return StackState(ports, raw["supervisor_pid"], children, programs, raw.get("project"), endings, installation)


@functools.cache
def _warn_unreadable(path: Path, why: str) -> None:
    # Once: a command reads the state several times.
    warn(f"{path} is unreadable ({why}), so it is ignored. Write it again: alchemist stack up.")


def forgotten_project(home: Path) -> str | None:
    """Return the project file with which the stack of a home was started last, if none is found from here; else None.

    The demo's is in its home, where nothing looks for it.
    """
    used = read_state(home).project
    return used if used and Path(used).is_file() and find_project_file() is None else None


def describe_other_installation(home: Path) -> str | None:
    """Return by which other installation or version the running stack was started; None if by this one, or if none runs."""
    state, here = read_state(home), this_installation()
    # The supervisor records its programs together with its installation.
    if not state.programs or state.installation == here or not is_supervised(home):
        return None
    return f"The running stack was started by {state.installation or 'an earlier version'}, and this command is {here}."


OTHER_INSTALLATION_REMEDY = "alchemist stack down, then alchemist stack up"


def write_state(home: Path, state: StackState) -> None:
    """Write the state atomically; a power cut leaves the former state or this one."""
    with atomic_write(state_path(home)) as partial:
        partial.write_text(json.dumps({"home": str(home.resolve()), **asdict(state)}, indent=1))


@contextlib.contextmanager
def hold_lock(path: Path, *, should_wait: bool) -> Iterator[bool]:
    """Hold a lock file; yield False if another process holds it and `should_wait` is False."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if should_wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def command_lock(home: Path) -> Path:
    """Return the lock file that keeps `up` and `down` from running at the same time."""
    return home / "stack.lock"


@contextlib.contextmanager
def hold_command_lock(home: Path, verb: str) -> Iterator[Callable[[str], None]]:
    """Wait for the lock of `up` and `down`, and hold it for the block.

    Yields:
        A function that records what the command waits for now, for `stack status`.
    """
    with hold_lock(command_lock(home), should_wait=True):
        me = identify(os.getpid())
        assert me is not None, "this process runs"

        def note(waits_for: str) -> None:
            # The lock is the file itself, so it must be written in place.
            command_lock(home).write_text(json.dumps(asdict(StackCommand(verb, me.pid, me.birth, waits_for))))

        try:
            yield note
        finally:
            command_lock(home).write_text("")


def read_command(home: Path) -> StackCommand | None:
    """Return the command that starts or stops the stack now; None if there is none, or if it was killed."""
    try:
        found = StackCommand(**json.loads(command_lock(home).read_text()))
    except (OSError, ValueError):
        return None
    return found if is_alive(ProcessIdentity(found.pid, found.birth)) else None


def age_s(process: ProcessIdentity) -> float:
    """Return how long ago a process was started, in seconds."""
    since_boot = float((PROC / "uptime").read_text().split()[0])
    return since_boot - process.birth / os.sysconf("SC_CLK_TCK")


def supervisor_lock(home: Path) -> Path:
    """Return the lock file that a supervisor holds while it runs."""
    return home / "supervisor.lock"


def is_supervised(home: Path) -> bool:
    """Return whether a supervisor of this home runs. Creates no file."""
    if not supervisor_lock(home).exists():
        return False
    with hold_lock(supervisor_lock(home), should_wait=False) as is_ours:
        return not is_ours
