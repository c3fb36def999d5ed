"""A picture's fingerprint: 64 bits that stay when it is compressed or resized, and differ for other shapes or other colours.

48 bits say which low frequencies of the brightness lie above their median (a perceptual hash by discrete cosine transform, Zauner 2010,
"Implementation and benchmarking of perceptual image hash functions"), 16 bits where the two colour differences lean. Whole numbers all
the way: the same pixels give the same bits on every machine. Knows no file format.

Letters: S side of the raster · U frequencies a direction · K frequencies chosen.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FINGERPRINT_SIDE = 32
"""Pixels a side that a picture is brought to, whatever its shape."""
_N_BRIGHTNESS, _N_COLOUR = 48, 4
# Frequencies by their sum: (0, 0) is the mean.
_FREQUENCY_U2 = np.array(sorted((i + j, i, j) for i in range(9) for j in range(9)))[:, 1:]
# 4096 times the orthonormal transform.
_COSINE_US = np.round(
    1024
    * np.cos(np.pi / (2 * FINGERPRINT_SIDE) * np.outer(np.arange(9), 2 * np.arange(FINGERPRINT_SIDE) + 1))
    * np.where(np.arange(9) == 0, np.sqrt(0.5), 1)[:, None]
).astype(np.int64)
# What compression adds to a flat direction, or to grey, must set no bit: a share of the mean distance from the median; levels of 255.
_DEAD_SHARE, _DEAD_LEVELS = (3, 20), 2


def fingerprint(image: Image.Image) -> int:
    """Return 64 bits, signed; pictures that look alike differ in few of them.

    Flat pictures have no brightness bits: group them by it only together with something else.

    Args:
        image: RGB, of any size.
    """
    raster = image.resize((FINGERPRINT_SIDE, FINGERPRINT_SIDE), Image.Resampling.BOX).convert("YCbCr")
    y_SS, *colours_SS = (np.asarray(channel, np.int64) for channel in raster.split())
    bits = [_above_median(_transform(y_SS)[1 : _N_BRIGHTNESS + 1])]
    for colour_SS in colours_SS:
        lean_K = _transform(colour_SS - 128)[:_N_COLOUR]
        limit = _DEAD_LEVELS * FINGERPRINT_SIDE * 4096**2
        bits += [lean_K > limit, lean_K < -limit]
    return int.from_bytes(np.packbits(_spread(np.concatenate(bits))).tobytes(), "big", signed=True)


def _transform(level_SS: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the lowest frequencies in their order."""
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
    """Deal the bits out to the three bands by which lookalikes are found, so that no band is one of colour alone."""
    return np.concatenate([bit_K[band::3] for band in range(3)])
