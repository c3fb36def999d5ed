"""A set of generated images is complete or absent, and is read as it was written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alchemist_core.errors import DataError
from alchemist_core.metrics.image_sets import (
    SHARD_SIZE,
    ImageSet,
    finish_set,
    is_finished,
    missing_shards,
    read_set,
    write_shard,
)

N_IMAGES = SHARD_SIZE + 3


def some_images(places: range) -> ImageSet:
    pixels = [np.full((4, 4, 3), place % 251, np.uint8) for place in places]
    return ImageSet(
        np.stack(pixels), [f"a prompt, ünquoted {place}" for place in places], [7 + place for place in places]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for places in missing_shards(tmp_path, N_IMAGES):
        write_shard(tmp_path, places, some_images(places))
    finish_set(tmp_path, N_IMAGES, {"first_seed": 7})
    return tmp_path


def test_what_is_read_is_what_was_written_in_order(folder: Path) -> None:
    shards = list(read_set(folder))
    expected = some_images(range(N_IMAGES))
    assert np.array_equal(np.concatenate([shard.image_NHWC for shard in shards]), expected.image_NHWC)
    assert [prompt for shard in shards for prompt in shard.prompts] == expected.prompts
    assert [seed for shard in shards for seed in shard.seeds] == expected.seeds


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    first, second = missing_shards(tmp_path, N_IMAGES)
    write_shard(tmp_path, second, some_images(second))
    assert missing_shards(tmp_path, N_IMAGES) == [first]
    assert not is_finished(tmp_path)
    with pytest.raises(DataError, match="is not complete"):
        next(read_set(tmp_path))


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shard(tmp_path / name, range(5), some_images(range(5)))
    assert (tmp_path / "one" / "000000.tar").read_bytes() == (tmp_path / "two" / "000000.tar").read_bytes()


def test_a_changed_shard_is_refused(folder: Path) -> None:
    write_shard(folder, range(SHARD_SIZE, N_IMAGES), some_images(range(3)))
    with pytest.raises(DataError, match=r"000001\.tar was changed"):
        list(read_set(folder))


def test_a_lost_shard_is_named(folder: Path) -> None:
    (folder / "000001.tar").unlink()
    with pytest.raises(DataError, match=r"000001\.tar is missing"):
        list(read_set(folder))


def test_resizing_is_pillow_s_and_nothing_at_the_same_side() -> None:
    images = some_images(range(2))
    assert images.resized(4) is images.image_NHWC
    larger = images.resized(9)
    assert np.array_equal(
        larger[1], np.asarray(Image.fromarray(images.image_NHWC[1]).resize((9, 9), Image.Resampling.BICUBIC))
    )
