"""The passwords of the embedded PostgreSQL: one for each role, each in a file that only its owner can read.

The server is only ever given SCRAM verifiers, so that no password can reach one of its logs. Starts and connects to nothing.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Literal

from alchemist_core.local.postgres_programs import write_secret

Role = Literal["owner", "writer", "reader", "airflow"]
SUPERUSER = "postgres"
LOGINS: dict[Role, str] = {
    "owner": "alchemist",
    "writer": "alchemist_writer",
    "reader": "alchemist_reader",
    "airflow": "alchemist_airflow",
}
"""What each role is called on the server. The owner may make roles and databases; writer and reader are described in
`sql/roles.sql`; airflow owns Airflow's database and reads nothing of the store."""

PASSWORDS_SET = "has_role_passwords"
"""Entry of the home's record which says that the server was given the passwords of these files."""

# Older homes have one file, with one password for the owner and the superuser: it stays the owner's.
_FILES = {"alchemist": "password", **{name: f"password-{name}" for name in (SUPERUSER, *list(LOGINS.values())[1:])}}
_ITERATIONS = 4096  # Postgres's own default; the passwords are random, so more would only cost time


def has_server(home: Path) -> bool:
    """Return whether this home has an embedded server, be it up or down."""
    return has_password(home.resolve() / "postgres")


def has_password(folder: Path) -> bool:
    """Return whether this folder has belonged to a server before."""
    return (folder / _FILES[LOGINS["owner"]]).exists()


def read_passwords(folder: Path) -> dict[str, str] | None:
    """Return the password of each login, or nothing while one of them has none."""
    with suppress(FileNotFoundError):
        return {login: (folder / name).read_text() for login, name in _FILES.items()}
    return None


def make_passwords(folder: Path) -> dict[str, str]:
    """Return the password of each login, after giving a random one to each login without one."""
    for name in _FILES.values():
        if not (folder / name).exists():
            write_secret(folder / name, secrets.token_urlsafe(24))
    passwords = read_passwords(folder)
    assert passwords is not None, f"password files vanished from {folder}"
    return passwords


def are_set(record: Path) -> bool:
    """Return whether the server was given the passwords of these files."""
    with suppress(OSError, ValueError):
        return bool(json.loads(record.read_text()).get(PASSWORDS_SET))
    return False


def unset(record: Path) -> None:
    """Note that the server must be given the passwords again."""
    if record.exists():
        write_secret(record, json.dumps(json.loads(record.read_text()) | {PASSWORDS_SET: False}))


def scram_verifier(password: str) -> str:
    """Return what Postgres stores instead of a password.

    Source: RFC 5802, section 3, and RFC 7677 (SCRAM-SHA-256). The passwords are ASCII, so that SASLprep changes nothing.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"
