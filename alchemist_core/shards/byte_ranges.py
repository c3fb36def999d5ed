"""Byte ranges, and the fewer, longer spans that are fetched for them. Used by files and object stores alike."""

from bisect import bisect_right
from collections.abc import Sequence

ByteRange = tuple[int, int]
_MAX_SPAN_BYTES = 1 << 24


def merge_ranges(ranges: Sequence[ByteRange], max_gap_bytes: int) -> list[ByteRange]:
    """Join adjacent ranges into spans of at most 16 MiB; a larger range stays whole.

    >>> merge_ranges([(2048, 10), (0, 512), (10_000_000, 5)], 1 << 18)
    [(0, 2058), (10000000, 5)]
    """
    spans: list[ByteRange] = []
    for offset, size in sorted(span for span in ranges if span[1]):
        start, length = spans[-1] if spans else (offset, 0)
        joined = max(start + length, offset + size) - start
        is_inside = joined == length
        is_near = offset <= start + length + max_gap_bytes and joined <= _MAX_SPAN_BYTES
        if spans and (is_inside or is_near):
            spans[-1] = (start, joined)
        else:
            spans.append((offset, size))
    return spans


def cut_ranges(blocks: Sequence[bytes], spans: Sequence[ByteRange], ranges: Sequence[ByteRange]) -> list[memoryview]:
    """Return each range from the blocks that were fetched for the spans; short if a block is short.

    >>> [bytes(view) for view in cut_ranges([b"abcdef"], [(10, 6)], [(12, 2), (15, 1), (0, 0)])]
    [b'cd', b'f', b'']
    """
    starts = [start for start, _ in spans]
    views = [memoryview(block) for block in blocks]
    found = []
    for offset, size in ranges:
        which = bisect_right(starts, offset) - 1 if size else -1
        at = offset - starts[which] if size else 0
        found.append(views[which][at : at + size] if size else memoryview(b""))
    return found
