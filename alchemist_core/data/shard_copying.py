"""One tar of a copy: its records read from their sources, checked, and written under new keys. Knows no other tar of it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from alchemist_core.data.captions import BadTextError, read_annotation
from alchemist_core.data.member_table import MemberSource
from alchemist_core.data.pairs import hash_content, hash_pair
from alchemist_core.data.repairs import split_repairs
from alchemist_core.data.storage import remedy_of, view_ranges
from alchemist_core.data.tar_writer import hash_from_disk, write_tar
from alchemist_core.data.tars import IMAGE_EXTS
from alchemist_core.errors import DataError

Verify = Literal["read_back", "source"]
"""How much is checked: each record as it comes from its source; or also each tar as the disk gives it back."""
_CHUNK_RECORDS, _CHUNK_BYTES = 256, 1 << 24


class CopiedShard(NamedTuple):
    """One finished tar; `plan` is the hash of what it was to hold."""

    name: str
    n_samples: int
    size_bytes: int
    sha256: str
    plan: str


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What one tar is to hold: the records, the number of the first in the copy, the extension of all pictures."""

    name: str
    first: int
    records: list[MemberSource]
    image_ext: str

    def sha256(self) -> str:
        """Hash everything that decides the tar's bytes; where the records come from does not."""
        digest = hashlib.sha256(f"{self.first} {self.image_ext}".encode())
        for record in self.records:
            digest.update(record.pair_hash + repr((record.exts, record.sizes)).encode())
        return digest.hexdigest()


class TarPlace(Protocol):
    """Where finished tars of a copy are kept: the folder in which they are written, or somewhere else to which they are moved."""

    def has(self, folder: Path, shard: CopiedShard) -> bool:
        """Tell whether a finished tar is there and whole."""

    def write(self, folder: Path, plan: ShardPlan) -> tuple[CopiedShard, int]:
        """Copy a tar's records there, by way of the folder; returns it and the bytes that were written there."""


@dataclass(frozen=True, slots=True)
class InFolder:
    """Tars stay in the folder."""

    verify: Verify

    def has(self, folder: Path, shard: CopiedShard) -> bool:
        """Tell whether a tar has its size and, if read back, its bytes."""
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.size_bytes:
            return False
        with path.open("rb") as file:
            return self.verify == "source" or hash_from_disk(file).hex() == shard.sha256

    def write(self, folder: Path, plan: ShardPlan) -> tuple[CopiedShard, int]:
        """Copy a tar's records.

        Raises:
            DataError: As `write_tar` and `view_ranges`; or a record is not the pair that was registered.
        """
        digest = write_tar(folder / plan.name, _entries(plan), read_back=self.verify == "read_back")
        size_bytes = (folder / plan.name).stat().st_size
        return CopiedShard(plan.name, len(plan.records), size_bytes, digest.hex(), plan.sha256()), size_bytes


def read_records(records: Sequence[MemberSource]) -> Iterator[list[memoryview]]:
    """Yield the members of each record, in the order given; each source is opened once and read in its own order.

    Raises:
        DataError: A source is gone, or a record is not the pair that was registered.
    """
    by_uri: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        by_uri.setdefault(record.uri, []).append(position)
    found: list[list[memoryview]] = [[] for _ in records]
    for uri, positions in by_uri.items():
        spans = [span for at in positions for span in zip(records[at].offsets, records[at].sizes, strict=True)]
        views = iter(view_ranges(uri, spans))
        for at in positions:
            found[at] = [next(views) for _ in records[at].exts]
    for record, members in zip(records, found, strict=True):
        check_record(record, members)
        yield members


def check_record(record: MemberSource, members: Sequence[bytes | memoryview]) -> None:
    """Refuse bytes that are not those that were registered, by every member's hash, or by the pair's name where ingest took none.

    Raises:
        DataError: They are others.
    """
    hashes = [hashlib.sha256(data).digest() for data in members]
    if record.content_hash is not None:
        if hash_content(hashes) != record.content_hash:
            raise DataError(_describe_change(record, "a member has another sha256"))
        return
    by_ext = dict(zip(record.exts, members, strict=True))
    text, document = (bytes(by_ext[ext]) if ext in by_ext else None for ext in ("txt", "json"))
    try:
        caption = read_annotation(text, document, split_repairs(record.repair)).caption
    except BadTextError as error:
        raise DataError(_describe_change(record, str(error))) from error
    image_hash = next((found for ext, found in zip(record.exts, hashes, strict=True) if ext in IMAGE_EXTS), b"")
    if hash_pair(image_hash, hashlib.sha256(caption.encode()).digest()) != record.pair_hash:
        raise DataError(_describe_change(record, "its picture or caption has another sha256"))


def _entries(plan: ShardPlan) -> Iterator[tuple[str, memoryview]]:
    number = plan.first
    for chunk in _chunks(plan.records):
        for record, members in zip(chunk, read_records(chunk), strict=True):
            for ext, data in zip(record.exts, members, strict=True):
                yield f"{number:09d}.{plan.image_ext if ext in IMAGE_EXTS else ext}", data
            number += 1


def _chunks(records: Sequence[MemberSource]) -> Iterator[list[MemberSource]]:
    """Yield as many records at a time as are read together: few, where they are large."""
    chunk: list[MemberSource] = []
    size_bytes = 0
    for record in records:
        chunk.append(record)
        size_bytes += sum(record.sizes)
        if len(chunk) == _CHUNK_RECORDS or size_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    yield chunk


def _describe_change(record: MemberSource, detail: str) -> str:
    return (
        f"{record.uri}: record {record.key!r} is not the pair {record.pair_hash.hex()[:16]} that was registered ({detail}). "
        f"{remedy_of(record.uri)}, and select again."
    )
