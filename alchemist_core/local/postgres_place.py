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
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def ready_port(data: Path) -> int | None:
    """Return the port of the server that works in this folder, or nothing; asked of its own socket, never of a bare pid."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        port, socket_dir, status = int(lines[3]), lines[4], lines[7].strip()
        with closing(socket.socket(socket.AF_UNIX)) as line:
            line.settimeout(5)
            line.connect(f"{socket_dir}/.s.PGSQL.{port}")
            line.sendall(SSL_REQUEST)
            return port if status == "ready" and line.recv(1) else None
    except (OSError, IndexError, ValueError):
        return None


def postmaster_lives(data: Path) -> bool:
    """Tell whether the pid file names a live server, be it ready or not; a file that names a stranger or a zombie is removed.

    PostgreSQL itself would refuse to start while such a pid exists. Safe beside children of a killed server that still run:
    it recognises its data folder's shared memory too.
    """
    path = data / "postmaster.pid"
    try:
        pid = int(path.read_text().split("\n", 1)[0])
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
    except (OSError, ValueError):
        return False
    if name == "postgres" and not rest.startswith("Z"):
        return True
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
        return Path(json.loads(record_path(home).read_text())["server_dir"])
    return reachable_folder(wanted, find_account())


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
