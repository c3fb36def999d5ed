"""Files and folders on the disk: atomic writes, SHA-256, and the artifacts of the home.

An atomic write goes to a partial file beside its target, which takes the target's name once it is complete: readers see the old
file or the new one, never a part. Modules that write files use these functions, so that partial files have one kind of name.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_128

from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings

FEATURE_CACHE = "feature_cache"
"""Folder of the artifacts that caches the outputs of frozen encoders. It can be deleted at any time."""
PICTURE_CACHE = "pictures"
"""Folder of the artifacts that caches the pictures of the explorer. It can be deleted at any time."""
CLUSTER_FILES, METHOD_FILES = "clusters_of_experiments", "embeddings_of_methods"
"""Folders of the artifacts with the embeddings of whole datasets that experiments computed. They can be deleted when none runs."""
BLOCK_CACHE = "blocks"
"""Folder of the artifacts that caches what readers of subsets fetched from object stores. It can be deleted at any time."""
PARTIAL_SUFFIX = ".part"
_READ_BYTES = 1 << 20


# --- Atomic writes ------------------------------------------------------------------------------------------------------------


def partial_path(path: Path) -> Path:
    """Return the hidden name beside a file or folder under which it is written until it is complete.

    >>> partial_path(Path("subsets/cats")).as_posix()
    'subsets/.cats.part'
    """
    return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")


@contextmanager
def atomic_write(path: Path, *, is_sole_writer: bool = False, is_durable: bool = True) -> Iterator[Path]:
    """Yield the partial file to write; it replaces the target when the block ends, and is deleted if the block raises.

    Args:
        path: The target, in a folder that exists.
        is_sole_writer: Whether the caller excludes other writers of this file. The partial file of a killed process then has the
            same name and is overwritten; otherwise each thread of each process has its own name.
        is_durable: Whether to write the data to the disk before the rename (fsync), so that a power cut cannot leave an empty file.
    """
    own = f".{path.name}.{os.getpid()}.{threading.get_ident()}{PARTIAL_SUFFIX}"
    partial = partial_path(path) if is_sole_writer else path.with_name(own)
    partial.unlink(missing_ok=True)
    try:
        yield partial
        if is_durable:
            sync_file(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file durably and as a whole; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the target's name when the block ends. One process may do this at a time.

    After an error the partial folder stays until the next call, which empties it.
    """
    partial = partial_path(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(folder)


def sync_file(path: Path) -> None:
    """Write a file's data to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- SHA-256 ------------------------------------------------------------------------------------------------------------------


def file_sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def disk_sha256(file: BinaryIO) -> bytes:
    """Return the SHA-256 of an open file as the disk returns it: cached pages are dropped first, where the system can do that."""
    digest = hashlib.sha256()
    for block in _disk_blocks(file):
        digest.update(block)
    return digest.digest()


def disk_checksum(file: BinaryIO) -> bytes:
    """Return the XXH3-128 of an open file as the disk returns it; enough to find a fault of the disk in what was just written."""
    digest = xxh3_128()
    for block in _disk_blocks(file):
        digest.update(block)
    return digest.digest()


def _disk_blocks(file: BinaryIO) -> Iterator[memoryview]:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    buffer = memoryview(bytearray(_READ_BYTES))
    while size := file.readinto(buffer):  # type: ignore[attr-defined]
        yield buffer[:size]


def folder_sha256(folder: Path) -> bytes:
    """Return the SHA-256 over the names and contents of a folder's files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(file_sha256(path))
    return digest.digest()


# --- Artifacts ----------------------------------------------------------------------------------------------------------------


def artifact_path(uri: str) -> Path:
    """Return the path of an artifact. The store holds addresses relative to the home, so that a home can be moved.

    Raises:
        DataError: The address is absolute or has `..`: a person who may change rows could name any file of the machine.
    """
    if uri.startswith("/") or ".." in uri.split("/"):
        raise DataError(
            f"{uri!r} is not an address of an artifact: it must be relative to the artifacts of the home, without '..'. "
            "Find out who changed this row of the store."
        )
    return load_settings().artifacts / uri


def clear_block_cache() -> None:
    """Delete what readers of subsets fetched from object stores. A takedown calls it, because a block may hold any image."""
    for path in artifact_path(BLOCK_CACHE).glob("*/*.block"):
        path.unlink(missing_ok=True)


def remove_reports(before: datetime | None = None) -> int:
    """Delete the pages of the report and return how many. A takedown calls it, because a page may show any image.

    Args:
        before: Pages that were written later stay; None: none stays.
    """
    return _remove(artifact_path("reports").glob("*.html"), before)


def remove_experiment_embeddings(before: datetime) -> int:
    """Delete embeddings of whole datasets that experiments computed, and return the number of files; later ones stay."""
    return sum(_remove(artifact_path(folder).glob("*.npz"), before) for folder in (CLUSTER_FILES, METHOD_FILES))


def _remove(paths: Iterable[Path], before: datetime | None) -> int:
    n_removed = 0
    for path in paths:
        with suppress(FileNotFoundError):
            if before is None or path.stat().st_mtime < before.timestamp():
                path.unlink()
                n_removed += 1
    return n_removed


def shrink(paths: Iterable[Path], most_bytes: int) -> None:
    """Delete the least recently used files of a cache until a twentieth of its room is free; other processes may do the same."""
    found = []
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    n_bytes = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if n_bytes <= most_bytes - most_bytes // 20:
            return
        with suppress(OSError):
            path.unlink()
        n_bytes -= size


def require_artifact(uri: str, sha256: bytes) -> Path:
    """Return an artifact's folder after comparing its hash with the registered one.

    Raises:
        DataError: The folder is missing or has another hash.
    """
    folder = artifact_path(uri)
    if not folder.is_dir():
        raise DataError(
            f"The artifact {folder} is missing. Restore it from a backup: "
            "its row is in the store, so the stage that made it makes no other."
        )
    if (found := folder_sha256(folder)) != sha256:
        raise DataError(
            f"The artifact {folder} has sha256 {found.hex()}, but {sha256.hex()} is registered: its files were changed. "
            "Restore it from a backup."
        )
    return folder
