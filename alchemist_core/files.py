"""Keep log files within bounds: a process's growing log by size, finished tasks' logs by age and total size.

The writers keep their files open, so a log is copied and emptied instead of renamed, as logrotate's `copytruncate` does.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings

FEATURE_CACHE = "feature_cache"
"""Where what frozen encoders gave is kept; safe to delete."""


def artifact_path(uri: str) -> Path:
    """Return where an artifact lies; addresses in the store are relative, so that a home can be moved."""
    return load_settings().artifacts / uri


def folder_sha256(folder: Path) -> bytes:
    """Hash a folder's files, names and contents, in the order of names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def require_artifact(uri: str, sha256: bytes) -> Path:
    """Return an artifact's folder after comparing its hash with the registered one.

    Raises:
        DataError: If it is missing or differs.
    """
    folder = artifact_path(uri)
    if not folder.is_dir():
        raise DataError(
            f"The artifact {folder} is missing. Restore it from a backup, or run the stage that made it again."
        )
    if (found := folder_sha256(folder)) != sha256:
        raise DataError(
            f"The artifact {folder} has sha256 {found.hex()}, registered was {sha256.hex()}: it was changed after it was made. "
            "Restore it from a backup; it is not used."
        )
    return folder


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


MIB = 1 << 20
UNDER_WAY_S = 3600.0
"""A task's log that was written within this time may still grow: it is never removed for the sake of the total size."""


def rotate(path: Path, *, max_bytes: int) -> bool:
    """Move the end of a log that has grown too large to `NAME.1`, in place of the one before, and empty the log.

    Both together stay below twice the limit. A line that is written in that very moment may be lost.
    """
    size = path.stat().st_size
    if size <= max_bytes:
        return False
    with path.open("r+b") as log:
        log.seek(size - max_bytes)
        log.readline()  # The rest of a line whose beginning is left out.
        path.with_name(f"{path.name}.1").write_bytes(log.read(max_bytes))
        log.truncate(0)
    return True


def remove_old(folder: Path, *, keep_days: float, max_bytes: int) -> tuple[int, int]:
    """Remove files by age, then the oldest until the rest is below a size, then empty folders.

    Args:
        folder: Airflow's logs; links in it are removed with what they lead to, never followed.
        keep_days: Days after its last line that a file is kept.
        max_bytes: What all files together may hold.

    Returns:
        How many files were removed, and how many are left.
    """
    now = time.time()
    files = sorted(_files(folder))
    total, n_removed = sum(size for _, size, _ in files), 0
    for changed_at, size, path in files:
        age_s = now - changed_at
        if age_s > keep_days * 86_400 or (total > max_bytes and age_s > UNDER_WAY_S):
            path.unlink(missing_ok=True)
            total, n_removed = total - size, n_removed + 1
    _remove_empty(folder)
    return n_removed, len(files) - n_removed


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            state = path.stat()
            yield state.st_mtime, state.st_size, path


def _remove_empty(folder: Path) -> None:
    # The deepest first, so that a folder of empty folders goes too.
    for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        if path.is_symlink():
            if not path.exists():
                path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
