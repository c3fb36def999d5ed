"""Where the embedded PostgreSQL of a home lies, and whether it answers there. Starts and stops nothing."""

import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path

from alchemist_core.errors import StoreError
from alchemist_core.local.postgres_account import SHARED_ROOT, find_account, path_key, reachable_folder

# Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20_000, 32_000)
LONGEST_SOCKET_FOLDER = 80  # bytes; the kernel allows 107 with the socket's own name
OWNER_FILE = "home"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def ready_port(data: Path) -> int | None:
    """Return the port of the server that works in this folder, or nothing; asked of its own socket, never of a bare pid."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        if not _works_in(lines[0], lines[1], data):
            return None  # The folder is a copy: its pid file names the original's server.
        port, socket_dir, status = int(lines[3]), lines[4], lines[7].strip()
        with closing(socket.socket(socket.AF_UNIX)) as line:
            line.settimeout(5)
            line.connect(f"{socket_dir}/.s.PGSQL.{port}")
            line.sendall(SSL_REQUEST)
            return port if status == "ready" and line.recv(1) else None
    except (OSError, IndexError, ValueError):
        return None


def _works_in(pid: str, recorded: str, data: Path) -> bool:
    """Return whether the process of a pid file works in this very folder, be it called as then or not."""
    for place in (Path(f"/proc/{int(pid)}/cwd"), Path(recorded)):
        with suppress(OSError):
            return place.samefile(data)
    return False


def refuse_copy(home: Path, place: Path) -> None:
    """Refuse a home that was copied with its server running: its data may be torn, or are not in the copy at all.

    Raises:
        StoreError: The pid file, or the record of where the data lie, names another home that is still there.
    """
    original: Path | None = None
    with suppress(OSError, IndexError):
        recorded = Path((place / "data" / "postmaster.pid").read_text().splitlines()[1])
        original = None if recorded.samefile(place / "data") else recorded
    with suppress(OSError, ValueError, KeyError):
        far = Path(json.loads(record_path(home).read_text())["server_dir"])
        if not place.is_relative_to(home.resolve()) and far != place:
            original = far
    if original is not None:
        raise StoreError(
            f"{home.resolve()} is a copy of a home whose server's data lie in {original}, made while that server ran or without its data. "
            "Use the original; for a copy run alchemist db backup there and alchemist db restore under a new ALCHEMIST_HOME."
        )


def postmaster_lives(data: Path) -> bool:
    """Tell whether the pid file names this folder's live server, be it ready or not; a file that names another process is removed.

    PostgreSQL itself would refuse to start while such a pid exists. Safe beside children of a killed server that still run:
    it recognises its data folder's shared memory too.
    """
    path = data / "postmaster.pid"
    try:
        lines = path.read_text().splitlines()
        name, _, rest = Path(f"/proc/{int(lines[0])}/stat").read_text().partition(" (")[2].rpartition(") ")
        if name == "postgres" and not rest.startswith("Z") and _works_in(lines[0], lines[1], data):
            return True
    except (OSError, ValueError, IndexError):
        return False
    path.unlink(missing_ok=True)
    return False


def free_port(first: int) -> int:
    """Return the first free port of loopback from this one on."""
    for port in chain(range(first, PORTS.stop), PORTS):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    msg = (
        f"no port of 127.0.0.1 is free in {PORTS.start}-{PORTS.stop - 1}: stop a program, or set ALCHEMIST_DATABASE_URL"
    )
    raise StoreError(msg)


def recorded_port(home: Path) -> int:
    """Return the port of the last start, or one that differs between homes."""
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads(record_path(home).read_text())["port"])
    offset = int(path_key(home.resolve()), 16) % len(PORTS)
    return PORTS.start + offset


def record_path(home: Path) -> Path:
    """Return the file whose presence says that roles and database stand; it remembers port and folder."""
    return home.resolve() / "postgres" / "server.json"


def server_dir(home: Path) -> Path:
    """Return the folder of data, log and programs: under the home, or where the server's account can walk to."""
    wanted = home.resolve() / "postgres" / "server"
    if wanted.exists():
        return wanted
    with suppress(OSError, ValueError, KeyError):
        recorded = Path(json.loads(record_path(home).read_text())["server_dir"])
        if _belongs_to(recorded, home):
            return recorded
    return reachable_folder(wanted, find_account())


def note_owner(home: Path, place: Path) -> None:
    """Write into a folder outside its home whose it is, so that a copy of the home does not take it for its own."""
    if not place.is_relative_to(home.resolve()):
        (place / OWNER_FILE).write_text(str(home.resolve() / "postgres"))


def _belongs_to(place: Path, home: Path) -> bool:
    try:
        owner = Path((place / OWNER_FILE).read_text())
    except OSError:
        return True  # Of older code, which noted no owner.
    # The home was moved where its former folder is gone.
    return not owner.exists() or owner.samefile(home.resolve() / "postgres")


def socket_dir(place: Path) -> Path:
    """Return the folder of the socket: the server's own unless its path is too long for the kernel."""
    is_short = len(os.fsencode(place)) <= LONGEST_SOCKET_FOLDER
    return place if is_short else SHARED_ROOT / f"alchemist-socket-{path_key(place)}"


@contextmanager
def locked(home: Path) -> Iterator[Path]:
    """Let one process at a time make, start or stop the server of a home."""
    folder = home.resolve() / "postgres"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = (folder / "lock").open("w")
    except PermissionError as refused:
        msg = f"{folder} belongs to another user: use that account, or set ALCHEMIST_HOME to a folder of your own"
        raise StoreError(msg) from refused
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def log_tail(place: Path) -> str:
    """Return the end of the server's log."""
    with suppress(OSError):
        return "\n".join((place / "log").read_text(errors="replace").splitlines()[-15:])
    return "(no log)"
