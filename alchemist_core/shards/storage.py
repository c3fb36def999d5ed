"""Storage of shards: lists, opens and reads files in folders and under `s3://` through the same functions."""

import hashlib
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from alchemist_core.errors import ChangedShardError, DataError, MissingShardError, UnreachableRootError
from alchemist_core.shards import s3
from alchemist_core.shards.byte_ranges import ByteRange, cut_ranges, merge_ranges
from alchemist_core.shards.faults import is_storable

_COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz)$", re.IGNORECASE)
# Suffixes that uploaders and browsers append to an unfinished file.
_UNFINISHED = re.compile(
    r"\.tar\.(part|partial|tmp|temp|filepart|crdownload|download|aria2|upload|uploading)$", re.IGNORECASE
)
# While aria2 downloads a file, whose size it sets first, a file with this suffix is beside it.
_ARIA2 = ".aria2"
_LINK = "is a symbolic link to a folder, which is not followed. Put the folder itself there, or let the link's name start with a dot."
_FOLDER = "is a folder with the name of a shard. Pack its files into a plain .tar, or rename it."
_SPECIAL = "is not a regular file but a pipe, a device or a socket. Remove it."
# No tar has a hole of this size: a download has reserved the space, or the size of the file is wrong.
_HOLE_BYTES = 1 << 30
# Of an address that Postgres can index: at most 2,704 bytes together with the dataset. Keys of objects have at most 1,024.
_MAX_PATH_BYTES = 2048
# Reading this many unneeded bytes of a file costs less than another read.
_MAX_GAP_BYTES = 1 << 13


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A tar under a root, before it is read."""

    uri: str
    size_bytes: int
    changed_at: datetime
    """Time of the last change of its bytes or its name, by the storage's clock; users cannot set it back."""


def absolute_root(root_uri: str) -> str:
    """Return a root that does not depend on the working folder, which may differ between registering and ingesting."""
    return root_uri if is_s3(root_uri) else str(_local_path(root_uri).absolute())


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A path under a root that is not read, with the reason and the remedy. `is_loss` is false if its name excludes it on purpose."""

    uri: str
    why: str
    is_loss: bool = True


@dataclass(slots=True)
class RootListing:
    """The contents of a root: its tars, by address, and the paths that are not read."""

    shards: list[ShardFile] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    unread_folders: list[str] = field(default_factory=list)
    """Folders that cannot be listed, so that the tars below them are unknown."""


def list_root(root_uri: str) -> RootListing:
    """Return every `.tar` under a root, sorted by address, and other paths that look like a shard but are not read.

    Files and folders whose name starts with a dot are unfinished writes.

    Raises:
        DataError: The root does not exist or cannot be listed.
    """
    listing = RootListing()
    found = list(s3.list_objects(root_uri) if is_s3(root_uri) else _list_files(root_uri, listing))
    downloads = {uri.removesuffix(_ARIA2) for uri, _, _ in found if uri.endswith(_ARIA2)}
    for entry in found:
        why = _why_not_read(path_below(root_uri, entry[0]))
        if why is None and entry[0] in downloads:
            why = f"has a file {_ARIA2} beside it: an unfinished download", False
        if why is not None:
            listing.passed_over.append(PassedOver(entry[0], *why))
        elif entry[0].endswith(".tar"):
            listing.shards.append(ShardFile(*entry))
    listing.shards.sort(key=lambda shard: shard.uri)
    listing.passed_over.sort(key=lambda other: other.uri)
    return listing


def list_shards(root_uri: str) -> list[ShardFile]:
    """Return every `.tar` under a root, sorted by address; refuse a root with a folder that cannot be listed.

    Raises:
        DataError: The root, or a folder in it, cannot be listed.
    """
    listing = list_root(root_uri)
    for other in listing.passed_over:
        if other.uri in listing.unread_folders:
            raise DataError(f"{other.uri} {other.why}")
    return listing.shards


def _why_not_read(path: str) -> tuple[str, bool] | None:
    """Return why a path under a root is not read, and whether that is a loss; None for shards and unrelated files.

    >>> _why_not_read("2026-01-01/.part/a.tar"), _why_not_read("a.tar.part"), _why_not_read("notes.txt")
    (('is hidden: an unfinished write', False), ('has the name of an unfinished write', False), None)
    """
    if _COMPRESSED.search(path):
        return "is compressed. Unpack it to a plain .tar, or remove it from the root.", not _is_hidden(path)
    if _UNFINISHED.search(path):
        return "has the name of an unfinished write", False
    if not path.lower().endswith(".tar"):
        return None
    if _is_hidden(path):
        return "is hidden: an unfinished write", False
    fault = _fault_of_name(path)
    return None if fault is None else (fault, True)


def _fault_of_name(path: str) -> str | None:
    """Return why a shard of this path cannot be registered."""
    if not path.endswith(".tar"):
        return "does not end in .tar in small letters. Rename it."
    if not is_storable(path):
        return "has a name that is not UTF-8, or contains NUL. Rename it."
    if len(path.encode()) > _MAX_PATH_BYTES:
        # Without its own number of bytes, because messages group files by this text.
        return f"has a path of more than {_MAX_PATH_BYTES:,} bytes below the root. Shorten it."
    if "//" in f"/{path}":
        # Only an object can be called so. Joined to its root, the path would be the address of another object.
        return "has an empty folder name (//). Rename it."
    return None


def _is_hidden(path: str) -> bool:
    return path.startswith(".") or "/." in path


def stat_shard(uri: str) -> ShardFile:
    """Return a shard's size and the time of its last change.

    Raises:
        DataError: There is no shard at this address.
    """
    if is_s3(uri):
        return ShardFile(uri, *s3.stat_object(uri))
    with _open_file(uri) as file:
        stat = os.fstat(file.fileno())
    return ShardFile(uri, stat.st_size, datetime.fromtimestamp(stat.st_ctime, UTC))


def list_files(root_uri: str) -> list[str]:
    """Return the address of every file under a root, sorted; empty if the root does not exist.

    Raises:
        DataError: The object store cannot be reached.
    """
    if is_s3(root_uri):
        return sorted(uri for uri, _, _ in s3.find_objects(root_uri))
    root = _local_path(root_uri)
    found = [root] if root.is_file() else root.rglob("*")
    return sorted(str(path) for path in found if path.is_file())


def put_file(uri: str, path: Path) -> None:
    """Upload a local file to an object store.

    Raises:
        DataError: It may not be written, or the store cannot be reached.
    """
    s3.put_file(uri, path, {})


def has_files(root_uri: str) -> bool:
    """Return whether a root holds anything. An empty one may not be mounted, so its shards cannot be judged missing."""
    try:
        if is_s3(root_uri):
            return s3.has_objects(root_uri)
        with os.scandir(_local_path(root_uri)) as entries:
            return any(True for _ in entries)
    except (OSError, DataError):
        return False


def open_shard(uri: str) -> io.BufferedReader:
    """Open a shard for reading, seekable.

    Raises:
        DataError: There is no shard at this address.
    """
    return s3.open_object(uri) if is_s3(uri) else _open_file(uri)


def read_ranges(uri: str, ranges: Sequence[ByteRange]) -> list[bytes]:
    """Return the bytes of each (offset, size), in the order asked for.

    Raises:
        DataError: The shard is missing, cannot be read, or ends before one of the ranges.
    """
    return [bytes(view) for view in view_ranges(uri, ranges)]


def view_ranges(uri: str, ranges: Sequence[ByteRange]) -> list[memoryview]:
    """Return the bytes of each (offset, size) like `read_ranges`, without copying: adjacent ranges share one buffer.

    Raises:
        DataError: As `read_ranges`.
    """
    views = s3.view_ranges(uri, ranges) if is_s3(uri) else _view_ranges(uri, ranges)
    for (offset, size), view in zip(ranges, views, strict=True):
        if len(view) != size:
            raise _shortened(uri, offset + size)
    return views


def read_into(uri: str, runs: Sequence[tuple[int, memoryview]]) -> None:
    """Fill each buffer with the bytes at its offset. Neighbours are read together; of files straight into the buffers.

    Raises:
        DataError: As `read_ranges`.
    """
    if is_s3(uri):
        for (_, buffer), view in zip(runs, view_ranges(uri, [(at, len(buffer)) for at, buffer in runs]), strict=True):
            buffer[:] = view
        return
    with _open_file(uri) as file, _as_data_error(uri):
        n_missing = [_fill(file.fileno(), group) for group in _groups_of(runs)]
    if any(n_missing):
        at, buffer = max(runs, key=lambda run: run[0])
        raise _shortened(uri, at + len(buffer))


def remedy_of(uri: str) -> str:
    """Return what to do about a shard whose bytes are missing or differ from the registered ones."""
    name = shlex.quote(uri)
    return (
        f"Restore its bytes, or read it again: alchemist shard reread {name} --reason WHY, or retire it: "
        f"alchemist shard retire {name} --reason WHY"
    )


def require_registered(uri: str, place: ByteRange, image_hash: bytes, image: bytes) -> None:
    """Compare the bytes that were read for an image with its registered SHA-256.

    Raises:
        ChangedShardError: They are other bytes.
    """
    if hashlib.sha256(image).digest() != image_hash:
        raise ChangedShardError(
            f"Shard {uri} is not the tar that was registered (the image at bytes {place[0]} to {sum(place)} has another sha256). "
            f"{remedy_of(uri)}"
        )


def sha256_of(uri: str) -> bytes:
    """Return the SHA-256 of a whole shard.

    Raises:
        DataError: The shard is missing, or cannot be read.
    """
    with open_shard(uri) as file, _as_data_error(uri):
        return hashlib.file_digest(file, "sha256").digest()


def join_uri(root_uri: str, path: str) -> str:
    """Return the address of a path under a root; an absolute address is returned unchanged.

    >>> join_uri("s3://crawls/", "2026-01-01/000000.tar")
    's3://crawls/2026-01-01/000000.tar'
    """
    if path.startswith("/") or "://" in path:
        return path
    return f"{root_uri.rstrip('/')}/{path}"


def path_below(root_uri: str, uri: str) -> str:
    """Return the path of an address below its root: the opposite of `join_uri`. It begins with / if a folder name of an object is empty.

    >>> path_below("s3://crawls/", "s3://crawls/2026-01-01/000000.tar"), path_below("s3://crawls", "s3://crawls//a.tar")
    ('2026-01-01/000000.tar', '/a.tar')
    """
    return uri.removeprefix(root_uri.rstrip("/")).removeprefix("/")


def is_s3(uri: str) -> bool:
    """Return whether an address is in an object store."""
    return uri.startswith("s3://")


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _list_files(root_uri: str, listing: RootListing) -> Iterator[tuple[str, int, datetime]]:
    root = _local_path(root_uri)
    if not root.is_dir():
        raise UnreachableRootError(
            f"The root {root_uri} is unreachable: it is not a folder that can be read here. Correct the path, or mount its disk."
        )
    for path in _find_files(root, listing):
        uri = join_uri(root_uri, path.relative_to(root).as_posix())
        try:
            stat = path.stat()
        except OSError as error:
            if path.is_symlink() and path.name.endswith(".tar"):
                listing.passed_over.append(PassedOver(uri, f"is a broken link ({error.strerror}). Remove it."))
            continue
        why = _why_no_tar(path, stat) if path.name.endswith(".tar") else None
        if why is not None and not _is_hidden(path.relative_to(root).as_posix()):
            listing.passed_over.append(PassedOver(uri, why))
        if why is not None or not S_ISREG(stat.st_mode):
            continue
        # ctime, unlike mtime, also changes on a rename and on a copy that keeps the time of modification.
        yield uri, stat.st_size, datetime.fromtimestamp(stat.st_ctime, UTC)


def _find_files(root: Path, listing: RootListing) -> Iterator[Path]:
    def note(error: OSError) -> None:
        # Without this entry an unreadable folder would look empty. A folder that was just deleted, and lost+found, contain no shards.
        if isinstance(error, FileNotFoundError) or _name(str(error.filename)) == "lost+found":
            return
        if Path(str(error.filename)) == root:
            raise UnreachableRootError(
                f"The root {root} is unreachable: it cannot be listed ({error.strerror}). Correct its permissions, or mount it again."
            )
        listing.unread_folders.append(str(error.filename))
        text = f"cannot be listed ({error.strerror}). Correct its permissions, or mount it again."
        listing.passed_over.append(PassedOver(str(error.filename), text))

    for folder, folders, names in os.walk(root, onerror=note):
        places = [Path(folder, name) for name in folders]
        shown = [place for place in places if not _is_hidden(place.relative_to(root).as_posix())]
        listing.passed_over += [PassedOver(str(place), _LINK) for place in shown if place.is_symlink()]
        listing.passed_over += [
            PassedOver(str(place), _FOLDER) for place in shown if place.name.endswith(".tar") and not place.is_symlink()
        ]
        yield from (Path(folder, name) for name in names)


def _why_no_tar(path: Path, stat: os.stat_result) -> str | None:
    if not S_ISREG(stat.st_mode):
        return _SPECIAL
    if stat.st_size <= _HOLE_BYTES or path.with_name(f"{path.name}{_ARIA2}").exists():
        return None
    if n_bytes := _hole_of(path, stat.st_size):
        return f"has {n_bytes:,} bytes in a row that were never written. Complete its download, or remove it."
    return None


def _hole_of(path: Path, size_bytes: int) -> int:
    """Return the size of a hole too large for a tar, else 0: reading it would take hours and return zeros."""
    if not hasattr(os, "SEEK_HOLE"):
        return 0
    with suppress(OSError), path.open("rb") as file:
        at = 0
        while (at := os.lseek(file.fileno(), at, os.SEEK_HOLE)) < size_bytes:
            hole, at = at, size_bytes
            with suppress(OSError):  # nothing is written after it
                at = os.lseek(file.fileno(), hole, os.SEEK_DATA)
            if at - hole >= _HOLE_BYTES:
                return at - hole
    return 0


def _open_file(uri: str) -> io.BufferedReader:
    try:
        return _local_path(uri).open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingShardError(f"Shard {uri} is missing ({error.strerror}). {remedy_of(uri)}") from error
    except OSError as error:
        raise DataError(f"Shard {uri} cannot be opened ({error.strerror}). {remedy_of(uri)}") from error


@contextmanager
def _as_data_error(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"Shard {uri} cannot be read ({error.strerror}). {remedy_of(uri)}") from error


def _view_ranges(uri: str, ranges: Sequence[ByteRange]) -> list[memoryview]:
    spans = merge_ranges(ranges, _MAX_GAP_BYTES)
    with _open_file(uri) as file, _as_data_error(uri):
        blocks = [_read_span(file.fileno(), offset, size) for offset, size in spans]
    return cut_ranges(blocks, spans, ranges)


def _read_span(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    # The system returns at most 2 GiB at a time.
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data


# At most so many buffers can be filled by one call.
_MAX_BUFFERS = 1000


def _groups_of(runs: Sequence[tuple[int, memoryview]]) -> Iterator[list[tuple[int, memoryview]]]:
    """Yield runs that one call reads: neighbours in the file, with gaps that cost less to read than another call."""
    group: list[tuple[int, memoryview]] = []
    end = 0
    for run in sorted(runs, key=lambda run: run[0]):
        if group and not (0 <= run[0] - end <= _MAX_GAP_BYTES and 2 * len(group) < _MAX_BUFFERS):
            yield group
            group = []
        group.append(run)
        end = run[0] + len(run[1])
    if group:
        yield group


def _fill(descriptor: int, group: Sequence[tuple[int, memoryview]]) -> int:
    """Read neighbouring runs into their buffers, and what is between them into a buffer that is dropped; return how many bytes lack."""
    start, buffers, end = group[0][0], list[memoryview | bytearray](), group[0][0]
    for at, buffer in group:
        if at > end:
            buffers.append(bytearray(at - end))
        buffers.append(buffer)
        end = at + len(buffer)
    if (n_read := os.preadv(descriptor, buffers, start)) == end - start:
        return 0
    # The system returns at most 2 GiB at a time.
    if len(group) > 1:
        return sum(_fill(descriptor, [run]) for run in group)
    return end - start - n_read - (_fill_rest(descriptor, group[0], n_read) if n_read else 0)


def _fill_rest(descriptor: int, run: tuple[int, memoryview], n_done: int) -> int:
    at, buffer = run
    n_before = n_done
    while n_done < len(buffer) and (n_read := os.preadv(descriptor, [buffer[n_done:]], at + n_done)):
        n_done += n_read
    return n_done - n_before


def _shortened(uri: str, end: int) -> ChangedShardError:
    return ChangedShardError(
        f"{uri} has fewer bytes than when it was ingested (it ends before byte {end}), so it was replaced or truncated. {remedy_of(uri)}"
    )
