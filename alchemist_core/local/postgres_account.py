"""Whose processes the embedded PostgreSQL are, and which folders that account can use.

PostgreSQL refuses to run as root. As root the server belongs to an unprivileged system account, which must be able to walk
to the programs and to the data: below a folder of mode 0700, such as /root, it cannot.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from alchemist_core.errors import StoreError

# Survives a reboot, and every account can walk to it.
SHARED_ROOT = Path("/var/tmp")  # noqa: S108  folders below it are made 0700 and checked for their owner
PREFERRED = ("postgres", "nobody")


class Identity(TypedDict, total=False):
    """Arguments that make `subprocess` start a child as another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The account that runs the server; `is_other` when it is not the caller's own."""

    uid: int
    gid: int
    is_other: bool

    @property
    def identity(self) -> Identity:
        """Return the arguments by which a child becomes this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}


def find_account(place: Path | None = None) -> Account:
    """Return the caller's own account or, for root, an unprivileged one: the owner of an existing server's folder first."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), is_other=False)
    if place is not None and place.exists() and (owner := place.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, is_other=True)
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    entry = next((known[name] for name in PREFERRED if name in known), None) or next(iter(known.values()), None)
    if entry is None:
        msg = "PostgreSQL refuses to run as root and this machine has no other account: add one, or set ALCHEMIST_DATABASE_URL"
        raise StoreError(msg)
    return Account(entry.pw_uid, entry.pw_gid, is_other=True)


def own_folder(path: Path, account: Account) -> Path:
    """Make a folder that only this account (and root) can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_linked = path.is_symlink()
    if not is_linked and account.is_other and path.stat().st_uid == 0:
        os.chown(path, account.uid, account.gid)
    if is_linked or path.stat().st_uid != account.uid:
        msg = f"{path} belongs to another user: remove it, or set ALCHEMIST_HOME to a folder of your own"
        raise StoreError(msg)
    return path


def reachable_folder(wanted: Path, account: Account) -> Path:
    """Return the wanted folder, or one of the same account below /var/tmp when it cannot walk to the wanted one."""
    if not account.is_other or can_read(wanted.parent, account):
        return wanted
    return SHARED_ROOT / f"alchemist-{path_key(wanted)}"


def reachable_programs(install: Path, folder: Path, account: Account) -> Path:
    """Return the folder of the server's programs; they are copied into `folder` when the account cannot walk to them."""
    if not account.is_other or can_read(install / "bin" / "postgres", account):
        return install / "bin"
    copy = folder / "programs"
    if not copy.exists():
        half = folder / "programs.partial"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(install, half, symlinks=True)
        half.rename(copy)
    return copy / "bin"


def can_read(path: Path, account: Account) -> bool:
    """Tell whether the account can walk to a path and read it; asked of the kernel, which knows of ACLs and mounts."""
    walked = subprocess.run(["test", "-r", path, "-a", "-x", path], cwd="/", check=False, **account.identity)
    return walked.returncode == 0


def path_key(path: Path) -> str:
    """Return a short name for a path.

    >>> path_key(Path("/a")) == path_key(Path("/a")), len(path_key(Path("/a")))
    (True, 12)
    """
    return hashlib.sha256(str(path).encode()).hexdigest()[:12]
