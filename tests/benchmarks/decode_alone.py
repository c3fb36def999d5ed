"""Time decoding and measuring alone: inside a worker process, the d of the benchmark score_pipeline; and by side and decode version.

Run alone on the machine: `python -m tests.benchmarks.decode_alone`; it writes `.alchemist/bench/decode_alone.json`.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from alchemist_core.heuristics.measures import LUMA_SIDE, measure
from alchemist_core.settings import load_settings
from alchemist_core.shards.byte_ranges import ByteRange
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion
from alchemist_core.shards.images import decode_views
from alchemist_core.shards.storage import read_ranges
from tests.benchmarks.jpeg_corpus import draw_jpeg

JPEG_SIDES, SIDES = (512, 1024, 2048), (16, 256, 512)
VERSIONS: tuple[DecodeVersion, ...] = (1, 2)
N_ROUNDS, N_PICTURES = 7, 8


@dataclass(frozen=True)
class DecodeAlone:
    """A task: read the images, then time their decoding; returns core-seconds."""

    uri: str
    ranges: list[ByteRange]
    side: int
    has_heuristics: bool
    decode_version: DecodeVersion = UNPINNED

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
        views = [decode_views(picture, self.side, self.decode_version, luma_side=luma_side) for picture in data]
        np.stack([pixels for pixels, _ in views])
        if self.has_heuristics:
            measure(np.stack([luma for _, luma in views if luma is not None]))


def main() -> None:
    """Measure every size and write the rows."""
    rows = [row for jpeg_side in JPEG_SIDES for row in measure_jpegs(jpeg_side)]
    out = load_settings().home.resolve() / "bench" / "decode_alone.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(f"{row['name']:<48} {row['value']:>8,.0f} {row['unit']:<10} {row['detail']}")


def measure_jpegs(jpeg_side: int) -> list[dict[str, Any]]:
    """Time JPEGs of one size at each side; the versions take turns, so that both see the same machine."""
    rng = np.random.default_rng(jpeg_side)
    data, rows = [draw_jpeg(rng, jpeg_side) for _ in range(N_PICTURES)], []
    for side in SIDES:
        for has_heuristics in (True, False):
            tasks = {version: DecodeAlone("", [], side, has_heuristics, version) for version in VERSIONS}
            seconds: dict[DecodeVersion, list[float]] = {version: [] for version in VERSIONS}
            for _ in range(N_ROUNDS):
                for version, task in tasks.items():
                    seconds[version].append(task.work(data, memoryview(b"")) / N_PICTURES)
            for version in VERSIONS:
                name = f"JPEG of {jpeg_side} px at {side} px{'' if has_heuristics else ', no heuristics'}: version {version}"
                low, middle, high = (1e6 * float(np.quantile(seconds[version], at)) for at in (0, 0.5, 1))
                detail = f"one core, median of {N_ROUNDS} rounds; {low:,.0f} to {high:,.0f}"
                rows.append(
                    {"name": name, "value": middle, "unit": "µs/sample", "target": None, "ok": None, "detail": detail}
                )
    return rows


if __name__ == "__main__":
    main()
