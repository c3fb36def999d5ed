"""How sharp an image is.

Letters: B images · H W luma.
"""

from __future__ import annotations

from alchemist_core.lazy import NDArray, np


def clarity(luma_BHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the variance of the Laplacian: the 4-neighbour one, over the interior, of luma from 0 to 255.

    Source: Pech-Pacheco et al. 2000, Eq. 5, "LAPV" of Pertuz et al. 2013.

    >>> clarity(np.full((1, 8, 8), 7, np.uint8)).tolist()
    [0.0]
    """
    level = luma_BHW.astype(np.int16)
    around = level[:, :-2, 1:-1] + level[:, 2:, 1:-1] + level[:, 1:-1, :-2] + level[:, 1:-1, 2:]
    # Integers until the end: their sums are exact in any order.
    edge = (around - 4 * level[:, 1:-1, 1:-1]).reshape(len(level), -1).astype(np.int32)
    n, total, squares = edge.shape[1], edge.sum(1, dtype=np.int64), (edge * edge).sum(1, dtype=np.int64)
    variance_B: NDArray[np.float32] = ((n * squares - total * total) / (n * n)).astype(np.float32)
    return variance_B
