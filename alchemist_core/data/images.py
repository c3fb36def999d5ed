"""Pictures from bytes: what a header says, pixels at one side, a 64-bit fingerprint. Knows no tar and no caption.

The content decides what a picture is; its file name is never asked. EXIF orientation is ignored, as the usual training
loaders do: what is judged is what is trained on.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from alchemist_core.data.faults import Reason
from alchemist_core.data.fingerprint import FINGERPRINT_SIDE, fingerprint
from alchemist_core.errors import DataError

# Width times height; a header that claims more is refused before a pixel is decoded.
MAX_PIXELS = 1 << 26
# Both sides of a JPEG are decoded to at least this: raters of up to half of it and the heuristics share one decode.
CANVAS_SIDE = 256
_MAGICS: tuple[tuple[str, bytes, int], ...] = (
    ("jpeg", b"\xff\xd8\xff", 0),
    ("png", b"\x89PNG\r\n\x1a\n", 0),
    ("webp", b"WEBP", 8),
    ("gif", b"GIF8", 0),
    ("bmp", b"BM", 0),
    ("tiff", b"II*\0", 0),
    ("tiff", b"MM\0*", 0),
)
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class BadImageError(DataError):
    """Refuse one picture; `reason` is the code of its quarantine row."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a picture says about itself before it is decoded."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Read format and size without decoding a pixel.

    Raises:
        BadImageError: Empty, no picture of a known format, animated, or larger than `MAX_PIXELS`.
    """
    return _header_of(_open_image(data), sniff_format(data))


def sniff_format(data: bytes) -> str:
    """Name the format by its first bytes.

    Raises:
        BadImageError: Empty, or no known picture.

    >>> sniff_format(b"GIF89a...")
    'gif'
    """
    if not data:
        raise BadImageError(Reason.EMPTY_IMAGE, "0 bytes")
    for name, magic, at in _MAGICS:
        if data.startswith(magic, at) and (name != "webp" or data.startswith(b"RIFF")):
            return name
    raise BadImageError(Reason.WRONG_MAGIC, f"starts with {data[:8]!r}; known are jpeg, png, webp, gif, bmp and tiff")


def decode_image(data: bytes, side: int) -> NDArray[np.uint8]:
    """Decode to (side, side, 3): the largest centred square, scaled by one fixed filter, on white where transparent.

    Raises:
        BadImageError: The bytes are no whole picture of a known format.
    """
    return decode_views(data, side)[0]


def decode_views(
    data: bytes, side: int, *, luma_side: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Decode once to what a rater sees, as `decode_image` does, and on request to the luma of the same square.

    The luma depends on the picture and `luma_side` alone: where a rater's side asks for another reduction of a JPEG than
    the luma does, the picture is decoded a second time.

    Raises:
        BadImageError: The bytes are no whole picture of a known format.
    """
    canvas_side = max(2 * side, CANVAS_SIDE)
    with _pillow_faults():
        square = _read_square(data, canvas_side)
        pixels = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), np.uint8)
        if luma_side is None:
            return pixels, None
        if canvas_side != CANVAS_SIDE:
            square = _read_square(data, CANVAS_SIDE)
        return pixels, np.asarray(square.convert("L").resize((luma_side, luma_side), Image.Resampling.BICUBIC))


def _read_square(data: bytes, canvas_side: int) -> Image.Image:
    """Decode the largest centred square; a JPEG straight to the least of its sizes in which both sides reach the canvas."""
    image = _open_image(data)
    image.draft("RGB", (canvas_side, canvas_side))
    left, top, edge = _centre_square(image.size)
    return _to_rgb(image if image.width == image.height else image.crop((left, top, left + edge, top + edge)))


def hash_perceptually(data: bytes) -> int:
    """Return the fingerprint: 64 bits, signed, close for pictures that look alike.

    Raises:
        BadImageError: The bytes are no whole picture of a known format.
    """
    image = _open_image(data)
    with _pillow_faults():
        image.draft("RGB", (2 * FINGERPRINT_SIDE, 2 * FINGERPRINT_SIDE))
        return fingerprint(_to_rgb(image))


def _open_image(data: bytes) -> ImageFile.ImageFile:
    name = sniff_format(data)
    with _pillow_faults():
        image = Image.open(io.BytesIO(data), formats=[name.upper()])
        _header_of(image, name)
        # A JPEG with a preview behind it opens as a multi-picture file; its first picture is the one.
        if name != "jpeg" and getattr(image, "is_animated", False):
            raise BadImageError(
                Reason.ANIMATED_IMAGE, f"{getattr(image, 'n_frames', '?')} frames; stills are read only"
            )
    return image


def _header_of(image: Image.Image, name: str) -> ImageHeader:
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImageError(Reason.BAD_IMAGE, f"{width} by {height} pixels")
    if width * height > MAX_PIXELS:
        raise BadImageError(Reason.IMAGE_TOO_LARGE, f"{width} by {height} pixels; the limit is {MAX_PIXELS} in all")
    return ImageHeader(name, width, height)


@contextmanager
def _pillow_faults() -> Iterator[None]:
    """Give every way in which Pillow's parsers fail one name."""
    try:
        yield
    except BadImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        # Its own text names an object's address in memory, which is another in every process.
        raise BadImageError(Reason.BAD_IMAGE, "the header behind the first bytes cannot be read") from error
    except Exception as error:  # Pillow's parsers raise whatever a broken file leads them to
        is_cut = "truncated" in str(error) or isinstance(error, EOFError)
        reason = Reason.TRUNCATED_IMAGE if is_cut else Reason.BAD_IMAGE
        raise BadImageError(reason, f"{type(error).__name__}: {error}") from error


def _centre_square(size: tuple[int, int]) -> tuple[int, int, int]:
    width, height = size
    edge = min(width, height)
    return (width - edge) // 2, (height - edge) // 2, edge


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _GREY_16:
        level = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(level >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    if image.mode == "F":
        raise BadImageError(Reason.UNSUPPORTED_PIXELS, "floating-point pixels have no agreed white")
    return image.convert("RGB")
