"""Walks the headers of a tar and goes on behind damage. Knows nothing of records, keys or images.

`tarfile` stops silently at the first bad header; here that is reported and the walk finds the next good one.

Letters: B blocks of 512 bytes · D digits of a checksum.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from alchemist_core.data.faults import Reason
from alchemist_core.data.tar_extensions import (
    EXTENSION_TYPES,
    MAX_EXTENSION_BYTES,
    PASSED_OVER_TYPES,
    Extension,
    apply_extension,
)
from alchemist_core.errors import DataError

_BLOCK = tarfile.BLOCKSIZE
_SCAN_BYTES = 1 << 20
_CHECKSUM = slice(148, 156)


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: where its bytes lie, and what is wrong with it if anything is."""

    name: str
    offset: int
    size: int
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch that no entry can be read from; whatever lay there is lost."""

    offset: int
    reason: Reason
    detail: str


def walk_tar(file: BinaryIO, size_bytes: int) -> Iterator[Entry | Damage]:
    """Yield entries and damage in the order of the file; folders are passed over.

    Raises:
        DataError: The file is no tar: no good header is found anywhere in it.
    """
    _require_tar(file, size_bytes)
    yield from _Walk(file, size_bytes).steps()


class _Walk:
    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._offset = 0
        self._extension = Extension()
        # Whether the last thing read was the zero block that ends a tar.
        self._is_closed = False

    def steps(self) -> Iterator[Entry | Damage]:
        while self._offset + _BLOCK <= self._size_bytes:
            block = _read_at(self._file, self._offset, _BLOCK)
            if not block.strip(b"\0"):
                self._offset = _skip_zeros(self._file, self._offset, self._size_bytes)
                self._is_closed = True
            elif (header := _parse_header(block)) is None:
                yield self._report_damage()
            elif header.type in EXTENSION_TYPES:
                self._extend(header)
            else:
                yield from self._read_entry(header)
        if not self._is_closed:
            yield Damage(
                self._size_bytes, Reason.TRUNCATED_TAR, f"the tar ends at byte {self._size_bytes} without an end mark"
            )

    def _report_damage(self) -> Damage:
        damage = Damage(self._offset, Reason.CORRUPT_HEADER, f"no tar header at byte {self._offset}")
        self._offset = _find_header(self._file, self._offset + _BLOCK, self._size_bytes)
        self._is_closed = self._offset >= self._size_bytes
        self._extension = Extension()
        return damage

    def _extend(self, header: tarfile.TarInfo) -> None:
        start = self._offset + _BLOCK
        self._is_closed = False
        self._offset = start + _padded(header.size)
        if header.type in PASSED_OVER_TYPES:
            return
        if header.size > MAX_EXTENSION_BYTES:
            self._extension.flaw = f"extended header of {header.size} bytes; the limit is {MAX_EXTENSION_BYTES}"
            return
        apply_extension(self._extension, header.type, _read_at(self._file, start, header.size))

    def _read_entry(self, header: tarfile.TarInfo) -> Iterator[Entry]:
        start, extension = self._offset + _BLOCK, self._extension
        self._is_closed, self._extension = False, Extension()
        size = header.size if extension.size is None else extension.size
        has_data = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        reason, detail = _find_fault(header, extension)
        self._offset = start + (_padded(size) if has_data else 0)
        if has_data and start + size > self._size_bytes:
            # A header that lies about its size must not swallow the entries behind it.
            self._offset = _find_header(self._file, start, self._size_bytes)
            is_cut = self._is_closed = self._offset >= self._size_bytes
            reason = Reason.TRUNCATED_TAR if is_cut else Reason.CORRUPT_HEADER
            detail = f"{size} bytes announced, {self._offset - start} are there"
        if not header.isdir():
            yield Entry(extension.path or header.name, start, size, reason, detail)


def _require_tar(file: BinaryIO, size_bytes: int) -> None:
    """Refuse a file without a good header. A tar whose first header is damaged is still a tar: only one record is lost."""
    block = _read_at(file, 0, _BLOCK)
    if not block:
        raise DataError("the file is empty, not a tar; upload it again")
    is_tar = len(block) == _BLOCK and (not block.strip(b"\0") or _parse_header(block) is not None)
    if not is_tar and _find_header(file, _BLOCK, size_bytes) >= size_bytes:
        kind = "gzip" if block.startswith(b"\x1f\x8b") else f"a file that starts with {block[:8]!r}"
        raise DataError(f"expected an uncompressed tar, found {kind}; unpack it, or remove it from the dataset's root")


def _parse_header(block: bytes) -> tarfile.TarInfo | None:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return header if header.size >= 0 else None


def _find_fault(header: tarfile.TarInfo, extension: Extension) -> tuple[Reason | None, str]:
    if extension.flaw:
        return Reason.CORRUPT_HEADER, extension.flaw
    if not header.isreg() or header.type == tarfile.GNUTYPE_SPARSE:
        return Reason.NOT_A_FILE, f"tar entry of type {header.type!r}; only plain files are read"
    return None, ""


def _padded(size: int) -> int:
    return size + -size % _BLOCK


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _skip_zeros(file: BinaryIO, offset: int, size_bytes: int) -> int:
    """Return the offset of the next block that is not all zeros, or the end of the file."""
    file.seek(offset)
    while offset < size_bytes and (chunk := file.read(_SCAN_BYTES)):
        kept = chunk.lstrip(b"\0")
        if kept:
            n_zeros = len(chunk) - len(kept)
            return offset + n_zeros - n_zeros % _BLOCK
        offset += len(chunk)
    return size_bytes


def _find_header(file: BinaryIO, offset: int, size_bytes: int) -> int:
    """Return the offset of the next good header at or behind a block's start, or the end of the file."""
    file.seek(offset)
    while offset < size_bytes and (chunk := file.read(_SCAN_BYTES)):
        for start in _candidate_blocks(chunk):
            if _parse_header(chunk[start : start + _BLOCK]):
                return offset + start
        offset += len(chunk)
    return size_bytes


def _candidate_blocks(chunk: bytes) -> Iterator[int]:
    """Yield the starts of blocks whose checksum field holds octal digits: old tars have no magic to look for."""
    block_B512 = np.frombuffer(chunk, np.uint8, len(chunk) // _BLOCK * _BLOCK).reshape(-1, _BLOCK)
    digit_BD = block_B512[:, _CHECKSUM]
    is_padding_BD = (digit_BD == ord(" ")) | (digit_BD == 0)
    is_octal_BD = (digit_BD >= ord("0")) & (digit_BD <= ord("7"))
    is_candidate_B = (is_octal_BD | is_padding_BD).all(axis=1) & is_octal_BD.any(axis=1)
    yield from (np.flatnonzero(is_candidate_B) * _BLOCK).tolist()
