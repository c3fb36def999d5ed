"""Density ratio: the logarithm of a sample's density among validation samples relative to the corpus, on frozen embeddings. No torch.

It is a linear function of an embedding. Letters: N samples of the corpus · M validation samples · D numbers of an embedding ·
K principal components.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError

N_DIMS, PENALTY = 64, 1.0
"""Principal components of a fit, and the weight of its squared coefficients."""
_NEWTON_STEPS = 25
_ONE_IN = 10


class Density(NamedTuple):
    """A fitted ratio."""

    direction_D: NDArray[np.float64]
    offset: float

    def score(self, vector_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the logarithm of the ratio for each embedding, in nats; above 0, it is more frequent among the validation samples."""
        score_N: NDArray[np.float64] = vector_ND.astype(np.float64) @ self.direction_D + self.offset
        return score_N


class DensityRecord(Config):
    """The record in the file of a density ratio: its data, its encoders, and what it gave held-out samples."""

    validation: str = Field(..., description="Validation dataset")
    dataset: str = Field(..., description="Corpus")
    n_validation: int = Field(..., ge=1, description="Validation samples to which it was fitted")
    n_corpus: int = Field(..., ge=1, description="Samples of the corpus to which it was fitted")
    heldout_auc: float = Field(
        ...,
        ge=0,
        le=1,
        description="How often a held-out validation sample scores higher than a held-out sample of the corpus",
    )
    n_dims: int = Field(..., ge=1, description="Number of principal components")
    penalty: float = Field(..., gt=0, description="Weight of the squared coefficients")
    resolution: int = Field(..., ge=32, le=4096, description="Side of the images in pixels")
    encoder_sha256s: tuple[str, ...] = Field(..., description="sha256 of the frozen encoders")


def is_held_out(image_keys: Sequence[bytes]) -> NDArray[np.bool_]:
    """Return which samples are held out of a fit: one image in ten, by its hash, so that no image is on both sides."""
    return np.array([key[-1] % _ONE_IN == 0 for key in image_keys], np.bool_)


def fit_density(
    corpus_ND: NDArray[np.floating],
    validation_MD: NDArray[np.floating],
    *,
    n_dims: int = N_DIMS,
    penalty: float = PENALTY,
) -> Density:
    """Fit the ratio: logistic regression of validation against corpus, on the largest principal components of the embeddings.

    Source: Sugiyama et al. 2012, section 4 (density ratios by a probabilistic classifier); Brown et al. 2020, appendix A (as a filter).

    Args:
        corpus_ND: Embeddings of the corpus.
        validation_MD: Embeddings of the validation dataset.
        n_dims: Number of principal components.
        penalty: Weight of the squared coefficients.
    """
    both = np.concatenate([corpus_ND, validation_MD]).astype(np.float64)
    mean_D, direction_DK = principal_directions(both, n_dims)
    is_validation_N = np.arange(len(both)) >= len(corpus_ND)
    # Each side weighs as much as half of all samples, so that the logit has no offset by the sizes.
    weight_N = np.where(is_validation_N, 0.5 / len(validation_MD), 0.5 / len(corpus_ND)) * len(both)
    *slope_K, offset = fit_logistic((both - mean_D) @ direction_DK, is_validation_N, weight_N, penalty=penalty)
    direction_D = direction_DK @ np.array(slope_K)
    return Density(direction_D, float(offset - mean_D @ direction_D))


def principal_directions(
    vector_ND: NDArray[np.float64], n_dims: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean, and the directions of the largest principal components, scaled so that each component has variance 1.

    Directions without variance are left out.
    """
    mean_D = vector_ND.mean(axis=0)
    centred_ND = vector_ND - mean_D
    variance_D, direction_DD = np.linalg.eigh(centred_ND.T @ centred_ND / len(centred_ND))
    chosen = np.flatnonzero(variance_D > variance_D[-1] * 1e-9)[::-1][:n_dims]
    return mean_D, direction_DD[:, chosen] / np.sqrt(variance_D[chosen])


def fit_logistic(
    feature_ND: NDArray[np.float64], is_positive_N: NDArray[np.bool_], weight_N: NDArray[np.float64], *, penalty: float
) -> NDArray[np.float64]:
    """Return the coefficients of a penalised logistic regression, the offset last, by Newton's method.

    Source: Hastie, Tibshirani and Friedman 2009, Eq. 4.26 (iteratively reweighted least squares).
    """
    design_ND = _with_one(feature_ND)
    ridge_D = np.full(design_ND.shape[1], penalty)
    ridge_D[-1] = 0
    coefficient_D = np.zeros(design_ND.shape[1])
    for _ in range(_NEWTON_STEPS):
        probability_N = 1 / (1 + np.exp(-np.clip(design_ND @ coefficient_D, -30, 30)))
        gradient_D = design_ND.T @ (weight_N * (probability_N - is_positive_N)) + ridge_D * coefficient_D
        curvature_N = np.maximum(weight_N * probability_N * (1 - probability_N), 1e-12)
        step_D = np.linalg.solve((design_ND.T * curvature_N) @ design_ND + np.diag(ridge_D), gradient_D)
        coefficient_D -= step_D
        if np.abs(step_D).max() < 1e-10:
            break
    return coefficient_D


def _with_one(feature_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([feature_ND, np.ones((len(feature_ND), 1))], axis=1)


def pack_density(density: Density, record: DensityRecord) -> bytes:
    """Return the file of a density ratio; equal ones give equal bytes."""
    from safetensors.numpy import save  # noqa: PLC0415  only when there is one to write

    tensors = {"direction": np.ascontiguousarray(density.direction_D), "offset": np.array([density.offset])}
    return save(tensors, {"record": json.dumps(record.as_json(), sort_keys=True)})


def load_density(path: Path) -> tuple[Density, DensityRecord]:
    """Read a density ratio and its record.

    Raises:
        ConfigError: The file does not hold one.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  as above

    try:
        with safe_open(path, framework="np") as file:
            record = DensityRecord.from_stored(json.loads(file.metadata()["record"]))
            return Density(file.get_tensor("direction"), float(file.get_tensor("offset")[0])), record
    except (OSError, LookupError, TypeError, ValueError, ValidationError, SafetensorError) as error:
        raise ConfigError(
            f"{path} does not hold a density ratio: {error}. Train one with alchemist scorer train NAME --kind density."
        ) from error
