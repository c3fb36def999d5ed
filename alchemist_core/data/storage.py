"""Where shards lie: folders and `s3://` roots behind the same few functions. Knows no tar and no pair."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from alchemist_core.data import s3
from alchemist_core.data.byte_ranges import ByteRange, cut_ranges, merge_ranges
from alchemist_core.errors import DataError

# To read so many bytes too many from a file costs less than to ask once more.
_MAX_GAP_BYTES = 1 << 13


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One tar under a root, before anything in it was read."""

    uri: str
    size_bytes: int
    changed_at: datetime
    """When its bytes, or its place, last changed by the storage's clock; no user can set it back."""


def absolute_root(root_uri: str) -> str:
    """Return a root as it is found from every folder: a night is ingested from another one than it was registered from."""
    return root_uri if is_s3(root_uri) else str(_local_path(root_uri).absolute())


def list_shards(root_uri: str) -> list[ShardFile]:
    """Return every `.tar` under a root, sorted by address; names that start with a dot are writes under way.

    Raises:
        DataError: The root does not exist or cannot be listed.
    """
    found = s3.list_objects(root_uri) if is_s3(root_uri) else _list_files(root_uri)
    shards = [ShardFile(*entry) for entry in found if entry[0].endswith(".tar") and not _name(entry[0]).startswith(".")]
    return sorted(shards, key=lambda shard: shard.uri)


def open_shard(uri: str) -> io.BufferedReader:
    """Open a shard for reading, seekable.

    Raises:
        DataError: There is none at this address.
    """
    return s3.open_object(uri) if is_s3(uri) else _open_file(uri)


def read_ranges(uri: str, ranges: Sequence[ByteRange]) -> list[bytes]:
    """Return the bytes of each (offset, size), in the order asked for.

    Raises:
        DataError: The shard is gone, cannot be read, or ends before one of the ranges.
    """
    return [bytes(view) for view in view_ranges(uri, ranges)]


def view_ranges(uri: str, ranges: Sequence[ByteRange]) -> list[memoryview]:
    """Return the bytes of each (offset, size) as `read_ranges` does, without a copy: neighbours share what was read.

    Raises:
        DataError: As `read_ranges`.
    """
    views = s3.view_ranges(uri, ranges) if is_s3(uri) else _view_ranges(uri, ranges)
    for (offset, size), view in zip(ranges, views, strict=True):
        if len(view) != size:
            raise DataError(
                f"{uri} ends before byte {offset + size}, where a registered member ends: it is not the shard that was "
                "ingested. Restore it, or put the new tar under a new name and ingest it."
            )
    return views


def sha256_of(uri: str) -> bytes:
    """Return the sha256 of a whole shard."""
    with open_shard(uri) as file:
        return hashlib.file_digest(file, "sha256").digest()


def join_uri(root_uri: str, path: str) -> str:
    """Return the address of a path under a root; an absolute address stays as it is.

    >>> join_uri("s3://crawls/", "2026-01-01/000000.tar")
    's3://crawls/2026-01-01/000000.tar'
    """
    if path.startswith("/") or "://" in path:
        return path
    return f"{root_uri.rstrip('/')}/{path}"


def is_s3(uri: str) -> bool:
    """Tell an object store's address from a folder's."""
    return uri.startswith("s3://")


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _list_files(root_uri: str) -> Iterator[tuple[str, int, datetime]]:
    root = _local_path(root_uri)
    try:
        if not root.is_dir():
            raise DataError(f"The root {root_uri} is no folder that can be read here; correct it, or mount it.")
        for path in _find_tars(root):
            stat = path.stat()
            # The time of the inode's change: a copy that keeps the time of modification, or a rename, shows too.
            changed_at = datetime.fromtimestamp(stat.st_ctime, UTC)
            yield join_uri(root_uri, path.relative_to(root).as_posix()), stat.st_size, changed_at
    except OSError as error:
        raise DataError(
            f"{error.filename or root} cannot be listed ({error.strerror}); correct its rights, or mount it again."
        ) from error


def _find_tars(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root, onerror=_refuse_folder):
        tars = (Path(folder, name) for name in names if name.endswith(".tar"))
        yield from (path for path in tars if path.is_file())


def _refuse_folder(error: OSError) -> None:
    # Taken for empty, it would be a night without a shard. One that went meanwhile has none, nor has a file system's own.
    if not isinstance(error, FileNotFoundError) and _name(str(error.filename)) != "lost+found":
        raise error


def _open_file(uri: str) -> io.BufferedReader:
    try:
        return _local_path(uri).open("rb")
    except OSError as error:
        raise DataError(f"Shard {uri} cannot be opened ({error.strerror}); restore it, or retire it.") from error


def _view_ranges(uri: str, ranges: Sequence[ByteRange]) -> list[memoryview]:
    spans = merge_ranges(ranges, _MAX_GAP_BYTES)
    with _open_file(uri) as file:
        try:
            blocks = [_read_span(file.fileno(), offset, size) for offset, size in spans]
        except OSError as error:
            raise DataError(f"Shard {uri} cannot be read ({error.strerror}); restore it, or retire it.") from error
    return cut_ranges(blocks, spans, ranges)


def _read_span(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    # The system hands out 2 GiB at a time.
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data
