"""Version 1 gives the pixels that it always gave, version 2 those of a smaller decode, and the luma of both is the same."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alchemist_core.shards import images
from alchemist_core.shards.decode_versions import CANVAS_SIDE, DecodeVersion, canvas_side, version_for
from alchemist_core.shards.decoding import DecodeTask, InlineDecoders
from alchemist_core.shards.images import decode_image, decode_views

LUMA_SIDE = 32


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A smooth JPEG of 1,040 by 1,024 pixels with a little noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((1040, 1024), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + rng.integers(-6, 7, (1024, 1040, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def plainly(data: bytes, side: int, canvas: int) -> np.ndarray:
    """What decoding is: reduce the JPEG while it is decoded, cut the middle, scale it."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (canvas, canvas))
    edge = min(image.size)
    left, top = ((length - edge) // 2 for length in image.size)
    square = image.convert("RGB").crop((left, top, left + edge, top + edge))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("side", "canvases"),
    [(16, (256, 256)), (128, (256, 256)), (129, (258, 256)), (256, (512, 256)), (512, (1024, 512))],
)
def test_each_version_has_its_pixels_and_small_sides_have_the_same_in_both(
    photo: bytes, side: int, canvases: tuple[int, int]
) -> None:
    first, second = (decode_image(photo, side, version) for version in (1, 2))
    assert (decode_image(photo, side) == first).all(), "without a version it is the first"
    assert (first == plainly(photo, side, canvases[0])).all()
    assert (second == plainly(photo, side, canvases[1])).all()
    assert (first == second).all() == (side <= 128)
    # They differ only by how the same picture is reduced.
    assert np.abs(first.astype(int) - second).mean() < 2


@pytest.mark.parametrize("side", [16, 128, 129, 200, 256, 384])
def test_the_luma_is_the_same_in_every_version_at_every_side(photo: bytes, side: int) -> None:
    expected = plainly_luma(photo)
    for version in (1, 2):
        _, luma = decode_views(photo, side, version, luma_side=LUMA_SIDE)
        assert luma is not None
        assert (luma == expected).all()


def plainly_luma(data: bytes) -> np.ndarray:
    square = Image.fromarray(plainly(data, 256, CANVAS_SIDE))
    return np.asarray(square.convert("L").resize((LUMA_SIDE, LUMA_SIDE), Image.Resampling.BICUBIC))


def test_other_formats_have_no_reduced_size_and_the_same_pixels_in_both_versions(photo: bytes) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).resize((320, 300)).save(buffer, "PNG", compress_level=1)
    assert (decode_image(buffer.getvalue(), 256, 1) == decode_image(buffer.getvalue(), 256, 2)).all()


@pytest.mark.parametrize(
    ("side", "version", "n_decodes"), [(128, 1, 1), (256, 1, 2), (128, 2, 1), (129, 2, 1), (256, 2, 1), (257, 2, 2)]
)
def test_one_decode_is_enough_for_pixels_and_heuristics_up_to_256_pixels(
    photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, version: DecodeVersion, n_decodes: int
) -> None:
    n_read, read = 0, images._read_square

    def count(data: bytes, canvas: int) -> Image.Image:
        nonlocal n_read
        n_read += 1
        return read(data, canvas)

    monkeypatch.setattr(images, "_read_square", count)
    (tmp_path / "photo").write_bytes(photo)
    ranges, hashes = [(0, len(photo))], [hashlib.sha256(photo).digest()]
    decoders = InlineDecoders(side)
    decoders.submit(DecodeTask(str(tmp_path / "photo"), ranges, hashes, side, [True], version), None)
    (part,) = decoders.wait()
    assert n_read == n_decodes
    assert part.decoded.measure_BM is not None
    assert np.isfinite(part.decoded.measure_BM).all()
    assert (part.image_BHWC[0] == decode_image(photo, side, version)).all()


def sides() -> Iterator[int]:
    yield from (8, 127, 128, 129, 256, 1024)


def test_a_new_rater_gets_the_second_version_where_it_has_other_pixels() -> None:
    assert [version_for(side) for side in sides()] == [1, 1, 1, 2, 2, 2]
    assert [canvas_side(side, 2) for side in sides()] == [256, 256, 256, 256, 256, 1024]
    assert [canvas_side(side, 1) for side in sides()] == [256, 256, 256, 258, 512, 2048]
