"""The records of a tar: neighbouring files with one key, as webdataset groups them. Reads headers only, never a file's bytes.

A record's key is its path up to the first dot of the file name; the rest, in lower case, is the file's extension. After damage in a
tar, reading continues: a record that lost a file becomes a fault, and its neighbours are complete.

From top to bottom: records, grouping of entries, the walk over the headers, extended headers.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from alchemist_core.errors import DataError
from alchemist_core.lazy import np
from alchemist_core.shards.faults import Fault, Reason, is_storable, make_fault

IMAGE_EXTS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
# Keys are indexed: an entry of Postgres' B-tree holds at most 2,704 bytes.
MAX_KEY_BYTES = 1024
# Limit of one record: one row of the store holds the locations of all its files.
MAX_FILES = 256
# Files that macOS, Windows and pax add to an archive; no file of a record has such a name.
_CLUTTER = re.compile(
    r"(?:.*/)?(?:\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini|(?:__MACOSX|PaxHeaders?(?:\.\d+)?)/.*|pax_global_header)",
    re.DOTALL,
)
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")


class NotATarError(DataError):
    """Refuse a file that is not a tar; other errors of a reader come from its storage."""


class RecordFile(NamedTuple):
    """One file of a record: its extension, and the location of its bytes in the tar."""

    ext: str
    offset: int
    size: int


class Record(NamedTuple):
    """A complete record. `ordinal` counts good and bad records of the shard, from 0."""

    ordinal: int
    key: str
    files: tuple[RecordFile, ...]


def index_tar(file: BinaryIO, size_bytes: int) -> Iterator[Record | Fault]:
    """Yield every record of a shard, or a fault in its place.

    Raises:
        NotATarError: The file holds no valid header.
    """
    seen: set[str] = set()
    for ordinal, group in enumerate(_clear_suspects(_group_entries(walk_tar(file, size_bytes)))):
        _check_key(group, seen)
        seen.add(group.key)
        if group.reason is not None:
            yield make_fault(ordinal, group.key, group.reason, group.detail)
        else:
            yield Record(ordinal, group.key, tuple(group.files))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tar: the location of its bytes, and the reason if it cannot be used."""

    name: str
    offset: int
    size: int
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of the tar without a readable entry; its contents are lost."""

    offset: int
    reason: Reason
    detail: str


# --- Grouping of entries ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    key: str
    files: list[RecordFile] = field(default_factory=list)
    reason: Reason | None = None
    detail: str = ""
    # Adjacent damage: a file of the record may have been lost there.
    suspicions: list[Damage] = field(default_factory=list)
    # Set for a damaged stretch instead of a record: it represents all that was lost there.
    gap: Damage | None = None

    def accuse(self, reason: Reason, detail: str) -> None:
        """Keep the first reason that is found."""
        if self.reason is None:
            self.reason, self.detail = reason, detail

    @property
    def shape(self) -> frozenset[str]:
        return frozenset("image" if file.ext in IMAGE_EXTS else file.ext for file in self.files)


def _group_entries(steps: Iterable[Entry | Damage]) -> Iterator[_Group]:
    group: _Group | None = None
    damage: Damage | None = None
    # Files that belong to no record. macOS puts some between the files of a record, so they do not end a group; they follow it.
    strays: list[_Group] = []
    for step in steps:
        if isinstance(step, Damage):
            if damage is not None:
                yield from _close(group, damage, strays)
                group = None
            damage = step
            continue
        key, ext, reason, detail = _split_name(step.name)
        if reason is Reason.BAD_NAME:
            strays += _stray_file(step, key, detail)
            continue
        is_next = group is None or key != group.key
        if damage is not None and group is not None and not is_next:
            group.accuse(damage.reason, damage.detail)
        elif is_next:
            yield from _close(group, damage, strays)
            group = _Group(key, suspicions=[damage] if damage else [])
        damage = None
        assert group is not None
        _add_file(group, step, ext)
        if reason is not None:
            group.accuse(reason, detail)
    yield from _close(group, damage, strays)


def _stray_file(entry: Entry, key: str, detail: str) -> list[_Group]:
    """Return the fault of a file without a key; none for a file that an operating system added, unless the tar is damaged there."""
    if is_clutter(entry.name) and entry.reason in (None, Reason.NOT_A_FILE):
        return []
    stray = _Group(key)
    _add_file(stray, entry, "")
    stray.accuse(Reason.BAD_NAME, detail)
    return [stray]


def _close(group: _Group | None, damage: Damage | None, strays: list[_Group]) -> Iterator[_Group]:
    if group is not None:
        group.suspicions += [damage] if damage else []
        yield group
    yield from strays
    strays.clear()
    if damage is not None:
        yield _Group(f"offset-{damage.offset}", reason=damage.reason, detail=damage.detail, gap=damage)


def _add_file(group: _Group, entry: Entry, ext: str) -> None:
    if len(group.files) == MAX_FILES:
        group.accuse(Reason.TOO_MANY_MEMBERS, f"more than {MAX_FILES} files")
        return
    if any(file.ext == ext for file in group.files):
        group.accuse(Reason.DUPLICATE_MEMBER, f"two files {ext!r}")
    if entry.reason is not None:
        group.accuse(entry.reason, f"{entry.name}: {entry.detail}")
    group.files.append(RecordFile(ext, entry.offset, entry.size))


def _clear_suspects(groups: Iterable[_Group]) -> Iterator[_Group]:
    """Mark as faulty each group next to damage that lacks a file which its undamaged neighbours have.

    These groups wait, in order, for the next undamaged group: the first undamaged one shows the files of a record of this shard.
    """
    expected: frozenset[str] | None = None
    waiting: list[_Group] = []
    for group in groups:
        waiting.append(group)
        if group.suspicions or group.gap:
            continue
        if expected is None and group.reason is None:
            expected = group.shape
        if expected is not None:
            yield from _judge(waiting, expected)
            waiting.clear()
    yield from _judge(waiting, expected or _joint_shape(waiting))


def _judge(groups: list[_Group], expected: frozenset[str]) -> list[_Group]:
    """Mark the incomplete groups as faulty. Damage next to one of them is not reported as another loss."""
    explained: list[Damage] = []
    for group in groups:
        # More files than a neighbour has are not a loss; without a neighbour to compare with, nothing can be decided.
        if group.suspicions and not (expected and expected <= group.shape):
            damage = group.suspicions[0]
            group.accuse(damage.reason, f"a file is missing next to damage: {damage.detail}")
            explained += group.suspicions
    return [group for group in groups if group.gap is None or group.gap not in explained]


def _joint_shape(groups: list[_Group]) -> frozenset[str]:
    """Return every file that occurs in any of several groups; nothing for a single group."""
    shapes = [group.shape for group in groups if group.gap is None]
    return frozenset().union(*shapes) if len(shapes) > 1 else frozenset()


def is_clutter(name: str) -> bool:
    """Return whether an operating system added the file to the archive; such files are ignored.

    >>> is_clutter("./._000.jpg"), is_clutter("PaxHeaders.12/000.jpg"), is_clutter("000.jpg")
    (True, True, False)
    """
    return _CLUTTER.fullmatch(name) is not None


def _split_name(name: str) -> tuple[str, str, Reason | None, str]:
    """Split a file's name into key and extension, with the reason and detail of a fault.

    >>> _split_name("./a/000.cls.TXT")
    ('a/000', 'cls.txt', None, '')
    """
    path = name
    while path.startswith("./"):
        path = path[2:]
    match = _NAME.fullmatch(path)
    key, ext = (match[1], match[2].lower()) if match else (path, "")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or _DRIVE.match(path):
        return key, ext, Reason.UNSAFE_PATH, f"{name!r} is outside its folder"
    if match is None or is_clutter(path):
        return path, "", Reason.BAD_NAME, f"{name!r} is not of the form KEY.EXTENSION"
    if not is_storable(path):
        return key, ext, Reason.UNSTORABLE_TEXT, f"name {name!r} contains NUL or is not UTF-8"
    return key, ext, None, ""


def _check_key(group: _Group, seen: set[str]) -> None:
    if group.key in seen:
        group.accuse(Reason.DUPLICATE_KEY, "an earlier record of this shard has the same key")
    size_bytes = len(group.key.encode("utf-8", "surrogateescape"))
    if size_bytes > MAX_KEY_BYTES:
        group.accuse(Reason.KEY_TOO_LONG, f"{size_bytes} bytes; the limit is {MAX_KEY_BYTES}")


# --- The walk over the headers ------------------------------------------------------------------------------------------------

_BLOCK = tarfile.BLOCKSIZE
_SCAN_BYTES = 1 << 20
_CHECKSUM = slice(148, 156)

# Longer names and attributes occur only in malicious files.
MAX_EXTENSION_BYTES = 1 << 16
# No program pads a tar with more zeros than this. An upload that sets the size of its file first ends in zeros until it is complete.
MAX_PADDING_BYTES = 1 << 20
IGNORED_TYPES = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
EXTENSION_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, *IGNORED_TYPES)


@dataclass(slots=True)
class Extension:
    """Overrides of the next header; `flaw` is the reason if they cannot be trusted."""

    path: str | None = None
    size: int | None = None
    flaw: str | None = None


def walk_tar(file: BinaryIO, size_bytes: int) -> Iterator[Entry | Damage]:
    """Yield entries and damage in the order of the file; folders are skipped.

    Raises:
        NotATarError: The file holds no valid header.
    """
    _require_tar(file, size_bytes)
    yield from _Walk(file, size_bytes).steps()


class _Walk:
    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._offset = 0
        self._extension = Extension()
        # Whether the last block read was the block of zeros that ends a tar.
        self._is_closed = False

    def steps(self) -> Iterator[Entry | Damage]:
        last = 0
        while self._offset + _BLOCK <= self._size_bytes:
            last = self._offset
            block = _read_at(self._file, last, _BLOCK)
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
        elif self._has_unwritten_end(last):
            yield Damage(
                self._size_bytes,
                Reason.TRUNCATED_TAR,
                "the tar ends in more zeros than any padding: its rest was not written",
            )

    def _has_unwritten_end(self, last: int) -> bool:
        """Whether too many zeros follow the last place of a header; `tar` writes an archive without files as one record of zeros."""
        n_bytes = 1 + (MAX_PADDING_BYTES if last else tarfile.RECORDSIZE)
        start = self._size_bytes - n_bytes
        return start >= last and not _read_at(self._file, start, n_bytes).strip(b"\0")

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
        if header.type in IGNORED_TYPES:
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
            # Search from the header on: with a wrong size it would hide the entries after it.
            self._offset = _find_header(self._file, start, self._size_bytes)
            is_cut = self._is_closed = self._offset >= self._size_bytes
            reason = Reason.TRUNCATED_TAR if is_cut else Reason.CORRUPT_HEADER
            detail = f"{size} bytes announced, {self._offset - start} found"
        if not header.isdir():
            yield Entry(extension.path or header.name, start, size, reason, detail)


def _require_tar(file: BinaryIO, size_bytes: int) -> None:
    """Refuse a file without a valid header. If only the first header of a tar is damaged, one record is lost."""
    block = _read_at(file, 0, _BLOCK)
    if not block:
        raise NotATarError("the file is empty, so it is not a tar; upload it again")
    is_tar = len(block) == _BLOCK and (not block.strip(b"\0") or _parse_header(block) is not None)
    if not is_tar and _find_header(file, _BLOCK, size_bytes) >= size_bytes:
        kind = "gzip" if block.startswith(b"\x1f\x8b") else f"a file that starts with {block[:8]!r}"
        raise NotATarError(
            f"expected an uncompressed tar, found {kind}; unpack it, or remove it from the dataset's root"
        )


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
    """Return the offset of the next valid header at or after a block's start, or the end of the file."""
    file.seek(offset)
    while offset < size_bytes and (chunk := file.read(_SCAN_BYTES)):
        for start in _candidate_blocks(chunk):
            if _parse_header(chunk[start : start + _BLOCK]):
                return offset + start
        offset += len(chunk)
    return size_bytes


def _candidate_blocks(chunk: bytes) -> Iterator[int]:
    """Yield the starts of blocks whose checksum field holds octal digits; old tars have no magic number to search for."""
    block_B512 = np.frombuffer(chunk, np.uint8, len(chunk) // _BLOCK * _BLOCK).reshape(-1, _BLOCK)
    digit_BD = block_B512[:, _CHECKSUM]
    is_padding_BD = (digit_BD == ord(" ")) | (digit_BD == 0)
    is_octal_BD = (digit_BD >= ord("0")) & (digit_BD <= ord("7"))
    is_candidate_B = (is_octal_BD | is_padding_BD).all(axis=1) & is_octal_BD.any(axis=1)
    yield from (np.flatnonzero(is_candidate_B) * _BLOCK).tolist()


# --- Extended headers ---------------------------------------------------------------------------------------------------------


def apply_extension(extension: Extension, kind: bytes, data: bytes) -> None:
    """Apply one extended header to the overrides of the next entry."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        extension.path = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        return
    try:
        records = _parse_pax(data)
        if b"path" in records:
            extension.path = records[b"path"].decode("utf-8", "surrogateescape")
        if b"size" in records:
            extension.size = _parse_count(records[b"size"])
        if any(keyword.startswith(b"GNU.sparse") for keyword in records):
            extension.flaw = "sparse file; only plain files are read"
    except ValueError as error:
        extension.flaw = f"unreadable extended header: {error}"


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Parse "LENGTH KEYWORD=VALUE NEWLINE" records."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        digits = data[position : position + 20].partition(b" ")[0]
        length = _parse_count(digits)
        record = data[position : position + length]
        keyword, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or not record.endswith(b"\n") or len(record) < length:
            raise ValueError(f"record {record[:40]!r}")
        records[keyword] = value
        position += length
    return records


def _parse_count(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError(f"{digits!r} is not a number")
    return int(digits)
