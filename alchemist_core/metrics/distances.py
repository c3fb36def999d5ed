"""Distances between generated images and references, and between images and prompts, from features, in float64.

All are functions of arrays.

Letters: N M images · D features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alchemist_core.errors import DataError

Features = Float[np.ndarray, "N D"]


class Gaussian(NamedTuple):
    """Mean and covariance of the features of a set of images, for the Fréchet distance."""

    mean_D: Float[np.ndarray, " D"]
    covariance_DD: Float[np.ndarray, "D D"]


class KernelDistance(NamedTuple):
    """Mean over the random subsets, and the standard deviation of one subset's value."""

    mean: float
    deviation: float


def fit_gaussian(feature_ND: Features) -> Gaussian:
    """Return the mean and the unbiased covariance.

    Raises:
        DataError: Fewer than two images.
    """
    if len(feature_ND) < 2:
        raise DataError(f"{len(feature_ND)} images have no covariance: at least 2 are needed.")
    feature_ND = feature_ND.astype(np.float64)
    return Gaussian(feature_ND.mean(0), np.atleast_2d(np.cov(feature_ND, rowvar=False)))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Return the squared 2-Wasserstein distance of two Gaussians.

    The root of the product of both covariances is replaced by that of a symmetric matrix with the same eigenvalues, which stays
    real if there are fewer images than features.

    Source: Heusel et al. 2017, Eq. 6.

    >>> one, two = (Gaussian(np.array([m]), np.array([[v]])) for m, v in ((0.0, 1.0), (2.0, 9.0)))
    >>> frechet_distance(one, two)
    8.0
    """
    value_D, vector_DD = np.linalg.eigh(first.covariance_DD)
    root_DD = (vector_DD * np.sqrt(value_D.clip(0))) @ vector_DD.T
    inner_D = np.linalg.eigvalsh(root_DD @ second.covariance_DD @ root_DD)
    traces = np.trace(first.covariance_DD) + np.trace(second.covariance_DD) - 2 * np.sqrt(inner_D.clip(0)).sum()
    return float(((first.mean_D - second.mean_D) ** 2).sum() + traces)


def kernel_distance(first_ND: Features, second_MD: Float[np.ndarray, "M D"]) -> float:
    """Return the unbiased squared maximum mean discrepancy under the cubic kernel; it can be negative.

    Source: Bińkowski et al. 2018, Sec. 3 (KID).
    """
    first_ND, second_MD = first_ND.astype(np.float64), second_MD.astype(np.float64)
    return _mean_of_others(first_ND) + _mean_of_others(second_MD) - 2 * float(_kernel(first_ND, second_MD).mean())


def drawn_kernel_distance(
    first_ND: Features, second_MD: Float[np.ndarray, "M D"], *, n_subsets: int, subset_size: int, seed: int = 2020
) -> KernelDistance:
    """Average the kernel distance over random subsets of equal size, as published values of KID do.

    Args:
        first_ND: Features of generated images.
        second_MD: Features of references.
        n_subsets: Number of random subsets.
        subset_size: Images of a subset, from either side.
        seed: Seed of the subsets; the default is that of torch-fidelity.

    Raises:
        DataError: A side has fewer images than a subset.
    """
    if (fewest := min(len(first_ND), len(second_MD))) < subset_size:
        raise DataError(
            f"{fewest} images are fewer than subset_size {subset_size}. Lower subset_size or give more images."
        )
    generator = np.random.RandomState(seed)  # This generator gives the subsets of the published implementation.
    values = []
    for _ in range(n_subsets):
        first_K = generator.choice(len(first_ND), subset_size, replace=False)
        second_K = generator.choice(len(second_MD), subset_size, replace=False)
        values.append(kernel_distance(first_ND[first_K], second_MD[second_K]))
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def clip_score(image_ND: Features, text_ND: Features) -> float:
    """Average the cosine between each image and its own prompt.

    Source: Hessel et al. 2021, Eq. 1.
    Departs: no factor of 2.5 and no cut at 0, as the paper reports it.

    >>> clip_score(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [0.0, -1.0]]))
    0.0
    """
    return float((_unit(image_ND) * _unit(text_ND)).sum(1).mean())


def average_score(clip: float, fid: float) -> float:
    """Return CLIP-Score over FID, the paper's single figure; higher is better.

    Source: Alchemist Fig. 1.

    >>> average_score(0.23, 10.0)
    0.023
    """
    return clip / fid


def _kernel(first_ND: Features, second_MD: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    kernel: np.ndarray = (first_ND @ second_MD.T / first_ND.shape[1] + 1) ** 3
    return kernel


def _mean_of_others(feature_ND: Features) -> float:
    """Average the kernel over all pairs of two different images."""
    kernel_NN, n = _kernel(feature_ND, feature_ND), len(feature_ND)
    return float((kernel_NN.sum() - np.trace(kernel_NN)) / (n * (n - 1)))


def _unit(feature_ND: Features) -> Features:
    feature_ND = feature_ND.astype(np.float64)
    unit_ND: Features = feature_ND / np.linalg.norm(feature_ND, axis=1, keepdims=True)
    return unit_ND
