"""Which bytes of a registered location are the picture."""

from typing import Protocol, runtime_checkable

from alchemist_core.data.tars import IMAGE_EXTS
from alchemist_core.errors import DataError


@runtime_checkable
class Location(Protocol):
    """A record as the store keeps it: aligned lists of its members' extensions, offsets and sizes."""

    key: str
    member_exts: list[str]
    member_offsets: list[int]
    member_sizes: list[int]


def image_member(location: Location) -> tuple[int, int]:
    """Return offset and size of a location's picture; ingest let only records with exactly one pass."""
    for ext, offset, size in zip(location.member_exts, location.member_offsets, location.member_sizes, strict=True):
        if ext in IMAGE_EXTS:
            return offset, size
    raise DataError(
        f"Record {location.key!r} has no picture among {', '.join(location.member_exts)}: its row was changed by hand."
    )
