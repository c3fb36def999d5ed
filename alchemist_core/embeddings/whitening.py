"""Whitening: a linear map after which embeddings of different images have a cosine near 0.

Most encoders put all images near one common direction, and spend most of the remaining variance on a few others. Cosines of different
images are high then, and a crop can be farther from its original than two images of one kind are from each other. Without the mean, and
with each principal component divided by its standard deviation, every component counts the same.

Letters: N embeddings that it is fitted on · B embeddings of a block · D numbers of an embedding.

Source: Jégou and Chum 2012, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening", Section 3.
Departs: no component is left out; a ridge keeps the small ones small instead. Copies are left out of the fit: an image that a crawl holds
a thousand times would be a principal component of its own, which is then made small, and what is left of its copies is noise.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RIDGE = 3e-3
"""Part of the largest variance that is added to each one: components far below it are noise, of a small sample or of rounding."""
MIN_ROWS = 1000
"""Different embeddings that a fit needs."""
MIN_DIM = 128
"""Numbers of an embedding below which the default is no whitening: cosines of unrelated ones vary by 1 over the root of their number."""
MAX_ROWS = 8192
"""Embeddings that a fit should use at most: 84 MB of 1,280 float64 numbers each."""
COPY = 0.95
"""Cosine of two centred embeddings from which the later one is left out of the fit."""
MIN_VARIANCE = 1e-6
"""Variance of the first component of embeddings of length 1 below which they differ by little more than the rounding of fp16."""
_TILE = 1024


class Whitening(NamedTuple):
    """The mean that is subtracted, and the map to components of about the same variance."""

    mean_D: NDArray[np.float32]
    map_DD: NDArray[np.float32]

    def apply(self, unit_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return whitened embeddings of length 1; an embedding of zeros stays zero, and so does the mean."""
        white_BD = to_unit_length(np.asarray((unit_BD - self.mean_D) @ self.map_DD, np.float32))
        white_BD[~unit_BD.any(axis=1)] = 0
        return white_BD


def fit_whitening(unit_ND: NDArray[np.float32]) -> Whitening | None:
    """Return the whitening of embeddings of length 1; None if fewer than `MIN_ROWS` are different, or all are nearly equal."""
    unit_ND = unit_ND[_is_no_copy(unit_ND)]
    return _fit(unit_ND) if len(unit_ND) >= MIN_ROWS else None


def _fit(unit_ND: NDArray[np.float32]) -> Whitening | None:
    mean_D = unit_ND.mean(axis=0, dtype=np.float64)
    centred_ND = unit_ND - mean_D
    variance_D, direction_DD = np.linalg.eigh(centred_ND.T @ centred_ND / len(centred_ND))
    # eigh returns the largest last; one of 0 may be slightly below it.
    if variance_D[-1] < MIN_VARIANCE:
        return None
    map_DD = direction_DD / np.sqrt(variance_D.clip(0) + RIDGE * variance_D[-1])
    return Whitening(mean_D.astype(np.float32), map_DD.astype(np.float32))


def _is_no_copy(unit_ND: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which embeddings are near none before them, without the direction that all have in common."""
    centred_ND = to_unit_length(unit_ND - unit_ND.mean(axis=0))
    is_kept_N = np.ones(len(unit_ND), np.bool_)
    for start in range(0, len(unit_ND), _TILE):
        part = slice(start, start + _TILE)
        is_near = centred_ND[part] @ centred_ND[: start + _TILE].T >= COPY
        is_kept_N[part] = ~np.tril(is_near, start - 1).any(axis=1)
    return is_kept_N


def to_unit_length(vector_BD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each vector by its length, in place; a vector of zeros stays zero."""
    length_B1 = np.linalg.norm(vector_BD, axis=1, keepdims=True)
    vector_BD /= np.where(length_B1 > 0, length_B1, 1)
    return vector_BD
