"""Which of several near-duplicates is kept: the sample seen first; every later one belongs to the group of that first sample.

A sample joins the group of the earliest first sample whose near-duplicate it is. Being a near-duplicate is not passed on: every
member of a group is a near-duplicate of its first sample, and no two first samples are near-duplicates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from alchemist_core.lazy import NDArray, np

MAX_DISTANCE = 2
"""Bits of 64 in which the perceptual hashes of near-duplicates may differ; an index of three bands finds all such pairs."""


def hamming_distance(one: int, other: int) -> int:
    """Count the bits in which two 64-bit hashes differ; they may be signed.

    >>> hamming_distance(-1, 0), hamming_distance(0b1011, 0b0001)
    (64, 2)
    """
    return ((one ^ other) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()


def assign_firsts(same_as: Mapping[int, int], near: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return the first sample of every new sample that is not a first sample itself.

    Args:
        same_as: For new samples with the same bytes or hash as an earlier one: that one, or its first sample if it is old.
        near: (new sample, earlier near-duplicate of it); an old earlier sample is a first sample.

    >>> assign_firsts({12: 11}, [(11, 5), (13, 12), (13, 4), (14, 13)])
    {11: 5, 12: 5, 13: 4}
    """
    near_of: dict[int, list[int]] = defaultdict(list)
    for new, earlier in near:
        near_of[new].append(earlier)
    first_of: dict[int, int] = {}
    # In the order of arrival, so that earlier samples are already decided.
    for new in sorted(same_as.keys() | near_of.keys()):
        if new in same_as:
            first_of[new] = first_of.get(same_as[new], same_as[new])
        else:
            firsts = [earlier for earlier in near_of[new] if earlier not in first_of]
            if firsts:
                first_of[new] = min(firsts)
    return first_of


def later_in_group(
    sample_id_N: NDArray[np.int64], first_id_N: NDArray[np.int64], is_eligible_N: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the indices of samples that have an earlier one in their group: all of a group except the one seen first.

    If the first sample of a group may not be selected (taken down, held, of another dataset), the next one takes its place.

    Args:
        sample_id_N: Ids of the samples, in the order in which they were first seen.
        first_id_N: Id of the first sample of each one's group; 0 if it is in no group or is the first itself.
        is_eligible_N: Samples that may be selected as far as all other reasons allow.

    >>> later_in_group(np.array([1, 2, 3, 4]), np.array([0, 1, 9, 9]), np.ones(4, bool)).tolist()
    [1, 3]
    """
    later = np.flatnonzero((first_id_N > 0) & is_eligible_N)
    later = later[np.lexsort((sample_id_N[later], first_id_N[later]))]
    group = first_id_N[later]
    is_next = np.append(True, group[1:] != group[:-1])[: len(group)]
    is_first_there = np.isin(group, sample_id_N[is_eligible_N])
    return np.sort(later[~is_next | is_first_there])


def worse_in_group(
    sample_id_N: NDArray[np.int64],
    first_id_N: NDArray[np.int64],
    is_eligible_N: NDArray[np.bool_],
    score_N: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the indices of samples that are not the best of their group: the highest score, then the one seen first.

    Args:
        sample_id_N: As for `later_in_group`.
        first_id_N: As for `later_in_group`.
        is_eligible_N: As for `later_in_group`.
        score_N: Their scores.

    >>> first_id_N, score_N = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.9, 0.0])
    >>> worse_in_group(np.array([1, 2, 3, 4]), first_id_N, np.ones(4, bool), score_N).tolist()
    [0, 2]
    """
    present = np.flatnonzero(is_eligible_N)
    group = np.where(first_id_N > 0, first_id_N, sample_id_N)[present]
    order = np.lexsort((sample_id_N[present], -score_N[present], group))
    is_best = np.append(True, group[order][1:] != group[order][:-1])[: len(order)]
    return np.sort(present[order[~is_best]])
