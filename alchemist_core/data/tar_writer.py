"""Tars with the same bytes for the same entries, written aside and renamed. Knows nothing of records or images."""

import hashlib
import os
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_PAD = bytes(tarfile.BLOCKSIZE)


def write_tar(path: Path, entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Write the entries in the order given and return the sha256 of the whole file.

    Plain USTAR, owner 0, time 0; only a name that USTAR cannot hold gets a pax header. Readers see the old file or the
    whole new one, never a half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            digest = _write_entries(file, entries)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    sync_folder(path.parent)
    return digest


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_entries(file: BinaryIO, entries: Iterable[tuple[str, bytes]]) -> bytes:
    digest, size_bytes = hashlib.sha256(), 0
    for name, data in entries:
        for block in (_header(name, len(data)), data, _PAD[: -len(data) % tarfile.BLOCKSIZE]):
            digest.update(block)
            size_bytes += file.write(block)
    end = 2 * tarfile.BLOCKSIZE
    end += -(size_bytes + end) % tarfile.RECORDSIZE
    digest.update(bytes(end))
    file.write(bytes(end))
    return digest.digest()


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
