"""What every layout gives: records, written in their order to tar shards that ingest reads. Knows no layout.

A record whose picture is missing or broken is written too, so that ingest quarantines it with its reason and nothing is lost unseen.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from alchemist_core.data.images import BadImageError, sniff_format
from alchemist_core.data.tar_writer import write_tar


@dataclass(frozen=True, slots=True)
class LayoutRecord:
    """One pair as a dataset publishes it; the picture is read only when it is needed."""

    read_image: Callable[[], bytes]
    caption: str
    metadata: dict[str, Any]


def write_shards(records: Iterable[LayoutRecord], out: Path, *, shard_size: int) -> int:
    """Write records to `000000.tar` and so on; a shard that is there already is passed over. Return the number of records.

    Args:
        records: In an order that is the same every time.
        out: Folder of the shards.
        shard_size: Records a shard.
    """
    remaining, n_records = iter(records), 0
    for number in range(10**6):
        first = next(remaining, None)
        if first is None:
            break
        shard = _Counted(first, islice(remaining, shard_size - 1))
        path = out / f"{number:06d}.tar"
        if path.exists():
            shard.skip()
        else:
            write_tar(path, _entries(shard, n_records))
        n_records += shard.n
    return n_records


class _Counted:
    """A shard's records, counted as they pass."""

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
        yield f"{key}.txt", record.caption.encode("utf-8", "surrogatepass")
        yield (
            f"{key}.json",
            json.dumps(_storable(record.metadata), ensure_ascii=False, default=str).encode("utf-8", "replace"),
        )


def _extension(data: bytes) -> str:
    try:
        return {"jpeg": "jpg", "tiff": "tif"}.get(name := sniff_format(data), name)
    except BadImageError:
        return "jpg"


def _storable(value: Any) -> Any:
    """Replace what is no JSON: columns of numbers have NaN where a value is missing."""
    if isinstance(value, dict):
        return {name: _storable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_storable(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_file_below(root: Path, name: str) -> bytes:
    """Read a file that a dataset names; nothing where there is none, or where the name leads out of the dataset."""
    path = (root / name).resolve()
    is_inside = path.is_relative_to(root.resolve())
    return path.read_bytes() if is_inside and path.is_file() else b""
