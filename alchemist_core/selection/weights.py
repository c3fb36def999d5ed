"""How often an epoch reads each member: repeats, and weights by the strategy's density.

A weight is the mean number of times that an epoch reads a member, a multiple of 1/1,024. The weights of a version add up to a whole
number, the size of its epoch. All sums are sums of integers, so every machine reads the same samples.

Letters: K members, E samples that an epoch reads.
"""

from __future__ import annotations

from typing import Literal

from alchemist_core.lazy import NDArray, np
from alchemist_core.selection.keys import Domain, mix64

Fill = Literal["none", "repeat"]
WeightBy = Literal["none", "rank"]
UNIT = 1 << 10
"""Units of a weight of 1. Multiples of a power of two are exact in float64, and so are their sums."""


def repeat_evenly(pair_hash64_K: NDArray[np.int64], epoch_size: int, *, seed: int) -> NDArray[np.float64]:
    """Return weights that repeat members as evenly as possible: whole numbers that differ by at most 1.

    A larger epoch only adds reads: no member loses one.

    >>> repeat_evenly(np.arange(3), 7, seed=0).tolist()
    [2.0, 3.0, 2.0]

    Args:
        pair_hash64_K: First 64 bits of the members' hashes.
        epoch_size: Samples that an epoch reads; at least the number of members.
        seed: Seed that decides which members get the additional read.
    """
    n_whole, n_rest = divmod(epoch_size, len(pair_hash64_K))
    weight_K = np.full(len(pair_hash64_K), n_whole, np.float64)
    noise_K = mix64(Domain.REPEATS, seed, pair_hash64_K)
    weight_K[np.lexsort((pair_hash64_K, noise_K))[:n_rest]] += 1
    return weight_K


def weigh(
    log_density_K: NDArray[np.float64], pair_hash64_K: NDArray[np.int64], epoch_size: int, *, clip: float
) -> NDArray[np.float64]:
    """Return weights in proportion to a density, of which none is more than `clip` times above or below the mean weight.

    The mean weight is epoch_size / K. The factor of the density is the one with which the clipped weights add up to the epoch size;
    they are rounded down to units, and the largest remainders get the missing units.

    >>> weigh(np.log([1.0, 1.0, 2.0]), np.arange(3), 4, clip=4.0).tolist()
    [1.0, 1.0, 2.0]
    >>> weigh(np.array([0.0, -50.0]), np.arange(2), 2, clip=4.0).tolist()
    [1.75, 0.25]

    Args:
        log_density_K: Logarithm of the density at each member's rank, finite.
        pair_hash64_K: First 64 bits of the members' hashes, which order equal remainders.
        epoch_size: Samples that an epoch reads on average; at least the number of members.
        clip: Largest ratio of a weight and the mean weight, in either direction; above 1.
    """
    mean = epoch_size / len(log_density_K)
    weight_K = _clip_to_sum(log_density_K, mean / clip, mean * clip, float(epoch_size))
    unit_K = np.floor(weight_K * UNIT).astype(np.int64)
    n_missing = epoch_size * UNIT - int(unit_K.sum())
    # Rounding of the sum can leave one unit too few or too many for one each.
    n_each, n_rest = divmod(n_missing, len(unit_K))
    unit_K += n_each
    remainder_K = weight_K * UNIT - np.floor(weight_K * UNIT)
    unit_K[np.lexsort((pair_hash64_K, -remainder_K))[:n_rest]] += 1
    return unit_K / UNIT


def _clip_to_sum(log_density_K: NDArray[np.float64], low: float, high: float, total: float) -> NDArray[np.float64]:
    """Return the density times a factor, clipped, such that it adds up to a total.

    The logarithm of the factor is sought: the density itself may be too small for a float64.
    """
    from scipy.optimize import brentq  # noqa: PLC0415  only a selection with weights needs it, no reader of a subset

    def clipped(log_factor: float) -> NDArray[np.float64]:
        return np.exp(np.clip(log_density_K + log_factor, np.log(low), np.log(high)))

    smallest, largest = np.log(low) - log_density_K.max(), np.log(high) - log_density_K.min()
    return clipped(brentq(lambda log_factor: clipped(log_factor).sum() - total, smallest, largest, xtol=1e-15))


def epoch_size_of(weight_K: NDArray[np.float64]) -> int:
    """Return the number of samples that an epoch reads.

    >>> epoch_size_of(np.array([1.75, 0.25, 2.0]))
    4
    """
    return int(_units(weight_K).sum()) // UNIT


def reads_of_epoch(
    weight_K: NDArray[np.float64], id64_K: NDArray[np.int64], *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return how often an epoch reads each member: its weight rounded down or up, on average the weight, in all the epoch's size.

    Systematic sampling: the weights lie one after another on a line, in an order of the epoch's own, and a member is read once for each
    point of a grid of step 1 that its weight covers. The grid's start is drawn.

    >>> [reads_of_epoch(np.array([1.5, 0.25, 0.25, 2.0]), np.arange(4), seed=0, epoch=epoch).tolist() for epoch in range(3)]
    [[1, 0, 1, 2], [1, 0, 1, 2], [2, 0, 0, 2]]

    Args:
        weight_K: Weights.
        id64_K: What identifies a member, for example the first 64 bits of its hash: the reads do not depend on the members' order.
        seed: Seed of the reads.
        epoch: Number of the epoch.

    Source: Madow 1949, systematic sampling with unequal probabilities.
    """
    own_seed, start = mix64(Domain.READS, seed, np.array([2 * epoch, 2 * epoch + 1]))
    order_K = np.lexsort((id64_K, mix64(Domain.READS, int(own_seed), id64_K)))
    reached_K = np.cumsum(_units(weight_K)[order_K]) + int(start % np.uint64(UNIT))
    read_K = np.empty(len(weight_K), np.int64)
    read_K[order_K] = np.diff(reached_K // UNIT, prepend=0)
    return read_K


def _units(weight_K: NDArray[np.float64]) -> NDArray[np.int64]:
    unit_K: NDArray[np.int64] = np.rint(weight_K * UNIT).astype(np.int64)
    return unit_K
