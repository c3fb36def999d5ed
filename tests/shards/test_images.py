import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from alchemist_core.shards.faults import Reason
from alchemist_core.shards.images import (
    MAX_DECODED_BYTES,
    MAX_PIXELS,
    BadImageError,
    _pillow_faults,
    decode_covering,
    decode_image,
    decode_views,
    encode_first_frame,
    encode_picture,
    perceptual_hash_of,
    read_header,
    require_first_frame,
    sniff_format,
)
from tests.shards.slow_images import bomb


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason_of(data: bytes) -> str:
    with pytest.raises(BadImageError) as caught:
        decode_image(data, 8)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_content_names_the_format(picture, kind: str) -> None:
    data = picture(kind=kind)
    header = read_header(data)
    assert (header.format, header.width, header.height) == (kind.lower(), 20, 16)
    assert decode_image(data, 8).shape == (8, 8, 3)
    assert decode_image(data, 8).dtype == np.uint8


def test_the_largest_centred_square_is_kept() -> None:
    image = Image.new("RGB", (40, 10), "red")
    image.paste("blue", (15, 0, 25, 10))
    assert (decode_image(encode(image), 10) == [0, 0, 255]).all()


def test_an_image_at_its_own_size_is_not_touched(picture) -> None:
    data = picture(size=(16, 16))
    assert (decode_image(data, 16) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_transparent_pixels_are_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    palette = Image.new("P", (8, 8), 0)
    assert (decode_image(encode(clear), 8) == 255).all()
    assert (decode_image(encode(clear.convert("LA")), 8) == 255).all()
    assert (decode_image(encode(palette, transparency=0), 8) == 255).all()


def test_a_transparent_colour_is_white_in_8_bit_grey_and_stays_opaque_in_rgb() -> None:
    """Existing raters were trained on these pixels, so another rule would need another decode version."""
    grey, red = Image.new("L", (8, 8), 7), Image.new("RGB", (8, 8), (200, 0, 0))
    for decode in (lambda data: decode_image(data, 8), lambda data: decode_covering(data, 8, 8)):
        assert (decode(encode(grey, transparency=7)) == 255).all()
        assert (decode(encode(red, transparency=(200, 0, 0))) == [200, 0, 0]).all()


def test_cmyk_is_converted() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = decode_image(encode(cyan, "JPEG", quality=95), 8)[4, 4]
    assert red < 60
    assert min(green, blue) > 180


def test_16_bits_are_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x8040, np.uint16))
    assert (decode_image(encode(grey), 8) == 0x80).all()


def animate(frames: list[Image.Image], kind: str) -> bytes:
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].paste("white", (0, 0, 4, 8))
    data = animate(frames, kind)
    assert read_header(data).is_animated
    assert (decode_image(data, 8) == np.asarray(frames[0])).all()
    require_first_frame(data)
    still = encode_first_frame(data)
    assert not read_header(still).is_animated
    for decode in (lambda image: decode_image(image, 8), lambda image: decode_covering(image, 8, 8)):
        assert (decode(still) == decode(data)).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_whose_first_frame_is_of_one_colour_is_refused(kind: str) -> None:
    striped = Image.new("RGB", (8, 8), "red")
    striped.paste("white", (0, 0, 4, 8))
    with pytest.raises(BadImageError, match="one colour"):
        require_first_frame(animate([Image.new("RGB", (8, 8), "red"), striped], kind))


def test_a_transparent_first_frame_shows_nothing_whatever_its_pixels_are() -> None:
    rng = np.random.default_rng(0)
    clear = Image.fromarray(np.dstack([rng.integers(0, 256, (8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)]))
    shown = Image.new("RGBA", (8, 8), "red")
    with pytest.raises(BadImageError, match="one colour"):
        require_first_frame(encode(clear, "PNG", save_all=True, append_images=[shown]))


def test_a_tiff_of_several_pages_is_no_animation_and_is_refused() -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert reason_of(animate(pages, "TIFF")) == "animated_image"


def test_a_jpeg_with_a_preview_behind_it_is_its_first_image() -> None:
    images = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encode(images[0], "MPO", save_all=True, append_images=images[1:])
    assert not read_header(data).is_animated
    red, _, blue = decode_image(data, 8)[4, 4]
    assert red > 200
    assert blue < 60


def test_a_cut_jpeg_has_a_header_but_no_pixels(picture) -> None:
    data = picture(kind="JPEG", size=(64, 64))[:-400]
    assert read_header(data).width == 64
    assert reason_of(data) == "truncated_image"


def test_zero_bytes_and_other_content_are_refused() -> None:
    assert reason_of(b"") == "empty_image"
    assert reason_of(b"<html>404</html>") == "wrong_magic"
    assert reason_of(b"RIFF\0\0\0\0WAVE") == "wrong_magic"
    assert reason_of(b"\x89PNG\r\n\x1a\n") == "bad_image"


def png_header(width: int, height: int) -> bytes:
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""))
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(8193, 8192), (9000, 9500), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(Image.Image, "load", explode)
    with pytest.raises(BadImageError) as caught:
        read_header(png_header(*size))
    assert caught.value.reason == "image_too_large"


def test_an_image_without_area_is_refused() -> None:
    with pytest.raises(BadImageError):
        read_header(png_header(0, 5))


def test_floating_point_pixels_are_refused() -> None:
    assert reason_of(encode(Image.new("F", (8, 8), 0.5), "TIFF")) == "unsupported_pixels"


def test_perceptual_hashes_are_near_for_likeness_and_far_for_difference() -> None:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((128, 128)) for _ in range(2)]
    same = perceptual_hash_of(encode(coarse[0])) ^ perceptual_hash_of(encode(coarse[0].resize((96, 96)), "JPEG"))
    other = perceptual_hash_of(encode(coarse[0])) ^ perceptual_hash_of(encode(coarse[1]))
    assert (same & (2**64 - 1)).bit_count() <= 8
    assert (other & (2**64 - 1)).bit_count() >= 16
    assert all(-(2**63) <= perceptual_hash_of(encode(image)) < 2**63 for image in coarse)


def test_decoding_twice_gives_the_same_pixels(picture) -> None:
    data = picture(kind="JPEG", size=(300, 200))
    assert (decode_image(data, 64) == decode_image(data, 64)).all()


def test_every_cut_of_an_image_is_refused_or_decoded(picture) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = picture(kind=kind)
        for cut in range(0, len(data), 7):
            with suppress(BadImageError):
                assert decode_image(data[:cut], 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"RIFF....WEBP", "webp"), (b"GIF87a", "gif"), (b"BM", "bmp"),
        (b"II*\0", "tiff"), (b"MM\0*", "tiff"),
    ],
)  # fmt: skip
def test_a_format_is_known_by_its_first_bytes(start: bytes, name: str) -> None:
    assert sniff_format(start) == name
    with pytest.raises(BadImageError) as caught:
        sniff_format(b" " + start)
    assert caught.value.reason == "wrong_magic"


@pytest.mark.parametrize(
    ("mode", "kind", "n_bytes"),
    [
        ("1", "PNG", 5), ("L", "PNG", 5), ("P", "PNG", 5), ("I;16", "PNG", 6), ("RGB", "PNG", 8), ("RGBA", "PNG", 8), ("RGB", "BMP", 8),
        ("P", "GIF", 5), ("RGB", "JPEG", 8), ("RGB", "WEBP", 20), ("RGB", "TIFF", 12), ("L", "TIFF", 9),
    ],
)  # fmt: skip
def test_what_a_pixel_takes_to_decode(mode: str, kind: str, n_bytes: int) -> None:
    assert read_header(encode(Image.new(mode, (10, 7)), kind)).n_decoded_bytes == 70 * n_bytes


def test_a_progressive_jpeg_holds_two_bytes_a_pixel_of_each_channel_beside() -> None:
    assert read_header(encode(Image.new("RGB", (10, 7)), "JPEG", progressive=True)).n_decoded_bytes == 70 * (8 + 6)
    assert read_header(encode(Image.new("L", (10, 7)), "JPEG", progressive=True)).n_decoded_bytes == 70 * (5 + 2)


def test_an_image_may_take_as_many_pixels_and_bytes_as_the_limits() -> None:
    header = read_header(png_header(8192, 8192))
    assert header.width * header.height == MAX_PIXELS == 1 << 26
    assert header.n_decoded_bytes == MAX_DECODED_BYTES == 1 << 29


def test_a_jpeg_may_have_a_hundred_scans() -> None:
    plain = bomb((16, 16), 0)
    n_own = plain.count(b"\xff\xda")
    assert read_header(bomb((16, 16), 100 - n_own)).format == "jpeg"
    with pytest.raises(BadImageError, match="a JPEG of 101 scans; the limit is 100"):
        read_header(bomb((16, 16), 101 - n_own))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Image.DecompressionBombError("x"), "image_too_large"), (Image.DecompressionBombWarning("x"), "image_too_large"),
        (MemoryError(), "image_too_large"), (UnidentifiedImageError("x at 0x1"), "bad_image"), (EOFError("x"), "truncated_image"),
        (OSError("image file is truncated"), "truncated_image"), (OSError("broken data"), "bad_image"), (IndexError("x"), "bad_image"),
        (BadImageError(Reason.TOO_SLOW, "x"), "too_slow"),
    ],
    ids=lambda value: str(value)[:20] or type(value).__name__,
)  # fmt: skip
def test_every_failure_of_a_decoder_has_its_reason(error: Exception, reason: str) -> None:
    with pytest.raises(BadImageError) as caught, _pillow_faults():
        raise error
    assert caught.value.reason == reason
    assert "0x" not in caught.value.detail


@pytest.mark.parametrize(("size", "box"), [((11, 8), (1, 0)), ((8, 11), (0, 1)), ((8, 8), (0, 0)), ((9, 8), (0, 0))])
def test_the_square_is_centred_and_an_odd_pixel_is_left_out_behind(size: tuple[int, int], box: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    left, top = box
    assert (decode_image(encode(Image.fromarray(pixels)), 8) == pixels[top : top + 8, left : left + 8]).all()


@pytest.mark.parametrize("n_pixels", [1, 5, 37, 60, 1 << 20])
def test_pixels_are_converted_in_strips_of_any_height(n_pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 13, 4), np.uint8)
    image = Image.fromarray(pixels)
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))[:, :12]
    monkeypatch.setattr("alchemist_core.shards.images._STRIP_PIXELS", n_pixels)
    assert (decode_image(encode(image), 12) == expected).all()


def test_a_still_image_that_is_opaque_is_no_animation_and_its_palette_is_read() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    for kind in ("PNG", "GIF"):
        assert not read_header(encode(palette, kind)).is_animated
        assert (decode_image(encode(palette, kind), 8) == [10, 20, 30]).all()


def test_grey_of_16_bits_is_its_high_byte() -> None:
    for level, shown in ((0, 0), (255, 0), (256, 1), (65535, 255)):
        assert (decode_image(encode(Image.fromarray(np.full((8, 8), level, np.uint16))), 8) == shown).all()


def test_a_first_frame_is_known_by_any_channel_that_varies() -> None:
    varied = Image.new("RGB", (8, 8), (0, 7, 7))
    varied.paste((1, 7, 7), (0, 0, 4, 8))
    require_first_frame(encode(varied))
    with pytest.raises(BadImageError) as caught:
        require_first_frame(encode(Image.new("RGB", (8, 8), (0, 7, 9))))
    assert caught.value.reason == "animated_image"


def test_a_smaller_jpeg_than_the_canvas_is_decoded_at_its_own_size() -> None:
    """Reduced decoding would blur: the canvas is twice the rater's side, and at least 256 pixels."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[::2] = 255
    data = encode(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0)
    # A side of 256 needs a canvas of 512, which is the JPEG's own size, so nothing was reduced before the resize.
    whole = Image.open(io.BytesIO(data)).resize((256, 256), Image.Resampling.BICUBIC)
    assert (decode_image(data, 256) == np.asarray(whole)).all()
    half = Image.open(io.BytesIO(data))
    half.draft("RGB", (256, 256))
    assert half.size == (256, 256)
    assert (decode_image(data, 128) == np.asarray(half.resize((128, 128), Image.Resampling.BICUBIC))).all()
    assert (decode_image(data, 64) == np.asarray(half.resize((64, 64), Image.Resampling.BICUBIC))).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_luma_of_an_image_is_one_whatever_the_side_of_its_rater(picture, kind: str) -> None:
    data = picture(kind=kind, size=(700, 600))
    (small, luma), (large, again) = (decode_views(data, side, luma_side=32) for side in (16, 300))
    assert luma is not None
    assert again is not None
    assert (luma.shape, small.shape, large.shape) == ((32, 32), (16, 16, 3), (300, 300, 3))
    assert (luma == again).all()
    assert (small == decode_image(data, 16)).all()
    assert (large == decode_image(data, 300)).all()
    assert decode_views(data, 16)[1] is None


@pytest.mark.parametrize(
    ("size", "box"),
    [((40, 30), (5, 0, 35, 30)), ((40, 60), (0, 10, 40, 50)), ((20, 80), (0, 30, 20, 50)), ((30, 30), (0, 0, 30, 30))],
)
def test_an_image_covers_a_size_by_its_middle(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC, box=box))
    assert (decode_covering(encode(image), 24, 24) == expected).all()


def test_a_cut_that_rounding_puts_beyond_the_edge_begins_at_the_edge() -> None:
    # 49 - 32 / (32 / 49) is a little below 0.
    assert decode_covering(encode(Image.new("RGB", (49, 49), "red")), 32, 32).shape == (32, 32, 3)


def test_an_image_covers_a_wide_and_a_high_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    image = Image.fromarray(pixels)
    for (width, height), box in (((40, 20), (0, 20, 40, 40)), ((20, 40), (5, 0, 35, 60)), ((80, 120), (0, 0, 40, 60))):
        expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))
        assert (decode_covering(encode(image), width, height) == expected).all()


@pytest.mark.parametrize(("size", "shown"), [((400, 200), (100, 50)), ((200, 400), (50, 100)), ((60, 30), (60, 30))])
def test_a_thumbnail_is_the_whole_image_as_a_jpeg_of_at_most_a_side(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    made = Image.open(io.BytesIO(encode_picture(encode(image), 100)))
    assert (made.format, made.size) == ("JPEG", shown)
    left, right = made.getpixel((3, shown[1] // 2)), made.getpixel((shown[0] - 4, shown[1] // 2))
    assert (left[0] > 200 > left[2], right[2] > 200 > right[0]) == (True, True)
