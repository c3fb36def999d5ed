"""The embedded PostgreSQL: a real server from the wheel's binaries, kept under the platform's home.

Every command finds the same server: it outlives the command that started it. Knows nothing of the schema in it, and talks
to it only by the wheel's own programs; drivers belong to `store`.

The order of what is written makes every interruption harmless: the passwords first, then the data (made aside and renamed),
then `server.json`, which says that the database exists and that every role has its password.
"""

import json
import os
import shlex
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from alchemist_core.errors import StoreError
from alchemist_core.local.log_files import MIB, rotate
from alchemist_core.local.postgres_account import Account, find_account, own_folder
from alchemist_core.local.postgres_passwords import (
    LOGINS,
    PASSWORDS_SET,
    SUPERUSER,
    Role,
    are_set,
    has_password,
    make_passwords,
    read_passwords,
    scram_verifier,
    unset,
)
from alchemist_core.local.postgres_place import (
    free_port,
    locked,
    log_tail,
    note_owner,
    postmaster_lives,
    ready_port,
    record_path,
    recorded_port,
    refuse_copy,
    server_dir,
    socket_dir,
)
from alchemist_core.local.postgres_programs import environment, program, psql_path, run_program, write_secret
from alchemist_core.settings import load_settings

__all__ = ["EmbeddedPostgres", "is_running", "psql_path", "start_postgres", "stop_postgres"]

OWNER = LOGINS["owner"]
MAX_FAILURES = 20
RECOVERY_TIMEOUT_S = 300.0  # of a server that was killed in the middle of much writing
CONFIG = """
# Written by alchemist_core/local/postgres.py; port and socket are given at each start.
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 256MB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
"""
# The owner may alter the other roles as if it had created them: migrations do, in `sql/roles.sql`.
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
CREATE_DATABASE = r"""
SELECT pg_advisory_lock(hashtext(:'name')) \g /dev/null
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('ALTER DATABASE %I OWNER TO %I', datname, :'owner') FROM pg_database
WHERE datname = :'name' AND datdba <> to_regrole(:'owner') \gexec
\connect :"name"
-- What an older home made as another role: tables with their sequences, and types. REASSIGN OWNED would take other databases too.
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'owner') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relowner <> to_regrole(:'owner') \gexec
SELECT format('ALTER TYPE %s OWNER TO %I', oid::regtype, :'owner') FROM pg_type
WHERE typnamespace = 'public'::regnamespace AND typtype = 'e' AND typowner <> to_regrole(:'owner') \gexec
"""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server, and how to reach it."""

    port: int
    socket_dir: Path
    data_dir: Path
    passwords: dict[str, str] = field(repr=False)

    def url(self, database: str = "alchemist", role: Role = "owner") -> str:
        """Return the libpq URL of one database for one role; it holds the role's password."""
        login = LOGINS[role]
        return f"postgresql://{login}:{self.passwords[login]}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, role: Role = "owner") -> str:
        """Make a database of this role unless it exists, and return its URL; what is in an older one becomes the role's."""
        self.run_sql(CREATE_DATABASE, name=name, owner=LOGINS[role])
        return self.url(name, role)

    def run_sql(self, script: str, *, secret: dict[str, str] | None = None, **variables: str) -> str:
        """Run a psql script as superuser in the maintenance database, and return what it prints.

        Args:
            script: What psql reads.
            secret: Environment variables for the script, for values that no list of processes may show.
            variables: psql variables of the script.
        """
        given = [f"--set={name}={value}" for name, value in variables.items()]
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": SUPERUSER, "PGDATABASE": "postgres"}
        command = [str(psql_path()), "-X", "-q", "-A", "-t", "--set=ON_ERROR_STOP=1", *given]
        hidden = {"PGPASSWORD": self.passwords[SUPERUSER], **(secret or {})}
        return run_program(command, env=environment() | where | hidden, script=script)


def start_postgres(home: Path) -> EmbeddedPostgres:
    """Return the server of this home, made and started unless it runs.

    Raises:
        StoreError: the server cannot be made or started; the text holds the reason and the end of its log.
    """
    running = _running(home)
    if running is not None and are_set(record_path(home)):
        return running
    with locked(home) as folder:
        return _start(home, folder)


def stop_postgres(home: Path) -> bool:
    """Stop the server of this home and wait for its end; false when none ran."""
    if not is_running(home):
        return False
    with locked(home):
        place = server_dir(home)
        _stop(place, find_account(place), mode="fast")
        if socket_dir(place) != place:
            shutil.rmtree(socket_dir(place), ignore_errors=True)
    return True


def is_running(home: Path) -> bool:
    """Tell whether the server of this home answers."""
    return has_password(home.resolve() / "postgres") and ready_port(server_dir(home) / "data") is not None


def _start(home: Path, folder: Path) -> EmbeddedPostgres:
    place = server_dir(home)
    refuse_copy(home, place)
    account = find_account(place)
    if not has_password(folder):
        _discard(place, account)
    if read_passwords(folder) is None:
        unset(record_path(home))
    passwords = make_passwords(folder)
    own_folder(place, account)
    note_owner(home, place)
    own_folder(socket_dir(place), account)
    if not (place / "data" / "PG_VERSION").exists():
        record_path(home).unlink(missing_ok=True)
        _make_cluster(place, account, passwords[SUPERUSER])
    _launch(place, account, recorded_port(home))
    server = _running(home)
    assert server is not None, f"PostgreSQL ended as soon as it was ready in {place}"
    if not are_set(record_path(home)):
        _set_passwords(server)
        server.create_database(OWNER)
    record = {"port": server.port, "server_dir": str(place), PASSWORDS_SET: True}
    write_secret(record_path(home), json.dumps(record))
    return server


def _set_passwords(server: EmbeddedPostgres) -> None:
    """Create the roles that do not exist yet, and give each its password."""
    verifiers = {login: scram_verifier(password) for login, password in server.passwords.items()}
    secret = {"ALCHEMIST_VERIFIERS": json.dumps(verifiers)}
    _as_superuser(server).run_sql(BOOTSTRAP, secret=secret, **LOGINS)


def _as_superuser(server: EmbeddedPostgres) -> EmbeddedPostgres:
    """Return the server with a superuser's password that it accepts: older homes gave the superuser the owner's."""
    try:
        server.run_sql("SELECT 1")
    except StoreError:
        return replace(server, passwords=server.passwords | {SUPERUSER: server.passwords[OWNER]})
    return server


def _make_cluster(place: Path, account: Account, password: str) -> None:
    """Make the data folder aside and rename it, so that a half-made one is never started."""
    half, password_copy = place / "data.partial", place / "initdb-password"
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
    """Start the server unless it answers; pg_ctl gives it a session and a log file of its own, and waits until it is ready."""
    data, log = place / "data", place / "log"
    if log.exists():
        rotate(log, max_bytes=load_settings().log_max_mib * MIB)
    pg_ctl, socket_option = program("pg_ctl", place, account), shlex.quote(str(socket_dir(place)))
    n_failures, deadline = 0, time.monotonic() + RECOVERY_TIMEOUT_S
    while ready_port(data) is None:
        if n_failures == MAX_FAILURES or time.monotonic() > deadline:
            msg = f"PostgreSQL does not start in {place}; remedy: read {log}. Its end:\n{log_tail(place)}"
            raise StoreError(msg)
        if postmaster_lives(data):
            time.sleep(0.1)  # It recovers, or it is being stopped.
            continue
        port = free_port(port)
        options = f"-p {port} -k {socket_option}"
        try:
            run_program([pg_ctl, "start", "-D", data, "-l", log, "-w", "-t", "120", "-o", options], account=account)
        except StoreError:
            # Another program took the port, or children of a killed server have not ended yet.
            n_failures += 1
            time.sleep(0.5)


def _running(home: Path) -> EmbeddedPostgres | None:
    passwords = read_passwords(home.resolve() / "postgres")
    place = server_dir(home)
    port = ready_port(place / "data")
    return EmbeddedPostgres(port, socket_dir(place), place / "data", passwords) if port and passwords else None


def _discard(place: Path, account: Account) -> None:
    """Remove the data of a deleted home of the same path: its password is gone."""
    if ready_port(place / "data") is not None:
        _stop(place, account, mode="immediate")
    shutil.rmtree(place, ignore_errors=True)


def _stop(place: Path, account: Account, *, mode: str) -> None:
    pg_ctl: str | Path = program("pg_ctl", place, account)
    command = [pg_ctl, "stop", "-D", place / "data", "-m", mode, "-t", "60"]
    run_program(command, account=account)
