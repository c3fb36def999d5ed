"""Semantic duplicates one by one, in the order of ids: a sample joins the earliest first sample that is near it."""

import numpy as np


def oracle_semantic(vector_ND: np.ndarray, threshold: float) -> dict[int, int]:
    """Return the first sample of each semantic duplicate, by their rows; every pair is compared, in float64."""
    unit_ND = vector_ND.astype(np.float64)
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    firsts: list[int] = []
    first_of: dict[int, int] = {}
    for row in range(len(unit_ND)):
        near = [first for first in firsts if unit_ND[first] @ unit_ND[row] >= threshold]
        if near:
            first_of[row] = near[0]
        else:
            firsts.append(row)
    return first_of
