"""The draw: exactly k distinct pairs by the k largest keys, log p(rank) + Gumbel noise.

That is weighted sampling without replacement (Efraimidis, Spirakis 2006; Gumbel form: Kool et al. 2019), it needs no state
between pairs, and a larger k only adds members. Knows nothing of files or the store. Letters: N eligible pairs, K kept.
"""

import math

import numpy as np
from numpy.typing import NDArray

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.selection.keys import Domain, gumbel_noise
from alchemist_core.selection.strategies import Strategy

# Keys are made by chunks that stay in the processor's cache; at once, the temporaries of 30 million need 1.5 GiB.
_CHUNK = 1 << 16


def retention_to_k(retention: float, n: int) -> int:
    """Return how many of n eligible pairs a retention keeps: the nearest whole number, the even one of two equally near.

    >>> retention_to_k(0.2, 12_000)
    2400
    """
    return round(retention * n)


def draw_members(
    rank_N: NDArray[np.float64],
    pair_hash64_N: NDArray[np.int64],
    *,
    k: int,
    strategy: Strategy,
    seed: int,
    domain: Domain = Domain.SELECT,
) -> NDArray[np.int64]:
    """Return the indices of exactly k distinct pairs, ascending.

    Equal keys (equal ranks, where nothing is drawn) go by pair hash, the smaller first; so any order of the same rows keeps
    the same pairs.

    Raises:
        ConfigError: Fewer than k pairs have p > 0; the message names the largest retention that can be had.
        DataError: A rank is NaN.
    """
    if len(rank_N) != len(pair_hash64_N):
        raise DataError(f"{len(rank_N)} ranks do not belong to {len(pair_hash64_N)} pairs.")
    if np.isnan(rank_N).any():
        raise DataError("A rank is NaN: every eligible pair needs a finite score.")
    key_N = np.empty(len(rank_N), np.float64)
    for start in range(0, len(rank_N), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        key_N[chunk] = strategy.log_density(np.asarray(rank_N[chunk], np.float64))
        if strategy.is_drawn:
            key_N[chunk] += gumbel_noise(domain, seed, pair_hash64_N[chunk])
    _require_possible(key_N, k, strategy)
    return _largest(key_N, pair_hash64_N, k)


def _largest(key_N: NDArray[np.float64], pair_hash64_N: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    threshold = np.partition(key_N, len(key_N) - k)[len(key_N) - k]
    is_member_N = key_N > threshold
    tied = np.flatnonzero(key_N == threshold)
    n_open = k - int(np.count_nonzero(is_member_N))
    is_member_N[tied[np.argsort(pair_hash64_N[tied], kind="stable")[:n_open]]] = True
    return np.flatnonzero(is_member_N)


def _require_possible(key_N: NDArray[np.float64], k: int, strategy: Strategy) -> None:
    n, n_possible = len(key_N), int(np.count_nonzero(key_N > -np.inf))
    if n == 0:
        raise ConfigError("No pair is eligible: score a shard, and let its night become selectable, before you select.")
    if k < 1:
        raise ConfigError(
            f"This retention keeps none of {n:,} eligible pairs; the smallest that keeps one is {1 / n:.3g}."
        )
    if k > n_possible:
        # Rounded down, so that the named value is itself accepted.
        largest = math.floor(n_possible / n * 10_000) / 10_000
        raise ConfigError(
            f"{k:,} of {n:,} eligible pairs are asked for, and strategy {strategy.name} can keep only {n_possible:,}: "
            f"the largest possible retention is {largest:.4f}. Lower the retention or the head cut."
        )
