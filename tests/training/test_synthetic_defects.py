import numpy as np
import pytest

from alchemist_core.training.acceptance_report import chaotic_images, plain_images, shuffled_captions


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


def test_plants_leave_the_clea_images_alone(images: np.ndarray) -> None:
    before = images.copy()
    plain_images(images)
    chaotic_images(images, 0)
    assert (images == before).all()


def test_no_image_keeps_its_own_caption() -> None:
    captions = [str(number) for number in range(50)]
    shuffled = shuffled_captions(captions, 3)
    assert sorted(shuffled) == sorted(captions)
    assert all(own != other for own, other in zip(captions, shuffled, strict=True))


def test_a_mean_colour_is_rounded_to_the_nearest() -> None:
    image = np.array([[[[1, 1, 0], [2, 2, 1], [2, 2, 1]]]], np.uint8)
    assert plain_images(image)[0, 0].tolist() == [[2, 2, 1]] * 3


@pytest.mark.parametrize(("colour", "low", "high"), [(100, 52, 148), (0, 0, 48), (255, 207, 255)])
def test_noise_moves_a_pixel_by_at_most_48_and_never_past_black_or_white(colour: int, low: int, high: int) -> None:
    noisy = chaotic_images(np.full((20, 16, 16, 3), colour, np.uint8), 0)
    assert (noisy.min(), noisy.max()) == (low, high)


def test_a_grid_of_four_by_four_pieces_fills_an_image() -> None:
    """Each piece comes from one image and one place: its columns of noise-free colour would be an image's own."""
    flat = np.broadcast_to(np.array([0, 200], np.uint8)[:, None, None, None], (2, 16, 16, 3))
    is_bright = chaotic_images(flat, 3).astype(int) > 100
    pieces = is_bright.reshape(2, 4, 4, 4, 4, 3).mean((2, 4, 5))
    assert set(pieces.ravel().tolist()) == {0.0, 1.0}


def test_one_caption_stays_and_two_are_exchanged_whatever_the_seed() -> None:
    assert shuffled_captions(["a"], 0) == ["a"]
    assert all(shuffled_captions(["a", "b"], seed) == ["b", "a"] for seed in range(9))
