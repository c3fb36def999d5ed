"""Images and captions of stored samples, read from their shards, for stages that train or measure. No torch.

Letters: N samples · M some of them.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alchemist_core.cores import n_own_cores
from alchemist_core.errors import DataError
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion
from alchemist_core.shards.decoding import DecodeTask, ProcessDecoders
from alchemist_core.shards.images import BadImageError, decode_image, is_costly
from alchemist_core.shards.storage import is_s3, join_uri, read_ranges, require_registered
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.store.sample_table import LocatedSample, SampleTable
from alchemist_core.telemetry import OnProgress


@runtime_checkable
class Location(Protocol):
    """The location of a record: aligned lists of its files' extensions, offsets and sizes."""

    @property
    def key(self) -> str:
        """Name of the record."""

    @property
    def file_exts(self) -> list[str]:
        """Extensions of its files."""

    @property
    def file_offsets(self) -> list[int]:
        """Offsets of its files in the tar."""

    @property
    def file_sizes(self) -> list[int]:
        """Sizes of its files in bytes."""


def image_member(location: Location) -> tuple[int, int]:
    """Return offset and size of a location's image; ingest accepts only records with exactly one."""
    for ext, offset, size in zip(location.file_exts, location.file_offsets, location.file_sizes, strict=True):
        if ext in IMAGE_EXTS:
            return offset, size
    raise DataError(
        f"Record {location.key!r} has no image among {', '.join(location.file_exts)}. "
        "Its row was changed by hand: restore it, or retire the shard."
    )


# Image files read at a time: 100 MB at 100 kB each.
_N_FILES = 1024
# Images yielded at a time: 800 MB at 256 px.
_CHUNK = 4096

Images = NDArray[np.uint8]


class ReadSamples(NamedTuple):
    """Decoded samples, aligned, in the order of their rows."""

    images: Images
    captions: list[str]
    pair_hashes: list[bytes]
    image_hashes: list[bytes]


@dataclass(frozen=True, slots=True)
class CaptionsOf:
    """The captions of stored samples, read one by one."""

    rows: SampleTable

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> str:
        return self.rows[at].caption

    def __iter__(self) -> Iterator[str]:
        return (row.caption for row in self.rows)


@dataclass(frozen=True)
class StoredSamples:
    """Samples whose images are read from their shards on demand.

    Args:
        rows: Samples with their locations, from `store.samples`.
        side: Side of the decoded images in pixels.
        on_progress: Called with the images done, the images requested, and a note.
        decode_version: Version of the decode; images for a rater have the rater's.
    """

    rows: SampleTable
    side: int
    on_progress: OnProgress
    decode_version: DecodeVersion = UNPINNED

    @classmethod
    def as_read_by(cls, training: Mapping[str, Any], rows: SampleTable, on_progress: OnProgress) -> Self:
        """Return samples with the images that a rater reads, by its stored training options."""
        return cls(rows, training["resolution"], on_progress, training.get("decode_version", UNPINNED))

    @property
    def captions(self) -> "CaptionsOf":
        """Each sample's caption."""
        return CaptionsOf(self.rows)

    @property
    def image_keys(self) -> NDArray[np.uint8]:
        """The sha256 of each image's file."""
        return self.rows.hashes("image_hash")

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index_M: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Images]]:
        """Yield the images of some samples in chunks, in the order of the shards.

        A sample whose image cannot be decoded is left out; scoring quarantines it.

        Raises:
            DataError: A shard is missing, or an image has another SHA-256 than registered: codes are cached under that hash.
        """
        places: list[int] = []
        images: list[Images] = []
        for place, image in self._decode(index_M):
            places.append(place)
            images.append(image)
            if len(images) == _CHUNK:
                yield np.array(places), np.stack(images)
                places, images = [], []
        if images:
            yield np.array(places), np.stack(images)

    def _decode(self, index_M: NDArray[np.int64]) -> Iterator[tuple[int, Images]]:
        n_done = 0
        with ThreadPoolExecutor(n_own_cores()) as pool:
            for shard in self.rows.take(index_M).by_shard():
                for start in range(0, len(shard), _N_FILES):
                    part = index_M[shard[start : start + _N_FILES]]
                    yield from self._decode_part(dict(zip(part.tolist(), self.rows.take(part), strict=True)), pool)
                    n_done += len(part)
                    self.on_progress(n_done, len(index_M), "read")

    def _decode_part(self, row_of: dict[int, LocatedSample], pool: ThreadPoolExecutor) -> Iterator[tuple[int, Images]]:
        """Decode some images of one shard."""
        first = next(iter(row_of.values()))
        uri = join_uri(first.root_uri, first.uri)
        data = read_ranges(uri, [image_member(row) for row in row_of.values()])
        files = dict(zip(row_of, data, strict=True))
        costly = {at: row_of[at] for at, file in files.items() if is_costly(file)}
        cheap = [at for at in files if at not in costly]
        decoded = pool.map(lambda at: self._decode_one(uri, row_of[at], files[at]), cheap)
        for place, image in zip(cheap, decoded, strict=True):
            if image is not None:
                yield place, image
        yield from self._decode_apart(uri, costly)

    def _decode_apart(self, uri: str, row_of: dict[int, LocatedSample]) -> Iterator[tuple[int, Images]]:
        """Decode costly images in worker processes, because a decoder may crash or need too much memory."""
        if not row_of:
            return
        places = list(row_of)
        with closing(ProcessDecoders(min(n_own_cores(), len(places)), self.side, uses_s3=is_s3(uri))) as decoders:
            for at, row in enumerate(row_of.values()):
                while not decoders.has_room():
                    yield from _good_images(decoders, places)
                hashes = [bytes(row.image_hash)]
                decoders.submit(
                    DecodeTask(uri, [image_member(row)], hashes, self.side, [False], self.decode_version), at
                )
            while not decoders.is_idle():
                yield from _good_images(decoders, places)

    def _decode_one(self, uri: str, row: LocatedSample, data: bytes) -> Images | None:
        require_registered(uri, image_member(row), bytes(row.image_hash), data)
        try:
            return decode_image(data, self.side, self.decode_version)
        except BadImageError:
            return None


def _good_images(decoders: ProcessDecoders, places: list[int]) -> Iterator[tuple[int, Images]]:
    """Yield the decoded images.

    Raises:
        DataError: The shard is missing, or has changed.
    """
    for part in decoders.wait():
        if part.error is not None:
            raise part.error
        if not part.decoded.faults:
            yield places[part.ticket], part.image_BHWC[0].copy()


def read_images(
    rows: SampleTable, side: int, on_progress: OnProgress, decode_version: DecodeVersion = UNPINNED
) -> ReadSamples:
    """Decode each sample's image to one size; a sample whose image cannot be decoded is left out (scoring quarantines it).

    Args:
        rows: Samples with their locations, from `store.samples`.
        side: Side of the decoded images in pixels.
        on_progress: Called with the images done, the images requested, and a note.
        decode_version: Version of the decode.

    Raises:
        DataError: As `StoredSamples.read`.
    """
    image_of: dict[int, Images] = {}
    for places, images in StoredSamples(rows, side, on_progress, decode_version).read(np.arange(len(rows))):
        image_of.update(zip(places.tolist(), images, strict=True))
    kept = sorted(image_of)
    return ReadSamples(
        np.stack([image_of[at] for at in kept]) if kept else np.zeros((0, side, side, 3), np.uint8),
        [rows[at].caption for at in kept],
        [bytes(rows[at].pair_hash) for at in kept],
        [bytes(rows[at].image_hash) for at in kept],
    )
