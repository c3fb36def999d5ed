"""Writes the records of a layout to tar shards for ingest, in their order.

A record whose image is missing or broken is written too, so that ingest quarantines it with a reason instead of losing it silently.
"""

import errno
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

from alchemist_core.config import counted
from alchemist_core.errors import DataError
from alchemist_core.shards.captions import MAX_JSON_DEPTH
from alchemist_core.shards.images import BadImageError, sniff_format
from alchemist_core.shards.samples import MAX_IMAGE_BYTES
from alchemist_core.shards.storage import is_s3, join_uri, list_files, put_file
from alchemist_core.shards.tar_writer import write_tar

_MAX_SHARDS = 10**6
"""A shard's number has six digits."""
_MAX_UNMARKED_BYTES = 4096
"""Longer bytes are taken for an image or an embedding."""


@dataclass(frozen=True, slots=True)
class LayoutRecord:
    """One sample of a published dataset. The image is read when it is needed."""

    read_image: Callable[[], bytes]
    caption: str | bytes | None
    """Bytes are written as they are, so that ingest repairs or quarantines them; None: there is no caption."""
    metadata: dict[str, Any]


def write_shards(records: Iterable[LayoutRecord], out: Path | str, *, shard_size: int, first_shard: int = 0) -> int:
    """Write records to `000000.tar` and so on; existing shards are skipped. Return the number of all records.

    Args:
        records: In the same order at every call, from the first record of `first_shard`.
        out: Folder or s3:// address of the shards.
        shard_size: Records per shard.
        first_shard: The first shard to write; all shards before it exist and are full.

    Raises:
        DataError: There are more records than 1,000,000 shards hold.
    """
    remaining, n_records = iter(records), first_shard * shard_size
    there = find_shards(out)
    for number in count(first_shard):
        first = next(remaining, None)
        if first is None:
            break
        if number == _MAX_SHARDS:
            raise DataError(
                f"More than {_MAX_SHARDS:,} shards of {counted(shard_size, 'sample')}. Give a larger --shard-size and an empty --out."
            )
        shard = _Counted(first, islice(remaining, shard_size - 1))
        if number in there:
            shard.skip()
        else:
            _write_shard(str(out), f"{number:06d}.tar", _entries(shard, n_records))
        n_records += shard.n
    return n_records


def find_shards(out: Path | str) -> set[int]:
    """Return the numbers of the existing shards."""
    names = (uri.rpartition("/")[2] for uri in list_files(str(out)))
    return {int(name[:6]) for name in names if re.fullmatch(r"\d{6}\.tar", name)}


def first_unfinished(out: Path | str) -> int:
    """Return the shard at which an import resumes: the last one before a gap, because only that one can be incomplete."""
    there = find_shards(out)
    return max(0, next(number for number in range(len(there) + 1) if number not in there) - 1)


def _write_shard(out: str, name: str, entries: Iterator[tuple[str, bytes]]) -> None:
    if not is_s3(out):
        write_tar(Path(out) / name, entries)
        return
    # Written to a local file first, so that the object appears only when it is complete.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_tar(path, entries, read_back=False)
        put_file(join_uri(out, name), path)


class _Counted:
    """Iterates over the records of a shard, and counts them."""

    def __init__(self, first: LayoutRecord, rest: Iterator[LayoutRecord]) -> None:
        self._first, self._rest, self.n = first, rest, 0

    def __iter__(self) -> Iterator[LayoutRecord]:
        self.n = 1
        yield self._first
        for record in self._rest:
            self.n += 1
            yield record

    def skip(self) -> None:
        for _ in self:
            pass


def _entries(records: Iterable[LayoutRecord], start: int) -> Iterator[tuple[str, bytes]]:
    for place, record in enumerate(records, start):
        key, data = f"{place:09d}", record.read_image()
        yield f"{key}.{_extension(data)}", data
        match record.caption:
            case str(text):
                yield f"{key}.txt", text.encode("utf-8", "surrogatepass")
            case bytes(text):
                yield f"{key}.txt", text
        yield f"{key}.json", _document(record.metadata, place)


def _extension(data: bytes) -> str:
    try:
        return {"jpeg": "jpg", "tiff": "tif"}.get(name := sniff_format(data), name)
    except BadImageError:
        return "jpg"


def _document(metadata: dict[str, Any], place: int) -> bytes:
    try:
        facts = {name: _as_text(value) for name, value in metadata.items()}
        return json.dumps(_storable(facts), ensure_ascii=False, default=str).encode("utf-8", "replace")
    except RecursionError as error:
        raise DataError(
            f"The facts of record {place} are nested too deeply; the limit of ingest is {MAX_JSON_DEPTH} levels. Remove them from "
            "the source."
        ) from error


def _as_text(value: Any) -> Any:
    """Return short bytes in UTF-8 as text, which Impala, Hive and former versions of Spark do not mark as text; others unchanged."""
    if not isinstance(value, bytes) or len(value) > _MAX_UNMARKED_BYTES or b"\0" in value:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _storable(value: Any) -> Any:
    """Replace numbers that JSON does not allow, such as NaN for missing values, and leave bytes out, such as those of further images."""
    if isinstance(value, dict):
        return {name: _storable(part) for name, part in value.items() if not isinstance(part, bytes)}
    if isinstance(value, list):
        return [_storable(part) for part in value if not isinstance(part, bytes)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


MAX_READ_BYTES = MAX_IMAGE_BYTES + 1
"""Most bytes that are read of an image: one above the limit is enough for ingest to quarantine the record as too large."""


def read_file_below(root: Path, name: str, max_bytes: int = MAX_READ_BYTES) -> bytes:
    """Read a file that a dataset names, at most `max_bytes`; return nothing if it does not exist or is outside the dataset's folder.

    Raises:
        OSError: The file exists, but cannot be read.
    """
    try:
        path = (root / name).resolve()
        is_there = path.is_relative_to(root.resolve()) and path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            raise
        # No file has this name: it is too long, contains NUL, or is a loop of links.
        return b""
    if not is_there:
        return b""
    with path.open("rb") as file:
        return file.read(max_bytes)


ALL_CAPTIONS = "all_captions"
"""Key of a record's metadata for the list that its caption is the first of."""


def read_caption(value: Any) -> tuple[str | bytes, dict[str, Any]]:
    """Return a caption, and metadata to add to the record: of several captions in a list the first with text, and all of them.

    >>> read_caption(["", "a cat", "a pet"])
    ('a cat', {'all_captions': ['', 'a cat', 'a pet']})
    """
    if not isinstance(value, list | tuple):
        return value or "", {}
    texts = (text for text in value if isinstance(text, str | bytes) and text.strip())
    kept = [part.decode("utf-8", "replace") if isinstance(part, bytes) else part for part in value]
    return next(texts, ""), {ALL_CAPTIONS: kept}


UNREAD_PATH = "unread_path"
"""Key of a record's metadata for the address of an image that cannot be read, such as `hf://…`."""


def read_named_image(path: str | None, read: Callable[[str], bytes]) -> tuple[Callable[[], bytes], dict[str, Any]]:
    """Return a function that reads an image given by path, and metadata to add to the record.

    Remote addresses are not fetched: the record is written without an image, so that ingest quarantines it with the address.
    """
    if not path:
        return bytes, {}
    if "://" in path:
        return bytes, {UNREAD_PATH: path}
    return partial(read, path), {}
