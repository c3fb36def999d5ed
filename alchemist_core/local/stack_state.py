"""What the local stack remembers between commands: `<home>/stack.json` and two lock files.

The supervisor alone writes the file while it lives; its lock, which ends with its process, says whether it does.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from alchemist_core.local.processes import ProcessIdentity


@dataclass(frozen=True, slots=True)
class ChildState:
    """One supervised process, and how often it was started again."""

    pid: int
    birth: int
    n_restarts: int

    @property
    def identity(self) -> ProcessIdentity:
        """The process itself, told from a later one with its pid."""
        return ProcessIdentity(self.pid, self.birth)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the stack listens, on loopback."""

    airflow: int
    metrics: int
    statsd: int | None = None
    prometheus: int | None = None


@dataclass(frozen=True, slots=True)
class StackState:
    """Content of stack.json; the ports outlive the processes."""

    ports: Ports | None = None
    supervisor_pid: int | None = None
    children: dict[str, ChildState] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    """What the supervisor keeps alive; a program that was installed later is not among them. Empty while none supervises."""


def state_path(home: Path) -> Path:
    """Return where the state is kept."""
    return home / "stack.json"


def read_state(home: Path) -> StackState:
    """Return the state as last written; empty for a new home, and for a copy, whose file names the original's processes."""
    try:
        raw = json.loads(state_path(home).read_text())
    except FileNotFoundError:
        return StackState()
    owner = Path(raw.get("home", home))
    if owner.exists() and not owner.samefile(home):
        return StackState()
    children = {name: ChildState(**child) for name, child in raw["children"].items()}
    ports = Ports(**raw["ports"]) if raw["ports"] else None
    programs = tuple(raw.get("programs", ()))
    return StackState(ports=ports, supervisor_pid=raw["supervisor_pid"], children=children, programs=programs)


def write_state(home: Path, state: StackState) -> None:
    """Replace the state in one step: a reader sees the old or the new."""
    draft = state_path(home).with_suffix(".draft")
    draft.write_text(json.dumps({"home": str(home.resolve()), **asdict(state)}, indent=1))
    draft.replace(state_path(home))


@contextlib.contextmanager
def hold_lock(path: Path, *, should_wait: bool) -> Iterator[bool]:
    """Hold a lock file, or yield false when another process holds it and we should not wait."""
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
    """Return the lock that `up` and `down` take: one of them at a time."""
    return home / "stack.lock"


def supervisor_lock(home: Path) -> Path:
    """Return the lock that a supervisor holds for its life."""
    return home / "supervisor.lock"


def is_supervised(home: Path) -> bool:
    """Tell whether a supervisor of this home lives; looking creates nothing."""
    if not supervisor_lock(home).exists():
        return False
    with hold_lock(supervisor_lock(home), should_wait=False) as is_ours:
        return not is_ours
