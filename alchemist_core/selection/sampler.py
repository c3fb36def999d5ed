"""Sampling of members: exactly k distinct samples, those with the k largest keys log p(rank) + noise.

With Gumbel noise this is weighted sampling without replacement (Efraimidis, Spirakis 2006; Gumbel form: Kool et al. 2019). It needs no
state between samples, and a larger k only adds members.

Letters: N eligible samples, K members.
"""

import math

import numpy as np
from numpy.typing import NDArray

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.selection.chunks import map_chunks
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.strategies import Strategy

# The keys of this many evenly spaced samples estimate the k-th largest key.
_PROBE = 1 << 17
_LOWEST = float(np.finfo(np.float64).min)


def retention_to_k(retention: float, n: int) -> int:
    """Return how many of n eligible samples a retention keeps: the nearest integer, and the even one of two equally near.

    >>> retention_to_k(0.2, 12_000)
    2400
    """
    return round(retention * n)


def k_to_retention(k: int, n: int) -> float:
    """Return the largest retention, with at least four digits, that keeps at most k of n: error messages name it, so it must be valid.

    >>> k_to_retention(749_999, 1_000_000), k_to_retention(29, 100), k_to_retention(7, 9_000_000)
    (0.7499, 0.29, 7.777e-07)
    """
    # In integers, because 29 / 100 · 10,000 is slightly below 2,900 in floats.
    parts = 10_000
    while 0 < k * parts < 1_000 * n:
        parts *= 10
    return k * parts // n / parts


def smallest_retention(n: int) -> float:
    """Return the smallest retention, with three digits or more, that keeps one of n: the nearest integer is 1 just above 0.5/n.

    >>> smallest_retention(400), smallest_retention(7)
    (0.001251, 0.0715)
    """
    parts = 10_000
    while parts < 1_000 * n:
        parts *= 10
    return (parts // (2 * n) + 1) / parts


def sample_members(
    rank_N: NDArray[np.float64],
    pair_hash64_N: NDArray[np.int64],
    *,
    k: int,
    strategy: Strategy,
    noise: Noise,
    is_eligible_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the indices of exactly k distinct samples, ascending.

    Of equal keys (equal ranks, for strategies without noise) the smaller hash comes first, so the order of the rows does not
    matter. Only keys near or above the k-th largest are held in memory, so 100 million samples can be streamed.

    Args:
        rank_N: Ranks, 0 to 1.
        pair_hash64_N: First 64 bits of the samples' hashes.
        k: Number of members.
        strategy: Density p over ranks.
        noise: Noise of each key, by seed.
        is_eligible_N: Samples that may be selected; None: all.

    Raises:
        ConfigError: Fewer than k samples have p > 0; the message names the largest possible retention.
        DataError: A rank is NaN.
    """
    if len(rank_N) != len(pair_hash64_N):
        raise DataError(f"{len(rank_N)} ranks do not belong to {len(pair_hash64_N)} samples.")
    keys = Keys(rank_N, pair_hash64_N, strategy, noise, is_eligible_N)
    candidate, key = keys.above(keys.bound(k))
    if len(candidate) < k:
        # The estimate was too high (the order of the samples depends on their ranks), or fewer than k are possible.
        candidate, key = keys.above(_LOWEST)
    n_eligible = len(rank_N) if is_eligible_N is None else int(np.count_nonzero(is_eligible_N))
    require_possible(k, len(candidate), n_eligible, what=f"strategy {strategy.name}")
    return np.sort(candidate[largest(key, pair_hash64_N[candidate], k)])


class Keys:
    """The keys of the eligible samples, computed in chunks on demand."""

    def __init__(
        self,
        rank_N: NDArray[np.float64],
        pair_hash64_N: NDArray[np.int64],
        strategy: Strategy,
        noise: Noise,
        is_eligible_N: NDArray[np.bool_] | None = None,
    ) -> None:
        self._rank_N, self._hash_N, self._is_eligible_N = rank_N, pair_hash64_N, is_eligible_N
        self._strategy, self._noise = strategy, noise

    def at(self, place: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the keys of some samples; −∞ where a sample can never be selected.

        Raises:
            DataError: A rank is NaN.
        """
        rank_N = np.asarray(self._rank_N[place], np.float64)
        # Checked here, because the uniform strategy would give a NaN rank a key.
        if np.isnan(rank_N).any():
            raise DataError("A rank is NaN: every eligible sample needs a finite score.")
        key_N = self._strategy.log_density(rank_N)
        if self._strategy.is_stochastic:
            key_N += self._noise.of(self._hash_N[place])
        if self._is_eligible_N is not None:
            key_N[~self._is_eligible_N[place]] = -np.inf
        return key_N

    def all(self) -> NDArray[np.float64]:
        """Return every sample's key."""
        return np.concatenate([np.empty(0), *map_chunks(self.at, len(self._rank_N))])

    def above(self, low: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the indices of the samples whose keys are at least `low`, ascending, with their keys."""

        def work(chunk: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
            key_N = self.at(chunk)
            found = np.flatnonzero(key_N >= low)
            return found + chunk.start, key_N[found]

        parts = map_chunks(work, len(self._rank_N))
        if not parts:
            return np.empty(0, np.int64), np.empty(0)
        candidates, keys = zip(*parts, strict=True)
        return np.concatenate(candidates), np.concatenate(keys)

    def bound(self, k: int) -> float:
        """Return a key that, by estimate, more than k samples reach: by six standard errors."""
        n = len(self._rank_N)
        if n <= 4 * _PROBE:
            return _LOWEST
        probed = self.at(np.arange(0, n, n // _PROBE))
        n_wanted = k / n * len(probed)
        n_wanted = int(n_wanted + 6 * math.sqrt(n_wanted)) + 6
        if n_wanted >= len(probed):
            return _LOWEST
        return max(_LOWEST, float(np.partition(probed, len(probed) - n_wanted)[len(probed) - n_wanted]))


def largest(key_N: NDArray[np.float64], pair_hash64_N: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the indices of the k largest keys, ascending; of equal keys those with the smaller hash.

    >>> largest(np.array([1.0, 3.0, 1.0, 2.0]), np.array([5, 6, 4, 7]), 3).tolist()
    [1, 2, 3]
    """
    if k == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(key_N, len(key_N) - k)[len(key_N) - k]
    is_member_N = key_N > threshold
    tied = np.flatnonzero(key_N == threshold)
    n_open = k - int(np.count_nonzero(is_member_N))
    is_member_N[tied[np.argsort(pair_hash64_N[tied], kind="stable")[:n_open]]] = True
    return np.flatnonzero(is_member_N)


def require_possible(k: int, n_possible: int, n: int, *, what: str) -> None:
    """Refuse a k that is not possible.

    Args:
        k: Number of members asked for.
        n_possible: Number of samples that can be selected.
        n: Number of eligible samples, of which a retention is a share.
        what: What excludes the others, for the message.

    Raises:
        ConfigError: k is 0, or more than can be selected; the message names the bound.
    """
    if n == 0:
        raise ConfigError("No sample is eligible. Score a shard, and publish its night, before you select.")
    if n_possible == 0:
        raise ConfigError(
            f"{what[0].upper()}{what[1:]} excludes all {n:,} eligible samples. Lower --drop-top-ratio "
            "or --start-rank, or choose another strategy."
        )
    if k < 1:
        raise ConfigError(
            f"This retention keeps none of {n:,} eligible samples. The smallest that keeps one is about {smallest_retention(n):.4g}."
        )
    if k > n_possible:
        raise ConfigError(
            f"{k:,} of {n:,} eligible samples are requested, but {what} can select only {n_possible:,}: the largest possible "
            f"retention is {_shown(k_to_retention(n_possible, n))}. Lower the retention, or pass "
            "--allow-fewer, or --fill repeat to read some samples several times."
        )


def _shown(retention: float) -> str:
    return f"{retention:.4f}" if retention >= 0.1 or retention == 0 else f"{retention:.4g}"


def count_possible(
    rank_N: NDArray[np.float64], strategy: Strategy, is_eligible_N: NDArray[np.bool_] | None = None
) -> int:
    """Count the samples that a strategy can select: eligible ones with p > 0."""

    def work(chunk: slice) -> int:
        is_possible_N = strategy.log_density(np.asarray(rank_N[chunk], np.float64)) > -np.inf
        return int(np.count_nonzero(is_possible_N if is_eligible_N is None else is_possible_N & is_eligible_N[chunk]))

    return sum(map_chunks(work, len(rank_N)))
