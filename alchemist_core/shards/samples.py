"""The samples of a shard: an image, its caption and their hashes for each record, or a fault. Uses no database."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

from xxhash import xxh3_128, xxh3_128_digest

from alchemist_core.shards.captions import (
    MAX_JSON_BYTES,
    MAX_TEXT_BYTES,
    Annotation,
    BadTextError,
    find_repairs,
    read_annotation,
    read_document,
)
from alchemist_core.shards.faults import Fault, Reason, make_fault
from alchemist_core.shards.images import (
    BadImageError,
    ImageHeader,
    encode_first_frame,
    perceptual_hash_of,
    read_header,
    require_first_frame,
)
from alchemist_core.shards.repairs import NO_REPAIRS, Repair, Repairs, join_repairs, split_repairs
from alchemist_core.shards.tars import IMAGE_EXTS, Record, RecordFile, index_tar

MAX_IMAGE_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 22


class Sample(NamedTuple):
    """A readable record. `pair_hash` identifies the sample in every shard; `content_hash` covers all files of this record.

    `content_checksum` covers the same bytes; it is 20 times as fast to compare, but no proof against intent.
    A tuple, because workers send samples to their parent: a frozen dataclass with slots takes several times as long to pickle.
    """

    record: Record
    image_hash: bytes
    caption_hash: bytes
    pair_hash: bytes
    content_hash: bytes
    content_checksum: bytes
    caption: str
    width: int
    height: int
    format: str
    perceptual_hash: int | None
    attributes: dict[str, str | None]
    """The crawl's attributes by name, as `crawl_attributes` declares them."""
    metadata: str
    """The rest of the record's JSON, as text: all samples of a tar are in memory, and parsed values can take 24 times as much."""
    repair: str | None = None
    """The repairs, as `repairs.join_repairs` writes them."""


class RecordGuard(Protocol):
    """Limits the time and memory that a reader spends on one record."""

    def one_record(self, ordinal: int) -> AbstractContextManager[None]:
        """Limit a record."""
        ...

    def admit(self, data: bytes) -> None:
        """Refuse an image that must not be read in this process."""
        ...


class NoGuard:
    """Sets no limits."""

    def one_record(self, ordinal: int) -> AbstractContextManager[None]:  # noqa: ARG002  named as in the protocol
        """Set no limit."""
        return nullcontext()

    def admit(self, data: bytes) -> None:
        """Refuse nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the records of a shard are read.

    Args:
        has_perceptual_hash: Also decode each image, reduced, for its perceptual hash. This finds truncated images; otherwise scoring
            finds them.
        repair: Repair what can be repaired with certainty; otherwise such records are quarantined.
    """

    has_perceptual_hash: bool = True
    repair: bool = True


def read_samples(
    file: BinaryIO,
    size_bytes: int,
    reading: Reading = Reading(),
    guard: RecordGuard = NoGuard(),  # noqa: B008  both are immutable
) -> Iterator[Sample | Fault]:
    """Yield a sample or a fault for every record of a shard, in its order.

    Raises:
        NotATarError: The file holds no valid header.
    """
    for record in index_tar(file, size_bytes):
        if isinstance(record, Fault):
            yield record
            continue
        try:
            with guard.one_record(record.ordinal):
                pair = _read_sample(file, record, reading, guard)
            yield pair
        except (BadImageError, BadTextError) as error:
            yield make_fault(record.ordinal, record.key, error.reason, error.detail)


def find_image(record: Record) -> RecordFile:
    """Return the record's image.

    Raises:
        BadImageError: It has no image, or several.
    """
    images = [file for file in record.files if file.ext in IMAGE_EXTS]
    if not images:
        found = ", ".join(file.ext for file in record.files)
        raise BadImageError(Reason.MISSING_IMAGE, f"the files are {found}; none of {', '.join(sorted(IMAGE_EXTS))}")
    if len(images) > 1:
        found = ", ".join(file.ext for file in images)
        raise BadImageError(Reason.SEVERAL_IMAGES, f"the files are {found}; a record has one image")
    return images[0]


def hash_pair(image_hash: bytes, caption_hash: bytes) -> bytes:
    """Return the identity of a sample: the SHA-256 of its two hashes."""
    return hashlib.sha256(image_hash + caption_hash).digest()


def hash_content(file_hashes: Iterable[bytes]) -> bytes:
    """Return the SHA-256 over the hashes of a record's files, in their order."""
    return hashlib.sha256(b"".join(file_hashes)).digest()


def checksum_content(file_checksums: Iterable[bytes]) -> bytes:
    """Return the XXH3-128 over the XXH3-128 of a record's files, in their order."""
    return xxh3_128_digest(b"".join(file_checksums))


def _read_sample(file: BinaryIO, record: Record, reading: Reading, guard: RecordGuard) -> Sample:
    annotation, repairs = _read_annotation(file, record, reading)
    image = find_image(record)
    if image.size > MAX_IMAGE_BYTES:
        raise BadImageError(Reason.IMAGE_TOO_LARGE, f"{image.size} bytes; the limit is {MAX_IMAGE_BYTES}")
    data = _read_file(file, image)
    guard.admit(data)
    header = read_header(data)
    if header.is_animated:
        if not reading.repair:
            raise BadImageError(Reason.ANIMATED_IMAGE, "several frames; only still images are read")
        require_first_frame(data)
        repairs |= {Repair.FIRST_FRAME}
    perceptual_hash = perceptual_hash_of(data) if reading.has_perceptual_hash else None
    image_hash = hashlib.sha256(data).digest()
    both = [(image_hash, xxh3_128_digest(data)) if part is image else _hash_file(file, part) for part in record.files]
    content = hash_content(found for found, _ in both), checksum_content(found for _, found in both)
    pair = _make_sample(record, (image_hash, *content), annotation, header, perceptual_hash)
    return pair._replace(repair=join_repairs(repairs))


def _make_sample(
    record: Record,
    hashes: tuple[bytes, bytes, bytes],
    annotation: Annotation,
    header: ImageHeader,
    perceptual_hash: int | None,
) -> Sample:
    image_hash, content_hash, content_checksum = hashes
    caption_hash = hashlib.sha256(annotation.caption.encode()).digest()
    return Sample(
        record=record,
        image_hash=image_hash,
        caption_hash=caption_hash,
        pair_hash=hash_pair(image_hash, caption_hash),
        content_hash=content_hash,
        content_checksum=content_checksum,
        caption=annotation.caption,
        width=header.width,
        height=header.height,
        format=header.format,
        perceptual_hash=perceptual_hash,
        attributes=annotation.attributes,
        metadata=json.dumps(annotation.metadata, ensure_ascii=False, separators=(",", ":")),
    )


def _read_annotation(file: BinaryIO, record: Record, reading: Reading) -> tuple[Annotation, Repairs]:
    parts = {part.ext: part for part in record.files}
    # Read at most one byte above the limit: enough to refuse a file that is too large.
    text, document = (
        _read_file(file, parts[ext], limit + 1) if ext in parts else None
        for ext, limit in (("txt", MAX_TEXT_BYTES), ("json", MAX_JSON_BYTES))
    )
    repairs = find_repairs(text, document) if reading.repair else NO_REPAIRS
    return read_annotation(text, document, repairs, is_new=True), repairs


def _read_file(file: BinaryIO, part: RecordFile, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    file.seek(part.offset)
    return file.read(min(part.size, max_bytes))


def _hash_file(file: BinaryIO, part: RecordFile) -> tuple[bytes, bytes]:
    """Return the SHA-256 and the XXH3-128 of a file."""
    digest, checksum = hashlib.sha256(), xxh3_128()
    for start in range(0, part.size, _BLOCK_BYTES):
        file.seek(part.offset + start)
        block = file.read(min(_BLOCK_BYTES, part.size - start))
        digest.update(block)
        checksum.update(block)
    return digest.digest(), checksum.digest()


def repair_sample(sample: dict[str, Any], repair: str | None) -> dict[str, Any]:
    """Return a sample, bytes by extension, with its repairs applied; without repairs, the given one.

    The repaired caption is UTF-8 in `.txt` if there is a `.txt`, the `.json` can be parsed, and an animation becomes a PNG of its first
    frame under the same extension, because readers detect the format by content.

    Args:
        sample: The files of a record by extension, and other entries of the reader.
        repair: The stored form, from the location's row or the manifest of a materialized dataset.

    Raises:
        BadTextError, BadImageError: The bytes are not those for which ingest found the repairs.
    """
    if not repair:
        return sample
    repairs, repaired = split_repairs(repair), dict(sample)
    if Repair.FIRST_FRAME in repairs:
        repaired |= {ext: encode_first_frame(data) for ext, data in sample.items() if ext in IMAGE_EXTS}
    if repairs - {Repair.FIRST_FRAME}:
        text, document = sample.get("txt"), sample.get("json")
        caption = read_annotation(text, document, repairs).caption
        if text is not None:
            repaired["txt"] = caption.encode()
        if document is not None:
            fields = {"caption": caption} | read_document(document, repairs)
            repaired["json"] = json.dumps(fields, ensure_ascii=False).encode()
    return repaired
