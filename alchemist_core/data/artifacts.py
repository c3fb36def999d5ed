"""Artifacts: folders and files that stages leave under the home, named by relative addresses in the store."""

import hashlib
import os
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
