"""Read images and captions of pairs from their shards, for stages that train or measure."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alchemist_core.data.images import BadImageError, decode_image
from alchemist_core.data.members import image_member
from alchemist_core.data.storage import join_uri, read_ranges
from alchemist_core.store.tables import AnyRow


class ReadPairs(NamedTuple):
    """Decoded pairs, aligned, in the order of their rows."""

    images: NDArray[np.uint8]
    captions: list[str]
    pair_hashes: list[bytes]
    image_hashes: list[bytes]


def read_images(rows: Sequence[AnyRow], side: int, report: Callable[[int, int, str], None]) -> ReadPairs:
    """Decode each pair's image to one size; a pair whose image cannot be decoded is left out (scoring quarantines it).

    Args:
        rows: Pairs with their location, as `store.pairs` returns them.
        side: Pixels of a side.
        report: Told how many are done.
    """
    image_N: list[NDArray[np.uint8] | None] = [None] * len(rows)
    by_shard = sorted(range(len(rows)), key=lambda i: (rows[i].root_uri, rows[i].uri, rows[i].member_offsets[0]))
    done = 0
    for (root_uri, uri), group in groupby(by_shard, key=lambda i: (rows[i].root_uri, rows[i].uri)):
        places = list(group)
        ranges = [image_member(rows[i]) for i in places]
        for i, data in zip(places, read_ranges(join_uri(root_uri, uri), ranges), strict=True):
            image_N[i] = _decode(data, side)
        done += len(places)
        report(done, len(rows), "read")
    kept = [i for i, image in enumerate(image_N) if image is not None]
    images = (
        np.stack([image for image in image_N if image is not None]) if kept else np.zeros((0, side, side, 3), np.uint8)
    )
    return ReadPairs(
        images,
        [rows[i].caption for i in kept],
        [bytes(rows[i].pair_hash) for i in kept],
        [bytes(rows[i].image_hash) for i in kept],
    )


def _decode(data: bytes, side: int) -> NDArray[np.uint8] | None:
    try:
        return decode_image(data, side)
    except BadImageError:
        return None
