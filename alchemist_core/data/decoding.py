"""Pictures of a shard decoded together: one task of a worker, and what comes back. Knows no rater and no database.

Letters: B pictures of a task · M measures.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alchemist_core.data.byte_ranges import ByteRange
from alchemist_core.data.faults import Reason
from alchemist_core.data.image_limits import one_image
from alchemist_core.data.images import BadImageError, decode_views
from alchemist_core.data.storage import read_ranges, remedy_of
from alchemist_core.errors import ChangedShardError
from alchemist_core.heuristics.measures import LUMA_SIDE, MEASURES, measure

Bound = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a task's pictures, by their place in it; the pixels lie beside it."""

    faults: dict[int, tuple[Reason, str]] = field(default_factory=dict)
    measure_BM: NDArray[np.float32] | None = None
    """NaN where a picture is bad or was not to be measured; none where nothing was to be measured."""


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """Pictures of one shard: where their bytes lie, their registered sha256, and the side to decode them to."""

    uri: str
    ranges: list[ByteRange]
    image_hash_B: list[bytes]
    side: int
    is_measured_B: list[bool]

    def read(self) -> list[bytes]:
        """Fetch the bytes of all pictures."""
        return read_ranges(self.uri, self.ranges)

    def work(self, data: list[bytes], place: memoryview, bound: Bound = one_image) -> Decoded:
        """Decode into the place and measure what is to be measured.

        Args:
            data: The bytes of all images.
            place: Where their pixels go.
            bound: What limits one image: by default it ends this process.

        Raises:
            ChangedShardError: The bytes are not those that were registered.
        """
        image_BHWC = view_images(place, len(data), self.side)
        luma_BHW = np.zeros((len(data), LUMA_SIDE, LUMA_SIDE), np.uint8) if any(self.is_measured_B) else None
        faults: dict[int, tuple[Reason, str]] = {}
        for at, picture in enumerate(data):
            self._require_registered(at, picture)
            try:
                luma_side = LUMA_SIDE if self.is_measured_B[at] else None
                with bound():
                    image_BHWC[at], luma_HW = decode_views(picture, self.side, luma_side=luma_side)
            except BadImageError as error:
                faults[at] = (error.reason, error.detail)
                continue
            if luma_BHW is not None and luma_HW is not None:
                luma_BHW[at] = luma_HW
        return Decoded(faults, None if luma_BHW is None else self._measure(luma_BHW, faults))

    def _require_registered(self, at: int, picture: bytes) -> None:
        if hashlib.sha256(picture).digest() != self.image_hash_B[at]:
            offset, size = self.ranges[at]
            raise ChangedShardError(
                f"Shard {self.uri} is not the tar that was registered (the image at bytes {offset} to {offset + size} has "
                f"another sha256). {remedy_of(self.uri)}"
            )

    def _measure(self, luma_BHW: NDArray[np.uint8], faults: dict[int, tuple[Reason, str]]) -> NDArray[np.float32]:
        wanted = [at for at, is_measured in enumerate(self.is_measured_B) if is_measured and at not in faults]
        measure_BM = np.full((len(luma_BHW), len(MEASURES)), np.nan, np.float32)
        measure_BM[wanted] = measure(luma_BHW[wanted])
        return measure_BM


def view_images(place: memoryview, n_images: int, side: int) -> NDArray[np.uint8]:
    """See a place as pictures."""
    return np.frombuffer(place, np.uint8, n_images * side * side * 3).reshape(n_images, side, side, 3)
