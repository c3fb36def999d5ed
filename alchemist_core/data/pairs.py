"""Everything ingest needs from one shard: its pairs with their hashes, or why a record is none. Knows no database."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from alchemist_core.data.captions import MAX_JSON_BYTES, MAX_TEXT_BYTES, Annotation, BadTextError, read_annotation
from alchemist_core.data.faults import Fault, Reason, make_fault
from alchemist_core.data.images import BadImageError, ImageHeader, hash_perceptually, read_header
from alchemist_core.data.tars import IMAGE_EXTS, Member, Record, index_tar

MAX_IMAGE_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Pair:
    """One readable record: `pair_hash` names the pair wherever its bytes lie, `content_hash` all the bytes that lie here."""

    record: Record
    image_hash: bytes
    caption_hash: bytes
    pair_hash: bytes
    content_hash: bytes
    caption: str
    width: int
    height: int
    format: str
    perceptual_hash: int | None
    source_url: str | None
    licence: str | None
    metadata: dict[str, Any]


def read_pairs(file: BinaryIO, size_bytes: int, *, with_perceptual_hash: bool = True) -> Iterator[Pair | Fault]:
    """Yield a pair or a fault for every record of a shard, in its order.

    Args:
        file: The shard, seekable.
        size_bytes: Its size.
        with_perceptual_hash: Also decode each picture, reduced, for a 64-bit fingerprint. A cut picture is then found
            here; without it, at scoring.

    Raises:
        DataError: The file is no tar from its first block on.
    """
    for record in index_tar(file, size_bytes):
        if isinstance(record, Fault):
            yield record
            continue
        try:
            yield _read_pair(file, record, with_perceptual_hash=with_perceptual_hash)
        except (BadImageError, BadTextError) as error:
            yield make_fault(record.ordinal, record.key, error.reason, error.detail)


def find_image(record: Record) -> Member:
    """Return the record's one picture.

    Raises:
        BadImageError: It has none, or several.
    """
    images = [member for member in record.members if member.ext in IMAGE_EXTS]
    if not images:
        found = ", ".join(member.ext for member in record.members)
        raise BadImageError(Reason.MISSING_IMAGE, f"members are {found}; none of {', '.join(sorted(IMAGE_EXTS))}")
    if len(images) > 1:
        found = ", ".join(member.ext for member in images)
        raise BadImageError(Reason.SEVERAL_IMAGES, f"members {found}; which one does the caption describe?")
    return images[0]


def hash_pair(image_hash: bytes, caption_hash: bytes) -> bytes:
    """Name a pair by the sha256 of its two hashes."""
    return hashlib.sha256(image_hash + caption_hash).digest()


def hash_content(member_hashes: Iterable[bytes]) -> bytes:
    """Name everything that a record holds by the sha256 over its members' hashes, in their order."""
    return hashlib.sha256(b"".join(member_hashes)).digest()


def _read_pair(file: BinaryIO, record: Record, *, with_perceptual_hash: bool) -> Pair:
    annotation = _read_annotation(file, record)
    image = find_image(record)
    if image.size > MAX_IMAGE_BYTES:
        raise BadImageError(Reason.IMAGE_TOO_LARGE, f"{image.size} bytes; the limit is {MAX_IMAGE_BYTES}")
    data = _read_member(file, image)
    header = read_header(data)
    perceptual_hash = hash_perceptually(data) if with_perceptual_hash else None
    image_hash = hashlib.sha256(data).digest()
    hashes = [image_hash if member is image else _hash_member(file, member) for member in record.members]
    return _make_pair(record, (image_hash, hash_content(hashes)), annotation, header, perceptual_hash)


def _make_pair(
    record: Record,
    hashes: tuple[bytes, bytes],
    annotation: Annotation,
    header: ImageHeader,
    perceptual_hash: int | None,
) -> Pair:
    image_hash, content_hash = hashes
    caption_hash = hashlib.sha256(annotation.caption.encode()).digest()
    return Pair(
        record=record,
        image_hash=image_hash,
        caption_hash=caption_hash,
        pair_hash=hash_pair(image_hash, caption_hash),
        content_hash=content_hash,
        caption=annotation.caption,
        width=header.width,
        height=header.height,
        format=header.format,
        perceptual_hash=perceptual_hash,
        source_url=annotation.source_url,
        licence=annotation.licence,
        metadata=annotation.metadata,
    )


def _read_annotation(file: BinaryIO, record: Record) -> Annotation:
    members = {member.ext: member for member in record.members}
    text, document = members.get("txt"), members.get("json")
    # One byte beyond the limit is enough to be refused; a hostile size is never read whole.
    return read_annotation(
        _read_member(file, text, MAX_TEXT_BYTES + 1) if text else None,
        _read_member(file, document, MAX_JSON_BYTES + 1) if document else None,
    )


def _read_member(file: BinaryIO, member: Member, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    file.seek(member.offset)
    return file.read(min(member.size, max_bytes))


def _hash_member(file: BinaryIO, member: Member) -> bytes:
    digest = hashlib.sha256()
    for start in range(0, member.size, _BLOCK_BYTES):
        file.seek(member.offset + start)
        digest.update(file.read(min(_BLOCK_BYTES, member.size - start)))
    return digest.digest()
