"""What a draw did to the distribution of ranks, beside what its strategy asked for: the figures of preview and report.

Knows nothing of pages or files. Letters: N eligible pairs, K kept, R bins of rank.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alchemist_core.selection.strategies import Strategy

# Ranks are looked at on a grid this fine: the curve of 30 million pairs then costs one histogram.
_GRID = 4_000


@dataclass(frozen=True, slots=True, eq=False)
class SelectionCurve:
    """Shares of a pool that are kept, by equal bins of rank from 0 (highest score) to 1."""

    n_pool: NDArray[np.int64]
    n_kept: NDArray[np.int64]
    # The strategy's density scaled to the retention: above 1 where it wants more pairs than there are.
    target: NDArray[np.float64]
    # What drawing without replacement gives on average: the target where that is small, never above 1.
    expected: NDArray[np.float64]

    @property
    def kept_share(self) -> NDArray[np.float64]:
        """Return the realised share of each bin; 0 where the pool has no pair."""
        return np.divide(self.n_kept, np.maximum(self.n_pool, 1), dtype=np.float64)

    @property
    def is_saturated(self) -> bool:
        """Tell whether the retention is so large that the draw cannot follow the target (by more than a twentieth)."""
        return bool(np.abs(self.target - self.expected).max() > 0.05)


def selection_curve(
    rank_N: NDArray[np.float64], member_K: NDArray[np.int64], *, strategy: Strategy, n_bins: int = 40
) -> SelectionCurve:
    """Bin the ranks of a pool and of the members drawn from it, with the strategy's target and expectation.

    Args:
        rank_N: Ranks of the pool, 0 to 1.
        member_K: Indices that were drawn.
        strategy: What drew them.
        n_bins: Bins of rank; must divide 4,000.
    """
    n_pool_G = _histogram(rank_N, _GRID)
    target_G, expected_G = _shares(strategy, n_pool_G, len(member_K))

    n_kept_R = _histogram(rank_N[member_K], n_bins)
    n_pool_R = np.sum(n_pool_G.reshape(n_bins, -1), axis=1)
    target_R, expected_R = (_mean_by_bin(share_G, n_pool_G, n_bins) for share_G in (target_G, expected_G))
    return SelectionCurve(n_pool_R, n_kept_R, target_R, expected_R)


def inclusion_rate(weight_G: NDArray[np.float64], n_pool_G: NDArray[np.int64], k: int) -> float:
    """Solve Σ n (1 − exp(−t·weight)) = k for t, by bisection: the chance of a pair to be kept is then 1 − exp(−t·p)."""
    low, high = 0.0, 1.0
    while _expected_count(weight_G, n_pool_G, high) < k and high < 1e300:
        low, high = high, high * 2
    for _ in range(100):
        middle = (low + high) / 2
        if _expected_count(weight_G, n_pool_G, middle) < k:
            low = middle
        else:
            high = middle
    return high


def _mean_by_bin(share_G: NDArray[np.float64], n_pool_G: NDArray[np.int64], n_bins: int) -> NDArray[np.float64]:
    """Average shares over the pairs of each bin; 0 where it has none."""
    n_RG = n_pool_G.reshape(n_bins, -1)
    share_R: NDArray[np.float64] = (share_G.reshape(n_bins, -1) * n_RG).sum(axis=1) / np.maximum(n_RG.sum(axis=1), 1)
    return share_R


def _expected_count(weight_G: NDArray[np.float64], n_pool_G: NDArray[np.int64], t: float) -> float:
    return float(np.sum(n_pool_G * -np.expm1(-t * weight_G)))


def _histogram(rank_N: NDArray[np.float64], n_bins: int) -> NDArray[np.int64]:
    return np.histogram(rank_N, n_bins, (0.0, 1.0))[0].astype(np.int64)


def _shares(strategy: Strategy, n_pool_G: NDArray[np.int64], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rank_G = (np.arange(_GRID) + 0.5) / _GRID
    log_density_G = strategy.log_density(rank_G)
    if not strategy.is_drawn:
        # In the order of rank each bin is kept whole until k is reached.
        wanted_G = np.where(log_density_G > -np.inf, n_pool_G, 0)
        open_G = np.clip(k - (np.cumsum(wanted_G) - wanted_G), 0, wanted_G)
        share_G = open_G / np.maximum(n_pool_G, 1)
        return share_G, share_G
    weight_G = np.exp(log_density_G - log_density_G.max())
    total = float(np.sum(n_pool_G * weight_G))
    expected_G = -np.expm1(-inclusion_rate(weight_G, n_pool_G, k) * weight_G)
    return k * weight_G / total if total > 0 else weight_G, expected_G
