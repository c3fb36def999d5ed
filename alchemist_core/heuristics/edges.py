"""How full of edges an image is.

Letters: B images · H W luma · L levels of edge strength.
"""

from __future__ import annotations

from alchemist_core.lazy import NDArray, np

N_LEVELS = 256


def edge_density(luma_BHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the share of interior pixels whose Sobel magnitude lies above Otsu's threshold; flat images have 0.

    Source: Sobel's operator as in Gonzalez and Woods, Digital Image Processing; Otsu 1979, Eq. 18, on 256 levels up to the
    image's own greatest magnitude.

    >>> step = np.zeros((1, 8, 8), np.uint8)
    >>> step[:, :, 4:] = 200
    >>> round(float(edge_density(step)[0]), 3)
    0.333
    """
    level_BM = _strength_levels(luma_BHW)
    n_images, n_pixels = level_BM.shape
    place_BM = level_BM + N_LEVELS * np.arange(n_images)[:, None]
    count_BL = np.bincount(place_BM.ravel(), minlength=n_images * N_LEVELS).reshape(n_images, N_LEVELS)
    threshold_B = otsu_threshold(count_BL)
    above_B = n_pixels - np.take_along_axis(count_BL.cumsum(1), threshold_B[:, None], 1)[:, 0]
    share_B: NDArray[np.float32] = (above_B / n_pixels).astype(np.float32)
    return share_B


def otsu_threshold(count_BL: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the level up to which a histogram's lower class reaches, so that the variance between classes is greatest.

    Source: Otsu 1979, Eqs. 14 and 18; the first of equals.

    >>> otsu_threshold(np.array([[5, 0, 0, 5]])).tolist()
    [0]
    """
    weight_BL = count_BL.cumsum(1).astype(np.float64)
    moment_BL = (count_BL * np.arange(count_BL.shape[1])).cumsum(1).astype(np.float64)
    n_B1, mean_B1 = weight_BL[:, -1:], moment_BL[:, -1:] / weight_BL[:, -1:]
    both_BL = weight_BL * (n_B1 - weight_BL)
    between_BL = (mean_B1 * weight_BL - moment_BL) ** 2 / np.where(both_BL > 0, both_BL, 1)
    best_B: NDArray[np.int64] = between_BL.argmax(1)
    # With a single level nothing is above it.
    return np.where(between_BL.max(1) > 0, best_B, count_BL.shape[1] - 1)


def _strength_levels(luma_BHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    level = luma_BHW.astype(np.int16)
    smooth_down = level[:, :-2] + 2 * level[:, 1:-1] + level[:, 2:]
    smooth_across = level[:, :, :-2] + 2 * level[:, :, 1:-1] + level[:, :, 2:]
    across = (smooth_down[:, :, 2:] - smooth_down[:, :, :-2]).astype(np.float32)
    down = (smooth_across[:, 2:] - smooth_across[:, :-2]).astype(np.float32)
    strength_BM = np.sqrt(across * across + down * down).reshape(len(level), -1)
    greatest_B1 = strength_BM.max(1, keepdims=True)
    scale_B1 = (N_LEVELS - 1) / np.where(greatest_B1 > 0, greatest_B1, 1)
    return (strength_BM * scale_B1).astype(np.int64)
