"""Plants: images made bad on purpose, so that it is known what a rater should think of them.

Letters: N images · H W pixels.
"""

import numpy as np
from jaxtyping import UInt8

_GRID = 4


def plain_images(image_NHW3: UInt8[np.ndarray, "N H W 3"]) -> UInt8[np.ndarray, "N H W 3"]:
    """Fill each image with its own mean colour: the caption stays, what it speaks of is gone.

    >>> plain_images(np.array([[[[0, 0, 0], [10, 20, 30]]]], np.uint8)).tolist()
    [[[[5, 10, 15], [5, 10, 15]]]]
    """
    mean_N113 = image_NHW3.mean((1, 2), keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(mean_N113, image_NHW3.shape).copy()


def chaotic_images(image_NHW3: UInt8[np.ndarray, "N H W 3"], seed: int) -> UInt8[np.ndarray, "N H W 3"]:
    """Fill a grid with pieces of other images, each from a random place, and add noise.

    Args:
        image_NHW3: What the pieces are cut from; sides of at least 4 pixels.
        seed: Draws images, places and noise.
    """
    generator = np.random.default_rng(seed)
    n, height, width, _ = image_NHW3.shape
    tall, wide = height // _GRID, width // _GRID
    chaotic = image_NHW3.copy()
    for row in range(_GRID):
        for column in range(_GRID):
            source_N = generator.integers(0, n, n)
            top, left = generator.integers(0, height - tall + 1), generator.integers(0, width - wide + 1)
            piece_NHW3 = image_NHW3[source_N, top : top + tall, left : left + wide]
            chaotic[:, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = piece_NHW3
    noise = generator.integers(-48, 49, chaotic.shape)
    noisy: UInt8[np.ndarray, "N H W 3"] = np.clip(chaotic.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return noisy


def shuffled_captions(captions: list[str], seed: int) -> list[str]:
    """Give each image another image's caption; a caption that several share may come back to one of them.

    >>> sorted(shuffled_captions(["a", "b", "c"], 0)) == ["a", "b", "c"]
    True
    """
    shift = int(np.random.default_rng(seed).integers(1, len(captions))) if len(captions) > 1 else 0
    return captions[shift:] + captions[:shift]
