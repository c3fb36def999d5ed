"""Perceptual hashes do not change with compression or size, and distinguish shapes and colours."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from alchemist_core.local.scenes import COLOURS, draw_informative
from alchemist_core.selection.duplicates import MAX_DISTANCE, hamming_distance
from alchemist_core.shards.images import PERCEPTUAL_HASH_SIDE, perceptual_hash, perceptual_hash_of
from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.shards.storage import list_shards, open_shard, read_ranges


def oracle(image: Image.Image) -> set[int]:
    """The bits that are set, by the floating-point transform: 48 of brightness, then above and below of each colour difference."""
    raster = np.asarray(image.resize((PERCEPTUAL_HASH_SIDE,) * 2, Image.Resampling.BOX).convert("YCbCr"), np.float64)
    order = sorted((i + j, i, j) for i in range(9) for j in range(9))

    def low(channel: int, shift: float) -> list[float]:
        spectrum = dctn(raster[..., channel] - shift, norm="ortho")
        return [spectrum[i, j] for _, i, j in order]

    bright = np.array(low(0, 0)[1:49])
    off = bright - np.median(bright)
    flags = list(off > 0.15 * np.abs(off).mean())
    for channel in (1, 2):
        lean = np.array(low(channel, 128)[:4])
        flags += [*(lean > 2 * PERCEPTUAL_HASH_SIDE), *(lean < -2 * PERCEPTUAL_HASH_SIDE)]
    return {place for place, flag in enumerate(flags) if flag}


def bits_of(value: int) -> set[int]:
    """The same bits, from the number: three bands, each of every third bit."""
    raw = format(value & (2**64 - 1), "064b")
    order = [place for band in range(3) for place in range(band, 64, 3)]
    return {place for place, bit in zip(order, raw, strict=True) if bit == "1"}


@given(seed=st.integers(0, 2**32 - 1), side=st.sampled_from([2, 3, 5, 8, 32, 50]))
def test_whole_numbers_give_the_transforms_bits(seed: int, side: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    # A value at its limit may fall on either side of it.
    assert len(bits_of(perceptual_hash(image)) ^ oracle(image)) <= 1


def test_a_perceptual_hash_is_the_same_in_every_release() -> None:
    """Stores contain it, and an image that is ingested again keeps it: 0.1.0 gave this number, too."""
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    pixels: NDArray[np.uint8] = np.stack([4 * x, 4 * y, (3 * x + y) % 256], axis=-1).astype(np.uint8)
    assert perceptual_hash(Image.fromarray(pixels)) == 6_291_480


def test_flat_grey_has_no_bits_and_flat_colours_are_distinguished() -> None:
    assert (
        perceptual_hash(Image.new("RGB", (9, 9))) == perceptual_hash(Image.new("RGB", (40, 30), COLOURS["white"])) == 0
    )
    red, green, blue = (perceptual_hash(Image.new("RGB", (40, 30), COLOURS[name])) for name in ("red", "green", "blue"))
    assert min(hamming_distance(red, green), hamming_distance(red, blue), hamming_distance(green, blue)) >= 2


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_same_shapes_in_other_colours_are_other_images_and_compressed_ones_the_same(quality: int) -> None:
    near, far = [], []
    for seed in range(40):
        scene = draw_informative(random.Random(seed), 128).image
        red, green, blue = scene.split()
        near.append(hamming_distance(perceptual_hash(scene), perceptual_hash_of(jpeg(scene, quality))))
        far.append(hamming_distance(perceptual_hash(scene), perceptual_hash(Image.merge("RGB", (blue, red, green)))))
    assert np.mean(np.array(near) <= MAX_DISTANCE) >= 0.9
    assert np.mean(np.array(far) > MAX_DISTANCE) >= 0.8


def jpeg(image: Image.Image, quality: int, scale: float = 1) -> bytes:
    if scale != 1:
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def photographs(real_corpus: Path) -> list[Image.Image]:
    """Every fifth image of a shard."""
    (shard,) = (shard for shard in list_shards(str(real_corpus)) if shard.uri.endswith("000001.tar"))
    with open_shard(shard.uri) as file:
        pairs = list(read_samples(file, shard.size_bytes, Reading(has_perceptual_hash=False)))[::5]
    members = [next(m for m in p.record.files if m.ext in {"jpg", "png"}) for p in pairs if isinstance(p, Sample)]
    data = read_ranges(shard.uri, [(member.offset, member.size) for member in members])
    return [on_white(Image.open(io.BytesIO(each))) for each in data]


def on_white(image: Image.Image) -> Image.Image:
    whole = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")


@pytest.mark.parametrize(("quality", "scale", "share"), [(75, 1, 0.97), (50, 1, 0.94), (85, 0.7, 0.7)])
def test_real_images_are_known_again(photographs: list[Image.Image], quality: int, scale: float, share: float) -> None:
    found = [hamming_distance(perceptual_hash(p), perceptual_hash_of(jpeg(p, quality, scale))) for p in photographs]
    assert np.mean(np.array(found) <= MAX_DISTANCE) >= share


def test_few_real_images_are_grouped_with_a_different_one(photographs: list[Image.Image]) -> None:
    """Icons of one shape do; with brightness gradients alone it was twice as many."""
    hashes = [perceptual_hash(picture) for picture in photographs]
    behind = sum(
        any(hamming_distance(h, other) <= MAX_DISTANCE for other in hashes[:at]) for at, h in enumerate(hashes)
    )
    assert behind <= 0.02 * len(hashes)


@pytest.mark.parametrize(
    ("colour", "n_bits"),
    [
        ((128, 128, 128), 0), ((128, 128, 132), 0), ((128, 128, 134), 1), ((128, 128, 124), 0), ((128, 128, 122), 1),
        ((132, 128, 128), 0), ((134, 128, 128), 1), ((124, 128, 128), 0), ((122, 128, 128), 1),
    ],
)  # fmt: skip
def test_a_colour_within_two_levels_of_grey_sets_no_bit(colour: tuple[int, int, int], n_bits: int) -> None:
    assert len(bits_of(perceptual_hash(Image.new("RGB", (40, 30), colour)))) == n_bits
