"""How much of an image is fine detail.

Letters: B images · H W luma.
"""

from __future__ import annotations

from alchemist_core.lazy import NDArray, np

CUT_RATIO = 0.125
"""Cycles per pixel above which detail counts as fine: a quarter of the Nyquist frequency."""


def frequency(luma_BHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the share of the spectrum's energy at frequencies above `CUT_RATIO`, without the mean; flat images have 0.

    Only the columns inside the radius are transformed; by Parseval the rest of the energy is outside.

    Source: Castleman 1996, Digital Image Processing, chapter 10 (energy by radius of the Fourier spectrum).

    >>> stripes = np.tile(np.array([0, 255], np.uint8), (1, 8, 4))
    >>> frequency(stripes).tolist()
    [1.0]
    """
    height, width = luma_BHW.shape[1:]
    n_pixels = height * width
    # Integers until the end: their sums are exact.
    sum_B = luma_BHW.sum((1, 2), dtype=np.int64)
    square_B = np.square(luma_BHW, dtype=np.uint16).sum((1, 2), dtype=np.int64)
    total_B = (n_pixels * square_B - sum_B * sum_B) / n_pixels
    mean_B11 = (sum_B / n_pixels).astype(np.float32)[:, None, None]
    n_columns = int(width * CUT_RATIO) + 1
    column_BHW = np.fft.rfft(luma_BHW - mean_B11, axis=2)[:, :, :n_columns]
    spectrum_BWH = np.fft.fft(np.ascontiguousarray(column_BHW.transpose(0, 2, 1)), axis=2)
    energy_BWH = spectrum_BWH.real.astype(np.float64) ** 2 + spectrum_BWH.imag.astype(np.float64) ** 2
    inside_B = (energy_BWH * _weights(height, width, n_columns)).sum((1, 2)) / n_pixels
    share_B = 1 - inside_B / np.where(total_B > 0, total_B, 1)
    return np.where(total_B > 0, share_B.clip(0, 1), 0).astype(np.float32)


def _weights(height: int, width: int, n_columns: int) -> NDArray[np.float64]:
    """Count each column inside the radius for itself and for its mirror image, which rfft leaves out; the mean's column has none."""
    across_W = np.arange(n_columns) / width
    down_H = np.fft.fftfreq(height)
    is_inside_WH = across_W[:, None] ** 2 + down_H[None, :] ** 2 <= CUT_RATIO**2
    mirrored_W = np.where(across_W == 0, 1.0, 2.0)
    weight_WH: NDArray[np.float64] = np.where(is_inside_WH, mirrored_W[:, None], 0.0)
    return weight_WH
