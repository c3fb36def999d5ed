import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from alchemist_core.data.images import (
    BadImageError,
    decode_image,
    encode_first_frame,
    hash_perceptually,
    read_header,
    require_first_frame,
)


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


def test_a_picture_at_its_own_size_is_not_touched(picture) -> None:
    data = picture(size=(16, 16))
    assert (decode_image(data, 16) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_transparent_pixels_are_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    palette = Image.new("P", (8, 8), 0)
    assert (decode_image(encode(clear), 8) == 255).all()
    assert (decode_image(encode(clear.convert("LA")), 8) == 255).all()
    assert (decode_image(encode(palette, transparency=0), 8) == 255).all()


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
    assert (decode_image(still, 8) == decode_image(data, 8)).all()


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


def test_a_picture_without_area_is_refused() -> None:
    with pytest.raises(BadImageError):
        read_header(png_header(0, 5))


def test_floating_point_pixels_are_refused() -> None:
    assert reason_of(encode(Image.new("F", (8, 8), 0.5), "TIFF")) == "unsupported_pixels"


def test_fingerprints_are_near_for_likeness_and_far_for_difference() -> None:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((128, 128)) for _ in range(2)]
    same = hash_perceptually(encode(coarse[0])) ^ hash_perceptually(encode(coarse[0].resize((96, 96)), "JPEG"))
    other = hash_perceptually(encode(coarse[0])) ^ hash_perceptually(encode(coarse[1]))
    assert (same & (2**64 - 1)).bit_count() <= 8
    assert (other & (2**64 - 1)).bit_count() >= 16
    assert all(-(2**63) <= hash_perceptually(encode(image)) < 2**63 for image in coarse)


def test_decoding_twice_gives_the_same_pixels(picture) -> None:
    data = picture(kind="JPEG", size=(300, 200))
    assert (decode_image(data, 64) == decode_image(data, 64)).all()


def test_every_cut_of_a_picture_is_refused_or_decoded(picture) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = picture(kind=kind)
        for cut in range(0, len(data), 7):
            with suppress(BadImageError):
                assert decode_image(data[:cut], 8).shape == (8, 8, 3)
