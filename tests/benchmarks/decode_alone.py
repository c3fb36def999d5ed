"""Time decoding and measuring alone, inside a worker process: the d of the benchmark score_pipeline."""

import time
from dataclasses import dataclass

import numpy as np

from alchemist_core.heuristics.measures import LUMA_SIDE, measure
from alchemist_core.shards.byte_ranges import ByteRange
from alchemist_core.shards.images import decode_views
from alchemist_core.shards.storage import read_ranges


@dataclass(frozen=True)
class DecodeAlone:
    """A task: read the images, then time their decoding; returns core-seconds."""

    uri: str
    ranges: list[ByteRange]
    side: int
    has_heuristics: bool

    def read(self) -> list[bytes]:
        return read_ranges(self.uri, self.ranges)

    def work(self, data: list[bytes], place: memoryview) -> float:
        self._decode(data[:64])
        began = time.process_time()
        for start in range(0, len(data), 64):
            self._decode(data[start : start + 64])
        return time.process_time() - began

    def _decode(self, data: list[bytes]) -> None:
        luma_side = LUMA_SIDE if self.has_heuristics else None
        views = [decode_views(picture, self.side, luma_side=luma_side) for picture in data]
        np.stack([pixels for pixels, _ in views])
        if self.has_heuristics:
            measure(np.stack([luma for _, luma in views if luma is not None]))
