"""Which of several pictures that look alike is kept: the first seen, and every later one stands behind it.

A pair joins the earliest first pair that it looks like, and never becomes one by way of a third: every member looks like its
first pair, and no two first pairs look alike. Knows hashes and numbers, no store.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE = 2
"""Bits of 64 in which two perceptual hashes may differ; what three bands are sure to find."""


def hamming_distance(one: int, other: int) -> int:
    """Count the bits in which two 64-bit hashes differ; they may be signed.

    >>> hamming_distance(-1, 0), hamming_distance(0b1011, 0b0001)
    (64, 2)
    """
    return ((one ^ other) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()


def assign_firsts(same_as: Mapping[int, int], near: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return the first pair of every new pair that is not first itself.

    Args:
        same_as: For new pairs with the same bytes or the same hash as an earlier one: that one, or its first pair if it is old.
        near: (new pair, earlier pair that looks like it); an old earlier pair is a first pair.

    >>> assign_firsts({12: 11}, [(11, 5), (13, 12), (13, 4), (14, 13)])
    {11: 5, 12: 5, 13: 4}
    """
    looks_like: dict[int, list[int]] = defaultdict(list)
    for new, earlier in near:
        looks_like[new].append(earlier)
    first_of: dict[int, int] = {}
    # In the order in which they came: whoever is earlier has been decided.
    for new in sorted(same_as.keys() | looks_like.keys()):
        if new in same_as:
            first_of[new] = first_of.get(same_as[new], same_as[new])
        else:
            firsts = [earlier for earlier in looks_like[new] if earlier not in first_of]
            if firsts:
                first_of[new] = min(firsts)
    return first_of


def later_in_group(
    sample_id_N: NDArray[np.int64], first_id_N: NDArray[np.int64], is_open_N: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the places of pairs that stand behind another one of their group: all of a group but its first-seen one.

    Where the first pair of a group may not be drawn (taken down, held, of another dataset), the next of its group stands for it.

    Args:
        sample_id_N: Numbers of the pairs, in the order in which they were first seen.
        first_id_N: Number of the first pair of each one's group; 0 where it is in no group or is the first itself.
        is_open_N: Pairs that may be drawn for all other reasons.

    >>> later_in_group(np.array([1, 2, 3, 4]), np.array([0, 1, 9, 9]), np.ones(4, bool)).tolist()
    [1, 3]
    """
    later = np.flatnonzero((first_id_N > 0) & is_open_N)
    later = later[np.lexsort((sample_id_N[later], first_id_N[later]))]
    group = first_id_N[later]
    is_next = np.append(True, group[1:] != group[:-1])[: len(group)]
    is_first_there = np.isin(group, sample_id_N[is_open_N])
    return np.sort(later[~is_next | is_first_there])
