"""Why a sample cannot be a member at any rank: one small code per sample."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Exclusion(IntEnum):
    """The first reason that applies; 0 is none. `CAP` and `REJECTED` belong to one selection, all others to a snapshot."""

    CONTAMINATED = 1
    PREDICATE = 2
    DUPLICATE = 3
    CAP = 4
    SEMANTIC_DUPLICATE = 5
    REJECTED = 6

    @property
    def word(self) -> str:
        """Name of the reason in results and reports."""
        return self.name.lower()


EXCLUSIONS = {int(reason): reason.word for reason in Exclusion}


def count_exclusions(excluded_N: NDArray[np.uint8]) -> dict[str, int]:
    """Count the excluded samples by reason; reasons without a sample are left out.

    >>> count_exclusions(np.array([0, 3, 3, 0, 4], np.uint8))
    {'duplicate': 2, 'cap': 1}
    """
    n_by_code = np.bincount(excluded_N, minlength=max(EXCLUSIONS) + 1).tolist()
    return {word: n_by_code[code] for code, word in EXCLUSIONS.items() if n_by_code[code]}
