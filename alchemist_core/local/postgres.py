"""The embedded PostgreSQL: a real server from the wheel's binaries, kept under the platform's home.

Every command finds the same server: it outlives the command that started it. Knows nothing of the schema in it, and talks
to it only by the wheel's own programs; drivers belong to `store`.

The order of what is written makes every interruption harmless: the password first, then the data (made aside and renamed),
then `server.json`, which says that roles and database stand.
"""

import json
import os
import secrets
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from alchemist_core.errors import StoreError
from alchemist_core.local.postgres_account import Account, find_account, own_folder
from alchemist_core.local.postgres_place import (
    free_port,
    locked,
    log_tail,
    postmaster_lives,
    ready_port,
    record_path,
    recorded_port,
    server_dir,
    socket_dir,
)
from alchemist_core.local.postgres_programs import environment, program, psql_path, run_program, write_secret

__all__ = ["EmbeddedPostgres", "is_running", "psql_path", "start_postgres", "stop_postgres"]

OWNER = "alchemist"  # owns the platform's databases; may make roles and databases, nothing more
SUPERUSER = "postgres"
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
# Both roles have the one password: it guards against other users of this machine, the split of roles against accidents.
BOOTSTRAP = r"""
\getenv password PGPASSWORD
SELECT format('CREATE ROLE %I LOGIN CREATEDB CREATEROLE PASSWORD %L', :'owner', :'password')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
GRANT pg_monitor TO :"owner";
"""
CREATE_DATABASE = r"""
SELECT pg_advisory_lock(hashtext(:'name')) \g /dev/null
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
"""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server, and how to reach it."""

    port: int
    socket_dir: Path
    data_dir: Path
    password: str = field(repr=False)

    def url(self, database: str = "alchemist") -> str:
        """Return the libpq URL of one database; it holds the password."""
        return f"postgresql://{OWNER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make a database of the owner unless it exists, and return its URL."""
        self.run_sql(CREATE_DATABASE, name=name, owner=OWNER)
        return self.url(name)

    def run_sql(self, script: str, **variables: str) -> str:
        """Run a psql script as superuser in the maintenance database, and return what it prints."""
        given = [f"--set={name}={value}" for name, value in variables.items()]
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": SUPERUSER, "PGDATABASE": "postgres"}
        command = [str(psql_path()), "-X", "-q", "-A", "-t", "--set=ON_ERROR_STOP=1", *given]
        return run_program(command, env=environment() | where | {"PGPASSWORD": self.password}, script=script)


def start_postgres(home: Path) -> EmbeddedPostgres:
    """Return the server of this home, made and started unless it runs.

    Raises:
        StoreError: the server cannot be made or started; the text holds the reason and the end of its log.
    """
    running = _running(home)
    if running is not None and record_path(home).exists():
        return running
    with locked(home) as folder:
        return _start(home, folder)


def stop_postgres(home: Path) -> bool:
    """Stop the server of this home and wait for its end; false when none ran."""
    if _running(home) is None:
        return False
    with locked(home):
        place = server_dir(home)
        _stop(place, find_account(place), mode="fast")
        if socket_dir(place) != place:
            shutil.rmtree(socket_dir(place), ignore_errors=True)
    return True


def is_running(home: Path) -> bool:
    """Tell whether the server of this home answers."""
    return _running(home) is not None


def _start(home: Path, folder: Path) -> EmbeddedPostgres:
    place = server_dir(home)
    account = find_account(place)
    password_path = folder / "password"
    if not password_path.exists():
        _discard(place, account)
        write_secret(password_path, secrets.token_urlsafe(24))
    own_folder(place, account)
    own_folder(socket_dir(place), account)
    if not (place / "data" / "PG_VERSION").exists():
        record_path(home).unlink(missing_ok=True)
        _make_cluster(place, account, password_path.read_text())
    _launch(place, account, recorded_port(home))
    server = _running(home)
    assert server is not None, f"PostgreSQL ended as soon as it was ready in {place}"
    if not record_path(home).exists():
        server.run_sql(BOOTSTRAP, owner=OWNER)
        server.create_database(OWNER)
    write_secret(record_path(home), json.dumps({"port": server.port, "server_dir": str(place)}))
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
    password = home.resolve() / "postgres" / "password"
    place = server_dir(home)
    port = ready_port(place / "data")
    if port is None or not password.exists():
        return None
    return EmbeddedPostgres(port, socket_dir(place), place / "data", password.read_text())


def _discard(place: Path, account: Account) -> None:
    """Remove the data of a deleted home of the same path: its password is gone."""
    if ready_port(place / "data") is not None:
        _stop(place, account, mode="immediate")
    shutil.rmtree(place, ignore_errors=True)


def _stop(place: Path, account: Account, *, mode: str) -> None:
    pg_ctl: str | Path = program("pg_ctl", place, account)
    command = [pg_ctl, "stop", "-D", place / "data", "-m", mode, "-t", "60"]
    run_program(command, account=account)
