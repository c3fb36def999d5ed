"""Images from bytes: the header, pixels at a given side, the limits of decoding and a 64-bit perceptual hash.

The format is detected by content; file names are ignored. EXIF orientation is ignored too, as the usual training loaders do, so
that images are scored as they are trained on.
"""

import io
import os
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings
from alchemist_core.shards.decode_versions import CANVAS_SIDE, UNPINNED, DecodeVersion, canvas_side
from alchemist_core.shards.faults import Reason

MAX_PIXELS = 1 << 26
"""Largest width times height; larger images are refused by their header, before a pixel is decoded."""
MAX_DECODED_BYTES = 1 << 29
"""Most memory of Pillow and its decoder for one image; images that need more are refused by their header."""
MAX_SCANS = 100
"""Most scans of a JPEG: each takes time even if it is empty, and encoders write about a dozen."""
_MAGICS: tuple[tuple[str, bytes, int], ...] = (
    ("jpeg", b"\xff\xd8\xff", 0),
    ("png", b"\x89PNG\r\n\x1a\n", 0),
    ("webp", b"WEBP", 8),
    ("gif", b"GIF8", 0),
    ("bmp", b"BM", 0),
    ("tiff", b"II*\0", 0),
    ("tiff", b"MM\0*", 0),
)
# Bytes per pixel in Pillow: one for these modes, two for 16-bit grey, four for all others; RGB as a target has four.
_ONE_BYTE, _RGB_BYTES = ("1", "L", "P"), 4
# Memory of decoders beside Pillow's pixels, in bytes per pixel: WebP has two canvases and a copy, TIFF a strip of up to the image.
_DECODER_BYTES = {"webp": 12, "tiff": 4}
# Pixels converted at a time, which bounds the intermediate images of a conversion.
_STRIP_PIXELS = 1 << 20
_JPEG_SCAN = b"\xff\xda"
# A marker that ends a scan: neither a stuffed byte nor a restart.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class BadImageError(DataError):
    """Refuses one image; `reason` is the code of its quarantine row."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format and size of an image, from its header."""

    format: str
    width: int
    height: int
    n_decoded_bytes: int
    """Upper bound of the memory that decoding takes."""
    is_animated: bool


def read_header(data: bytes) -> ImageHeader:
    """Read format and size without decoding a pixel.

    Raises:
        BadImageError: The bytes are empty, are not an image of a known format, or exceed the limits of memory and time.
    """
    return _open_image(data)[1]


def require_first_frame(data: bytes) -> None:
    """Refuse an animation whose first frame is of one colour: its caption describes later frames.

    Raises:
        BadImageError: The frame is of one colour, or the bytes are not a complete image of a known format.
    """
    with _pillow_faults():
        channels = _read_square(data, CANVAS_SIDE).split()
    if all(low == high for low, high in (channel.getextrema() for channel in channels)):
        raise BadImageError(Reason.ANIMATED_IMAGE, "the first frame of the animation is of one colour")


def encode_first_frame(data: bytes) -> bytes:
    """Return the first frame of an animation as a PNG, for readers that would read all frames.

    Raises:
        BadImageError: The bytes are not a complete image of a known format.
    """
    image, _ = _open_image(data)
    buffer = io.BytesIO()
    with _pillow_faults():
        image.load()
        frame = image if image.mode in ("L", "RGB", "RGBA", "P") else image.convert("RGBA")
        frame.copy().save(buffer, "PNG", save_all=False)
    return buffer.getvalue()


def sniff_format(data: bytes) -> str:
    """Return the format by the first bytes.

    Raises:
        BadImageError: The bytes are empty, or not of a known format.

    >>> sniff_format(b"GIF89a...")
    'gif'
    """
    if not data:
        raise BadImageError(Reason.EMPTY_IMAGE, "0 bytes")
    for name, magic, at in _MAGICS:
        if data.startswith(magic, at) and (name != "webp" or data.startswith(b"RIFF")):
            return name
    raise BadImageError(Reason.WRONG_MAGIC, f"starts with {data[:8]!r}; known are jpeg, png, webp, gif, bmp and tiff")


def decode_image(data: bytes, side: int, version: DecodeVersion = UNPINNED) -> NDArray[np.uint8]:
    """Decode to (side, side, 3): the largest centred square, scaled by one fixed filter, on white where transparent.

    Except the transparent colour (tRNS) of a PNG in RGB or 16-bit grey without an alpha channel: its pixels stay opaque.

    Raises:
        BadImageError: The bytes are not a complete image of a known format.
    """
    return decode_views(data, side, version)[0]


def decode_views(
    data: bytes, side: int, version: DecodeVersion = UNPINNED, *, luma_side: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Decode once to the pixels of `decode_image`, and on request to the luma of the same square.

    The luma depends only on the image and `luma_side`: if the rater's side and version need another reduction of a JPEG than the
    luma, the image is decoded a second time.

    Raises:
        BadImageError: The bytes are not a complete image of a known format.
    """
    canvas = canvas_side(side, version)
    with _pillow_faults():
        square = _read_square(data, canvas)
        pixels = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), np.uint8)
        if luma_side is None:
            return pixels, None
        if canvas != CANVAS_SIDE:
            # Hold one of them at a time in memory.
            del square
            square = _read_square(data, CANVAS_SIDE)
        return pixels, np.asarray(square.convert("L").resize((luma_side, luma_side), Image.Resampling.BICUBIC))


def encode_picture(data: bytes, side: int) -> bytes:
    """Return the whole image as a new JPEG without metadata, scaled so that its longer side is at most `side` pixels.

    Raises:
        BadImageError: The bytes are not a complete image of a known format.
    """
    image, _ = _open_image(data)
    with _pillow_faults():
        image.draft("RGB", (side, side))
        picture = _to_rgb(image, (0, 0, *image.size))
        picture.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2)
        # Otherwise Pillow copies comments of the file.
        picture.info.clear()
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def decode_covering(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decode to (height, width, 3): scaled by one fixed filter until it covers that size, cropped in the middle, white where transparent.

    The exception is that of `decode_image`.

    Raises:
        BadImageError: The bytes are not a complete image of a known format.
    """
    with _pillow_faults():
        image, _ = _open_image(data)
        # A JPEG is decoded at its smallest reduced size that is not below the wanted one.
        image.draft("RGB", (width, height))
        rgb = _to_rgb(image, (0, 0, *image.size))
        scale = max(width / rgb.width, height / rgb.height)
        left, top = (rgb.width - width / scale) / 2, (rgb.height - height / scale) / 2
        box = (
            max(left, 0.0),
            max(top, 0.0),
            min(left + width / scale, rgb.width),
            min(top + height / scale, rgb.height),
        )
        return np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC, box=box), np.uint8)


def _read_square(data: bytes, canvas: int) -> Image.Image:
    """Decode the largest centred square; a JPEG at its smallest reduced size whose sides are at least the canvas's."""
    image, _ = _open_image(data)
    image.draft("RGB", (canvas, canvas))
    left, top, edge = _centre_square(image.size)
    return _to_rgb(image, (left, top, left + edge, top + edge))


def _open_image(data: bytes) -> tuple[ImageFile.ImageFile, ImageHeader]:
    name = sniff_format(data)
    n_scans = _count_scans(data) if name == "jpeg" else 1
    if n_scans > MAX_SCANS:
        raise BadImageError(Reason.TOO_SLOW, f"a JPEG of {n_scans} scans; the limit is {MAX_SCANS}")
    with _pillow_faults():
        image = Image.open(io.BytesIO(data), formats=[name.upper()])
        # A JPEG with an attached preview opens as a multi-picture file; its first image is the main one.
        is_animated = name != "jpeg" and getattr(image, "is_animated", False)
        if is_animated and name == "tiff":
            raise BadImageError(Reason.ANIMATED_IMAGE, "a TIFF with several pages; only TIFFs of one page are read")
        return image, _header_of(image, name, n_scans, is_animated=is_animated)


def _header_of(image: Image.Image, name: str, n_scans: int, *, is_animated: bool) -> ImageHeader:
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImageError(Reason.BAD_IMAGE, f"{width} by {height} pixels")
    if width * height > MAX_PIXELS:
        raise BadImageError(Reason.IMAGE_TOO_LARGE, f"{width} by {height} pixels; the limit is {MAX_PIXELS} in all")
    n_bytes = width * height * (_bytes_a_pixel(image.mode) + _RGB_BYTES + _DECODER_BYTES.get(name, 0))
    if n_scans > 1:
        # All coefficients of all channels are held until the last scan, at the full size.
        n_bytes += 2 * width * height * len(image.getbands())
    if n_bytes > MAX_DECODED_BYTES:
        text = f"{width} by {height} pixels of mode {image.mode} in {name} take {n_bytes} bytes to decode; the limit is {MAX_DECODED_BYTES}"
        raise BadImageError(Reason.IMAGE_TOO_LARGE, text)
    return ImageHeader(name, width, height, n_bytes, is_animated)


def _bytes_a_pixel(mode: str) -> int:
    if mode in _ONE_BYTE:
        return 1
    return 2 if mode.startswith("I;16") else 4


def _count_scans(data: bytes) -> int:
    """Return the number of a JPEG's scans, or a lower number if it has only a few. Markers in its metadata may be counted too."""
    if (n_markers := data.count(_JPEG_SCAN)) <= MAX_SCANS:
        return n_markers
    n_scans, at = 0, 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:
            at += 1
            continue
        n_scans += marker == 0xDA
        at += 2 + size
        if marker == 0xDA:
            found = _MARKER.search(data, at)
            at = found.start() if found else len(data)
    return n_scans


@contextmanager
def _pillow_faults() -> Iterator[None]:
    """Turn every error of Pillow's parsers into a `BadImageError`."""
    try:
        yield
    except BadImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except MemoryError as error:
        raise BadImageError(Reason.IMAGE_TOO_LARGE, "decoding it takes more memory than an image may use") from error
    except UnidentifiedImageError as error:
        # Pillow's message holds a memory address, which differs in every process.
        raise BadImageError(Reason.BAD_IMAGE, "the header after the first bytes cannot be read") from error
    except Exception as error:  # Pillow's parsers raise many kinds of errors for broken files
        is_cut = "truncated" in str(error) or isinstance(error, EOFError)
        reason = Reason.TRUNCATED_IMAGE if is_cut else Reason.BAD_IMAGE
        raise BadImageError(reason, f"{type(error).__name__}: {error}") from error


def _centre_square(size: tuple[int, int]) -> tuple[int, int, int]:
    width, height = size
    edge = min(width, height)
    return (width - edge) // 2, (height - edge) // 2, edge


def _to_rgb(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a part of the image as RGB, converted in strips, so that no intermediate image is as large as the whole."""
    image.load()
    left, top, right, bottom = box
    if image.mode == "RGB":
        return image if box == (0, 0, *image.size) else image.crop(box)
    rgb = Image.new("RGB", (right - left, bottom - top))
    n_rows = max(1, _STRIP_PIXELS // rgb.width)
    for row in range(top, bottom, n_rows):
        strip = image.crop((left, row, right, min(row + n_rows, bottom)))
        rgb.paste(_strip_to_rgb(strip), (0, row - top))
    return rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _GREY_16:
        return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    if image.mode == "F":
        raise BadImageError(Reason.UNSUPPORTED_PIXELS, "floating-point pixels have no defined value range")
    return image.convert("RGB")


# --- Limits of one image ------------------------------------------------------------------------------------------------------

# The time to read a header can grow with the square of its size; decoding this many bytes of pixels takes a fraction of a second.
_CHEAP_FILE_BYTES, _CHEAP_DECODED_BYTES = 1 << 20, 1 << 26
_MEMORY_BYTES = 3 * MAX_DECODED_BYTES


class CostlyImageError(DataError):
    """Reports an image that must be read in a separate process, which may be killed."""


def is_costly(data: bytes) -> bool:
    """Return whether reading an image may take long: any TIFF, and other formats by their size."""
    if len(data) > _CHEAP_FILE_BYTES:
        return True
    try:
        return sniff_format(data) == "tiff" or read_header(data).n_decoded_bytes > _CHEAP_DECODED_BYTES
    except BadImageError:
        return False


@contextmanager
def one_image(limit_s: float | None = None) -> Iterator[None]:
    """Kill this process if the block exceeds the processor time of one image; limit the growth of its memory.

    Args:
        limit_s: Processor time in seconds; none: `ALCHEMIST_DECODE_LIMIT_S`.
    """
    before = _limit_memory()
    signal.setitimer(signal.ITIMER_PROF, limit_s or load_settings().decode_limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if before is not None:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def explain_death(code: int, limit_s: float | None = None) -> tuple[Reason, str]:
    """Return the reason for quarantining an image, from the exit code of the process that read it under a limit."""
    if code == -signal.SIGPROF:
        limit_s = limit_s or load_settings().decode_limit_s
        return Reason.TOO_SLOW, f"reading it takes more than {limit_s:g} s of processor time"
    return Reason.DECODER_DIED, f"a worker process ended with code {code}"


def _limit_memory() -> tuple[int, int] | None:
    """Limit the data of this process to what it has and what one image may take; return the limits before, or None without /proc."""
    statm = _open_statm(os.getpid())
    if statm is None:
        return None
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound = int(os.pread(statm, 256, 0).split()[5]) * resource.getpagesize() + _MEMORY_BYTES
    soft = bound if before[0] == resource.RLIM_INFINITY else min(bound, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (soft, before[1]))
    return before


@lru_cache(maxsize=1)
def _open_statm(pid: int) -> int | None:
    """Open the sizes of this process, once: opening them for each image takes as long as its header. None if there is no /proc."""
    try:
        return os.open(f"/proc/{pid}/statm", os.O_RDONLY)
    except OSError:
        return None


# --- The perceptual hash ------------------------------------------------------------------------------------------------------

PERCEPTUAL_HASH_SIDE = 32
"""Side in pixels to which an image of any shape is scaled before it is hashed."""
_N_BRIGHTNESS, _N_COLOUR = 48, 4
# Frequencies by their sum: (0, 0) is the mean.
_FREQUENCY_U2 = np.array(sorted((i + j, i, j) for i in range(9) for j in range(9)))[:, 1:]
# 4096 times the orthonormal transform.
_COSINE_US = np.round(
    1024
    * np.cos(np.pi / (2 * PERCEPTUAL_HASH_SIDE) * np.outer(np.arange(9), 2 * np.arange(PERCEPTUAL_HASH_SIDE) + 1))
    * np.where(np.arange(9) == 0, np.sqrt(0.5), 1)[:, None]
).astype(np.int64)
# Dead zones, so that compression noise in a flat direction or in grey sets no bit: as a share of the mean distance from the
# median, and in levels of 255.
_DEAD_SHARE, _DEAD_LEVELS = (3, 20), 2


def perceptual_hash_of(data: bytes) -> int:
    """Decode an image, reduced, and return its perceptual hash.

    Raises:
        BadImageError: The bytes are not a complete image of a known format.
    """
    image, _ = _open_image(data)
    with _pillow_faults():
        image.draft("RGB", (2 * PERCEPTUAL_HASH_SIDE, 2 * PERCEPTUAL_HASH_SIDE))
        return perceptual_hash(_to_rgb(image, (0, 0, *image.size)))


def perceptual_hash(image: Image.Image) -> int:
    """Return 64 bits, signed; near-duplicates differ in few of them.

    Images of one colour have no brightness bits: the hash alone does not tell them apart.

    Args:
        image: RGB, of any size.
    """
    raster = image.resize((PERCEPTUAL_HASH_SIDE, PERCEPTUAL_HASH_SIDE), Image.Resampling.BOX).convert("YCbCr")
    y_SS, *colours_SS = (np.asarray(channel, np.int64) for channel in raster.split())
    bits = [_above_median(_transform(y_SS)[1 : _N_BRIGHTNESS + 1])]
    for colour_SS in colours_SS:
        lean_K = _transform(colour_SS - 128)[:_N_COLOUR]
        limit = _DEAD_LEVELS * PERCEPTUAL_HASH_SIDE * 4096**2
        bits += [lean_K > limit, lean_K < -limit]
    return int.from_bytes(np.packbits(_spread(np.concatenate(bits))).tobytes(), "big", signed=True)


def _transform(level_SS: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the lowest frequencies, by increasing frequency."""
    coefficient_UU: NDArray[np.int64] = _COSINE_US @ level_SS @ _COSINE_US.T
    lowest_K: NDArray[np.int64] = coefficient_UU[_FREQUENCY_U2[:, 0], _FREQUENCY_U2[:, 1]]
    return lowest_K


def _above_median(value_K: NDArray[np.int64]) -> NDArray[np.bool_]:
    middle = np.sort(value_K)[len(value_K) // 2 - 1 : len(value_K) // 2 + 1].sum()
    distance_K = 2 * value_K - middle
    share, whole = _DEAD_SHARE
    is_above_K: NDArray[np.bool_] = whole * len(value_K) * (distance_K >> 20) > share * (np.abs(distance_K) >> 20).sum()
    return is_above_K


def _spread(bit_K: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Distribute the bits over the three bands in which near-duplicates are searched, so that no band holds colour bits only."""
    return np.concatenate([bit_K[band::3] for band in range(3)])
