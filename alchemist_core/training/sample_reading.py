"""Images and captions of stored samples, read from their shards, for stages that train or measure. No torch.

Letters: N samples · M some of them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alchemist_core.errors import DataError
from alchemist_core.shards.decoding import DecodeTask, ProcessDecoders
from alchemist_core.shards.images import BadImageError, decode_image, is_costly
from alchemist_core.shards.storage import join_uri, read_ranges
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.shards.workers import n_own_cores
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.samples import LocatedSample
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


@dataclass(frozen=True)
class StoredSamples:
    """Samples whose images are read from their shards on demand.

    Args:
        rows: Samples with their locations, from `store.samples`.
        side: Side of the decoded images in pixels.
        on_progress: Called with the images done, the images requested, and a note.
    """

    rows: Sequence[LocatedSample]
    side: int
    on_progress: OnProgress

    @property
    def captions(self) -> list[str]:
        """Each sample's caption."""
        return [row.caption for row in self.rows]

    @property
    def image_keys(self) -> NDArray[np.uint8]:
        """The sha256 of each image's file."""
        return hash_rows([bytes(row.image_hash) for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index_M: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Images]]:
        """Yield the images of some samples in chunks, in the order of the shards.

        A sample whose image cannot be decoded is left out; scoring quarantines it.
        """
        places: list[int] = []
        images: list[Images] = []
        for place, image in self._decode(index_M.tolist()):
            places.append(place)
            images.append(image)
            if len(images) == _CHUNK:
                yield np.array(places), np.stack(images)
                places, images = [], []
        if images:
            yield np.array(places), np.stack(images)

    def _decode(self, index: list[int]) -> Iterator[tuple[int, Images]]:
        rows, n_done = self.rows, 0
        by_shard = sorted(index, key=lambda at: (rows[at].root_uri, rows[at].uri, rows[at].file_offsets[0]))
        with ThreadPoolExecutor(n_own_cores()) as pool:
            for uri, group in groupby(by_shard, key=lambda at: join_uri(rows[at].root_uri, rows[at].uri)):
                places = list(group)
                for start in range(0, len(places), _N_FILES):
                    part = places[start : start + _N_FILES]
                    files = dict(zip(part, read_ranges(uri, [image_member(rows[at]) for at in part]), strict=True))
                    costly = [at for at in part if is_costly(files[at])]
                    cheap = [at for at in part if at not in set(costly)] if costly else part
                    for place, image in zip(
                        cheap, pool.map(self._decode_one, (files[at] for at in cheap)), strict=True
                    ):
                        if image is not None:
                            yield place, image
                    yield from self._decode_apart(uri, costly)
                    n_done += len(part)
                    self.on_progress(n_done, len(index), "read")

    def _decode_apart(self, uri: str, places: list[int]) -> Iterator[tuple[int, Images]]:
        """Decode costly images in worker processes, because a decoder may crash or need too much memory."""
        if not places:
            return
        rows = [self.rows[at] for at in places]
        with closing(ProcessDecoders(min(n_own_cores(), len(places)), self.side)) as decoders:
            for at, row in enumerate(rows):
                while not decoders.has_room():
                    yield from _good_images(decoders, places)
                hashes = [bytes(row.image_hash)]
                decoders.submit(DecodeTask(uri, [image_member(row)], hashes, self.side, [False]), at)
            while not decoders.is_idle():
                yield from _good_images(decoders, places)

    def _decode_one(self, data: bytes) -> Images | None:
        try:
            return decode_image(data, self.side)
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


def read_images(rows: Sequence[LocatedSample], side: int, on_progress: OnProgress) -> ReadSamples:
    """Decode each sample's image to one size; a sample whose image cannot be decoded is left out (scoring quarantines it).

    Args:
        rows: Samples with their locations, from `store.samples`.
        side: Side of the decoded images in pixels.
        on_progress: Called with the images done, the images requested, and a note.
    """
    image_of: dict[int, Images] = {}
    for places, images in StoredSamples(rows, side, on_progress).read(np.arange(len(rows))):
        image_of.update(zip(places.tolist(), images, strict=True))
    kept = sorted(image_of)
    return ReadSamples(
        np.stack([image_of[at] for at in kept]) if kept else np.zeros((0, side, side, 3), np.uint8),
        [rows[at].caption for at in kept],
        [bytes(rows[at].pair_hash) for at in kept],
        [bytes(rows[at].image_hash) for at in kept],
    )
