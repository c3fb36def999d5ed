"""Writes tars atomically. The same entries give the same bytes."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from alchemist_core.errors import DataError
from alchemist_core.files import atomic_write, disk_checksum, sync_folder

_PAD = bytes(tarfile.BLOCKSIZE)
_BUFFER_BYTES = 1 << 16
_MAX_NAME_BYTES, _MAX_USTAR_BYTES = 100, 1 << 33

Entries = Iterable[tuple[str, bytes | memoryview]]


def write_tar(path: Path, entries: Entries, *, read_back: bool = True) -> bytes:
    """Write the entries in the order given and return the SHA-256 of the file.

    Plain USTAR, owner 0, time 0; only a name that USTAR cannot hold gets a pax header.

    Args:
        path: The tar. An existing one is replaced.
        entries: Names and bytes.
        read_back: Read the file back from the disk and compare it before the rename.

    Raises:
        DataError: The disk returned other bytes than were written, or is full.
    """
    return write_blocks(path, _blocks(entries), read_back=read_back)


def write_blocks(path: Path, blocks: Iterable[bytes | memoryview], *, read_back: bool = True) -> bytes:
    """Write a file from its parts and return the SHA-256, the only one that is computed. What is read back is compared by XXH3-128.

    Raises:
        DataError: The disk returned other bytes than were written, or is full. Errors of the parts are passed on unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    source_errors: list[OSError] = []
    try:
        with atomic_write(path) as partial, partial.open("w+b", buffering=_BUFFER_BYTES) as file:
            digest, checksum = _write(file, _noting_errors(blocks, source_errors))
            if read_back and disk_checksum(file) != checksum:
                raise DataError(f"{path} differs from what was written. Check the disk, then run again.")
    except OSError as error:
        if source_errors:
            raise
        raise DataError(
            f"{path} cannot be written ({error.strerror}). Make room or repair the disk, then run again."
        ) from error
    sync_folder(path.parent)
    return digest


def _noting_errors(blocks: Iterable[bytes | memoryview], source_errors: list[OSError]) -> Iterator[bytes | memoryview]:
    """Yield the blocks; append an error of their source to the list, because it says nothing about the file that is written."""
    try:
        yield from blocks
    except OSError as error:
        source_errors.append(error)
        raise


def _write(file: BinaryIO, blocks: Iterable[bytes | memoryview]) -> tuple[bytes, bytes]:
    digest, checksum = hashlib.sha256(), xxh3_128()
    for block in blocks:
        digest.update(block)
        checksum.update(block)
        file.write(block)
    file.flush()
    os.fsync(file.fileno())
    return digest.digest(), checksum.digest()


def _blocks(entries: Entries) -> Iterator[bytes | memoryview]:
    size_bytes = 0
    for name, data in entries:
        for block in (header(name, len(data)), data, _PAD[: -len(data) % tarfile.BLOCKSIZE]):
            size_bytes += len(block)
            yield block
    yield end_mark(size_bytes)


def end_mark(size_bytes: int) -> bytes:
    """Return the zeros after the last file of a tar: two blocks, and as many as complete a record of 10,240 bytes."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(size_bytes + end) % tarfile.RECORDSIZE)


def _plain_fields() -> tuple[bytes, bytes, bytes, int]:
    """Return the constant parts of a header before and after its size and after its checksum, and the sum of their bytes."""
    plain = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
    before, between, behind = plain[100:124], plain[136:148], plain[156:]
    return before, between, behind, sum(before) + sum(between) + sum(behind) + 8 * ord(" ")


_BEFORE_SIZE, _AFTER_SIZE, _AFTER_SUM, _PLAIN_SUM = _plain_fields()


def is_plain(name: str, size_bytes: int) -> bool:
    """Return whether USTAR can hold a file's name and size, so that its header is one block."""
    return name.isascii() and len(name) <= _MAX_NAME_BYTES and size_bytes < _MAX_USTAR_BYTES


def plain_headers(name_FN: NDArray[np.uint8], size_F: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the headers of plain files as an array with 512 bytes for each, the same bytes as one by one.

    Args:
        name_FN: The names in ASCII, filled up with zeros; at most 100 bytes.
        size_F: Sizes in bytes.
    """
    header_FB = np.empty((len(size_F), tarfile.BLOCKSIZE), np.uint8)
    header_FB[:] = np.frombuffer(header("", 0), np.uint8)
    header_FB[:, : name_FN.shape[1]] = name_FN
    header_FB[:, _SIZE] = digit_F11 = _octal(size_F, 11)
    header_FB[:, _SUM] = _octal(
        _PLAIN_SUM + name_FN.sum(axis=1, dtype=np.int64) + digit_F11.sum(axis=1, dtype=np.int64), 6
    )
    return header_FB


# Digits of the size and of the checksum, without what follows them.
_SIZE, _SUM = slice(124, 135), slice(148, 154)


def _octal(value_F: NDArray[np.int64], n_digits: int) -> NDArray[np.uint8]:
    shift = 3 * np.arange(n_digits - 1, -1, -1)
    return (value_F[:, None] >> shift & 7).astype(np.uint8) + np.uint8(ord("0"))


def header(name: str, size_bytes: int) -> bytes:
    """Return a file's header, ten times as fast as the standard library, which makes those that are not plain."""
    raw = name.encode("utf-8", "surrogateescape")
    if not is_plain(name, size_bytes):
        info = tarfile.TarInfo(name)
        info.size = size_bytes
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    size = b"%011o\0" % size_bytes
    checksum = b"%06o\0 " % (_PLAIN_SUM + sum(raw) + sum(size))
    return b"".join((raw.ljust(_MAX_NAME_BYTES, b"\0"), _BEFORE_SIZE, size, _AFTER_SIZE, checksum, _AFTER_SUM))
