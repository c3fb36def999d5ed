import numpy as np
import pytest

from alchemist_core.evaluation.planting import chaotic_images, plain_images, shuffled_captions


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 17, 16, 3), np.uint8)


def test_a_plain_image_has_one_colour_its_own_mean(images: np.ndarray) -> None:
    plain = plain_images(images)
    assert (plain == plain[:, :1, :1]).all()
    assert np.abs(plain[:, 0, 0] - images.mean((1, 2))).max() <= 0.5


def test_chaos_comes_from_the_seed_and_from_many_images(images: np.ndarray) -> None:
    flat = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None] * 10, (20, 16, 16, 3))
    chaotic = chaotic_images(flat, 1)
    assert (chaotic == chaotic_images(flat, 1)).all()
    assert (chaotic != chaotic_images(flat, 2)).any()
    patch_means = chaotic.astype(float).reshape(20, 4, 4, 4, 4, 3).mean((2, 4, 5))
    assert patch_means.std((1, 2)).min() > 20  # Within an image the pieces differ, though each source was one colour.


def test_plants_leave_the_clean_images_alone(images: np.ndarray) -> None:
    before = images.copy()
    plain_images(images)
    chaotic_images(images, 0)
    assert (images == before).all()


def test_no_image_keeps_its_own_caption() -> None:
    captions = [str(number) for number in range(50)]
    shuffled = shuffled_captions(captions, 3)
    assert sorted(shuffled) == sorted(captions)
    assert all(own != other for own, other in zip(captions, shuffled, strict=True))
