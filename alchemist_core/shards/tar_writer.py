"""Tars with the same bytes for the same entries, written aside and renamed. Knows nothing of records or images."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from alchemist_core.errors import DataError
from alchemist_core.files import atomic_write, disk_sha256, sync_folder

_PAD = bytes(tarfile.BLOCKSIZE)
_BUFFER_BYTES = 1 << 16
_MAX_NAME_BYTES, _MAX_USTAR_BYTES = 100, 1 << 33

Entries = Iterable[tuple[str, bytes | memoryview]]


def write_tar(path: Path, entries: Entries, *, read_back: bool = True) -> bytes:
    """Write the entries in the order given and return the sha256 of the file.

    Plain USTAR, owner 0, time 0; only a name that USTAR cannot hold gets a pax header. Readers see the old file or the
    whole new one, never a half.

    Args:
        path: The tar; one that is there is replaced.
        entries: Names and bytes.
        read_back: Also read from the disk what was written, before it takes its name.

    Raises:
        DataError: The disk gave back other bytes than were written, or has no room for them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as partial, partial.open("w+b", buffering=_BUFFER_BYTES) as file:
            digest = _write_blocks(file, entries)
            if read_back and disk_sha256(file) != digest:
                raise DataError(f"{path} reads back otherwise than it was written; check the disk, then run again")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}); make room, or mend the disk, then run again"
        ) from error
    sync_folder(path.parent)
    return digest


def _write_blocks(file: BinaryIO, entries: Entries) -> bytes:
    digest = hashlib.sha256()
    for block in _blocks(entries):
        digest.update(block)
        file.write(block)
    file.flush()
    os.fsync(file.fileno())
    return digest.digest()


def _blocks(entries: Entries) -> Iterator[bytes | memoryview]:
    size_bytes = 0
    for name, data in entries:
        for block in (_header(name, len(data)), data, _PAD[: -len(data) % tarfile.BLOCKSIZE]):
            size_bytes += len(block)
            yield block
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(size_bytes + end) % tarfile.RECORDSIZE)


def _plain_fields() -> tuple[bytes, bytes, bytes, int]:
    """Return what stands between a header's name, size and checksum, and behind it, with the sum of all these bytes."""
    header = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
    before, between, behind = header[100:124], header[136:148], header[156:]
    return before, between, behind, sum(before) + sum(between) + sum(behind) + 8 * ord(" ")


_BEFORE_SIZE, _AFTER_SIZE, _AFTER_SUM, _PLAIN_SUM = _plain_fields()


def _header(name: str, size_bytes: int) -> bytes:
    """Return a member's header; the standard library makes the same in ten times the time, and those that are not plain."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > _MAX_NAME_BYTES or size_bytes >= _MAX_USTAR_BYTES or not name.isascii():
        info = tarfile.TarInfo(name)
        info.size = size_bytes
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    size = b"%011o\0" % size_bytes
    checksum = b"%06o\0 " % (_PLAIN_SUM + sum(raw) + sum(size))
    return b"".join((raw.ljust(_MAX_NAME_BYTES, b"\0"), _BEFORE_SIZE, size, _AFTER_SIZE, checksum, _AFTER_SUM))
