"""Tars with the same bytes for the same entries, written aside and renamed. Knows nothing of records or images."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from alchemist_core.errors import DataError

_PAD = bytes(tarfile.BLOCKSIZE)


def write_tar(path: Path, entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Write the entries in the order given, read the file back, and return its sha256.

    Plain USTAR, owner 0, time 0; only a name that USTAR cannot hold gets a pax header. Readers see the old file or the
    whole new one, never a half.

    Raises:
        DataError: The disk gave back other bytes than were written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with aside.open("w+b") as file:
            for block in _blocks(entries):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            if hashlib.file_digest(file, "sha256").digest() != digest.digest():
                raise DataError(f"{path} reads back otherwise than it was written; check the disk, then run again")
        aside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    sync_folder(path.parent)
    return digest.digest()


def hash_tar(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the sha256 of the tar that `write_tar` would write."""
    digest = hashlib.sha256()
    for block in _blocks(entries):
        digest.update(block)
    return digest.digest()


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(entries: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    size_bytes = 0
    for name, data in entries:
        for block in (_header(name, len(data)), data, _PAD[: -len(data) % tarfile.BLOCKSIZE]):
            size_bytes += len(block)
            yield block
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(size_bytes + end) % tarfile.RECORDSIZE)


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
