"""Whitening by a singular value decomposition of the centred embeddings, in float64, without a covariance matrix."""

import numpy as np


def oracle_whitened(vector_ND: np.ndarray, other_BD: np.ndarray, ridge: float) -> np.ndarray:
    """Return other embeddings with length 1, whitened by the mean and the principal components of the first ones."""
    unit_ND = vector_ND / np.linalg.norm(vector_ND.astype(np.float64), axis=1, keepdims=True)
    unit_BD = other_BD / np.linalg.norm(other_BD.astype(np.float64), axis=1, keepdims=True)
    mean_D = sum(unit_ND) / len(unit_ND)
    _, length_D, direction_DD = np.linalg.svd(unit_ND - mean_D, full_matrices=False)
    variance_D = length_D**2 / len(unit_ND)
    white = []
    for unit_D in unit_BD:
        part_D = [
            direction_DD[at] @ (unit_D - mean_D) / np.sqrt(variance_D[at] + ridge * variance_D[0])
            for at in range(len(length_D))
        ]
        white.append(np.array(part_D) / np.linalg.norm(part_D))
    return np.array(white)
