"""How many members each group gets: strata by Sainte-Laguë's divisors, caps that hold at every size of the subset, and variety.

When k grows, all three only add members, so subsets stay nested; largest remainders do not.

Letters: G groups, N samples.
"""

from collections.abc import Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from alchemist_core.selection.sampler import largest


def divide_seats(weight_G: Sequence[int], available_G: Sequence[int], k: int) -> list[int]:
    """Divide k seats among groups by Sainte-Laguë: a seat goes to the largest weight / (2·seats + 1) among groups with samples left.

    >>> divide_seats([53, 24, 23], [100, 100, 100], 7)
    [3, 2, 2]
    >>> divide_seats([53, 24, 23], [1, 100, 100], 7)
    [1, 3, 3]

    Args:
        weight_G: Eligible samples of each group; shares are proportional to it.
        available_G: Samples that each group has; a group without samples left passes its seats to the others.
        k: Seats; at most the sum of `available_G`.
    """
    low, high = 0.0, 1.0
    while high < 1e18 and sum(_seats(weight_G, available_G, high)) < k:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_seats(weight_G, available_G, middle)) <= k else (low, middle)
    # Slightly less, so that rounding assigns no seat too early; the last few seats are assigned by exact quotients.
    seat_G = _seats(weight_G, available_G, low * (1 - 1e-9))
    # A heap, because thousands of equal clusters tie for these seats.
    waiting = [(-Fraction(weight_G[g], 2 * n + 1), g) for g, n in enumerate(seat_G) if n < available_G[g]]
    heapify(waiting)
    for _ in range(k - sum(seat_G)):
        _, winner = heappop(waiting)
        seat_G[winner] += 1
        if seat_G[winner] < available_G[winner]:
            heappush(waiting, (-Fraction(weight_G[winner], 2 * seat_G[winner] + 1), winner))
    return seat_G


def _seats(weight_G: Sequence[int], available_G: Sequence[int], divisor: float) -> list[int]:
    return [min(n, int(weight * divisor + 0.5)) for weight, n in zip(weight_G, available_G, strict=True)]


def largest_capped(available_G: NDArray[np.int64], max_share: float, n_free: int = 0) -> int:
    """Return the size of the largest subset in which, at this and every smaller size, no group exceeds its share.

    >>> largest_capped(np.array([1000, 10, 10]), 0.5), largest_capped(np.array([1000, 10]), 0.3, n_free=40)
    (41, 72)

    Args:
        available_G: Samples of each capped group.
        max_share: Largest share of the subset, above 0.
        n_free: Samples that belong to no group and are not capped.
    """
    share = Fraction(str(max_share))
    low, high = 0, max(int(available_G.max(initial=0)), int((int(available_G.sum()) + n_free) * share)) + 1
    while low < high:
        middle = (low + high + 1) // 2
        is_reached = _n_under(available_G, middle, n_free) * share >= middle
        low, high = (middle, high) if is_reached else (low, middle - 1)
    # Up to this limit every size has enough samples. Rounding allows a few more limits: advance until one has too few.
    while _n_under(available_G, low, n_free) >= int(low / share):
        low += 1
    return _n_under(available_G, low, n_free)


def _n_under(available_G: NDArray[np.int64], limit: int, n_free: int) -> int:
    return int(np.minimum(available_G, limit).sum()) + n_free


def draw_capped(
    key_N: NDArray[np.float64],
    pair_hash64_N: NDArray[np.int64],
    group_N: NDArray[np.int64],
    *,
    k: int,
    max_share: float,
) -> NDArray[np.int64]:
    """Return the indices of k members by their keys, at most ceil(max_share·k) of one group; group 0 is not capped.

    The definition is sequential: members are taken in the order of keys, and a group that has its share of those taken so far waits
    until it has room. Members stay, so a larger k only adds. When the limit of all groups grows from u − 1 to u, at
    h = ⌊(u − 1) / share⌋ members, waiting samples come first. So the result is the h best under the limit u − 1, and then the best
    under u.

    Args:
        key_N: Keys of the samples that may be selected.
        pair_hash64_N: Their hashes, which order equal keys.
        group_N: Group of each.
        k: Number of members; at most `largest_capped`.
        max_share: Largest share of any group.
    """
    share = Fraction(str(max_share))
    limit = -int(-k * share // 1)
    place_N = _place_in_group(key_N, pair_hash64_N, group_N)
    before = _best_under(key_N, pair_hash64_N, place_N < limit - 1, int((limit - 1) / share))
    is_eligible_N = place_N < limit
    is_eligible_N[before] = False
    after = _best_under(key_N, pair_hash64_N, is_eligible_N, k - len(before))
    return np.sort(np.concatenate([before, after]))


def vary(
    key_N: NDArray[np.float64], pair_hash64_N: NDArray[np.int64], group_N: NDArray[np.int64], *, strength: float
) -> NDArray[np.float64]:
    """Return keys by which groups take turns, more or less: the larger the strength, the more alike are the groups' shares.

    There are two orders: that of the keys, and that in which the groups take turns (the best sample of each group, then the second of
    each, and so on; within a turn by the keys). A new key is minus the weighted mean of a sample's places in both orders. With strength 0
    it is the order of the keys; with 1 each group has as many members as any other, as far as it has samples.

    >>> vary(np.array([4.0, 3.0, 2.0, 1.0]), np.arange(4), np.array([1, 1, 1, 2]), strength=1.0).tolist()
    [-0.0, -2.0, -3.0, -1.0]

    Args:
        key_N: Keys of the samples that may be selected.
        pair_hash64_N: Their hashes, which order equal keys.
        group_N: Group of each; all that have none are one group.
        strength: 0 to 1.
    """
    turn_N = _place_in_group(key_N, pair_hash64_N, group_N + 1 - group_N.min(initial=0))
    by_key_N = _places(np.lexsort((pair_hash64_N, -key_N)))
    by_turn_N = _places(np.lexsort((pair_hash64_N, -key_N, turn_N)))
    return -((1 - strength) * by_key_N + strength * by_turn_N)


def _places(order_N: NDArray[np.int64]) -> NDArray[np.float64]:
    place_N = np.empty(len(order_N))
    place_N[order_N] = np.arange(len(order_N))
    return place_N


def _best_under(
    key_N: NDArray[np.float64], pair_hash64_N: NDArray[np.int64], is_eligible_N: NDArray[np.bool_], k: int
) -> NDArray[np.int64]:
    open_N = np.flatnonzero(is_eligible_N)
    return open_N[largest(key_N[open_N], pair_hash64_N[open_N], min(k, len(open_N)))]


def _place_in_group(
    key_N: NDArray[np.float64], pair_hash64_N: NDArray[np.int64], group_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many of its group come before each sample; −1 for group 0, which is never full."""
    order_N = np.lexsort((pair_hash64_N, -key_N, group_N))
    sorted_N = group_N[order_N]
    is_first_N = np.append(True, sorted_N[1:] != sorted_N[:-1])[: len(sorted_N)]
    first_N = np.maximum.accumulate(np.where(is_first_N, np.arange(len(sorted_N)), 0))
    place_N = np.empty(len(sorted_N), np.int64)
    place_N[order_N] = np.arange(len(sorted_N)) - first_N
    place_N[group_N == 0] = -1
    return place_N
