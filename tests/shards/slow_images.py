"""Images that need much more time or memory than their size suggests."""

import io

from PIL import Image


def bomb(size: tuple[int, int], n_scans: int) -> bytes:
    """A progressive JPEG whose last scan, of almost nothing, comes again and again."""
    buffer = io.BytesIO()
    Image.new("L", size, 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * n_scans + data[-2:]


def slow_jpeg() -> bytes:
    """Few enough scans to be decoded, of an image so large that they take seconds of processor time."""
    return bomb((6000, 6000), 90)
