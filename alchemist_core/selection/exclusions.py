"""Why a pair may not be a member whatever its rank: one small code a pair."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Exclusion(IntEnum):
    """The first reason that applies; 0 is none. All but `CAP` are part of a snapshot, `CAP` is of one draw."""

    CONTAMINATED = 1
    PREDICATE = 2
    DUPLICATE = 3
    CAP = 4

    @property
    def word(self) -> str:
        """Return what people read."""
        return self.name.lower()


EXCLUSIONS = {int(reason): reason.word for reason in Exclusion}


def count_exclusions(excluded_N: NDArray[np.uint8]) -> dict[str, int]:
    """Count what was left out, by reason; reasons without a pair are not named.

    >>> count_exclusions(np.array([0, 3, 3, 0, 4], np.uint8))
    {'duplicate': 2, 'cap': 1}
    """
    n_by_code = np.bincount(excluded_N, minlength=max(EXCLUSIONS) + 1).tolist()
    return {word: n_by_code[code] for code, word in EXCLUSIONS.items() if n_by_code[code]}
