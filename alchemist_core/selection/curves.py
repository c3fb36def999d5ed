"""The distribution of ranks that a selection has, compared with its strategy's target: for preview and report.

Letters: N eligible samples, K selected, R bins of rank, G bins of a fine grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alchemist_core.lazy import NDArray, np
from alchemist_core.selection.chunks import map_chunks
from alchemist_core.selection.keys import PRank
from alchemist_core.selection.strategies import Strategy

# Ranks are counted on a grid, so that the curve of 30 million samples costs one histogram.
_GRID = 4_000


@dataclass(frozen=True, slots=True, eq=False)
class SelectionCurve:
    """Share of the eligible samples that are selected, by equal bins of rank from 0 (highest score) to 1."""

    n_pool: NDArray[np.int64]
    n_kept: NDArray[np.int64]
    # The strategy's density scaled to the retention: above 1 where it asks for more samples than there are.
    target: NDArray[np.float64]
    # The average over seeds: close to the target where the target is small, never above 1.
    expected: NDArray[np.float64]

    @property
    def kept_share(self) -> NDArray[np.float64]:
        """The selected share of each bin; 0 where the bin has no eligible sample."""
        return np.divide(self.n_kept, np.maximum(self.n_pool, 1), dtype=np.float64)

    @property
    def is_saturated(self) -> bool:
        """Whether the retention is too large for the target: target and expectation differ by more than 0.05."""
        return self.largest_gap > 0.05

    @property
    def largest_gap(self) -> float:
        """The largest difference between target and expected share."""
        return float(np.abs(self.target - self.expected).max(initial=0.0))

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        shares = {name: np.round(getattr(self, name), 6).tolist() for name in ("target", "expected")}
        counts = {name: getattr(self, name).tolist() for name in ("n_pool", "n_kept")}
        return {**counts, **shares, "is_saturated": self.is_saturated}


def read_curve(stored: dict[str, Any]) -> SelectionCurve:
    """Read a curve that `as_json` returned."""
    n_pool, n_kept = (np.array(stored[name], np.int64) for name in ("n_pool", "n_kept"))
    return SelectionCurve(n_pool, n_kept, *(np.array(stored[name], np.float64) for name in ("target", "expected")))


def selection_curve(  # noqa: PLR0913  each shapes the curve
    rank_N: NDArray[np.float64],
    member_K: NDArray[np.int64],
    *,
    strategy: Strategy,
    p_rank: PRank = "per-draw",
    is_eligible_N: NDArray[np.bool_] | None = None,
    is_accepted_N: NDArray[np.bool_] | None = None,
    n_bins: int = 40,
) -> SelectionCurve:
    """Bin the ranks of the eligible samples and of the members, with the strategy's target and expectation.

    Args:
        rank_N: Ranks of the eligible samples, 0 to 1.
        member_K: Indices of the members.
        strategy: Strategy of the selection.
        p_rank: Meaning of p(rank), as in `keys.Noise`.
        is_eligible_N: Samples that are counted; None: all.
        is_accepted_N: The eligible samples that reach the policy's threshold, so that they alone can be selected; None: all of them.
        n_bins: Bins of rank; must divide 4,000.
    """
    n_pool_G = count_ranks(rank_N, is_eligible_N)
    n_open_G = n_pool_G if is_accepted_N is None else count_ranks(rank_N, is_accepted_N)
    target_G, expected_G = _shares(strategy, p_rank, n_open_G, len(member_K))
    if is_accepted_N is not None and len(member_K) == n_open_G.sum():
        # All accepted samples are members, with every strategy; an epoch may repeat them.
        target_G, expected_G = np.ones(_GRID), np.ones(_GRID)

    n_kept_R, n_pool_R = (np.sum(n_G.reshape(n_bins, -1), axis=1) for n_G in (count_ranks(rank_N[member_K]), n_pool_G))
    target_R, expected_R = (_mean_by_bin(share_G, n_open_G, n_pool_R) for share_G in (target_G, expected_G))
    return SelectionCurve(n_pool_R, n_kept_R, target_R, expected_R)


def inclusion_rate(
    weight_G: NDArray[np.float64], n_pool_G: NDArray[np.int64], k: int, *, p_rank: PRank = "per-draw"
) -> float:
    """Return the t that gives k expected members, by bisection.

    `per-draw`: Σ n (1 − exp(−t·weight)) = k; `inclusion`: Σ n min(1, t·weight) = k.
    """
    low, high = 0.0, 1.0
    while _expected_count(weight_G, n_pool_G, high, p_rank) < k and high < 1e300:
        low, high = high, high * 2
    for _ in range(100):
        middle = (low + high) / 2
        if _expected_count(weight_G, n_pool_G, middle, p_rank) < k:
            low = middle
        else:
            high = middle
    return high


def count_ranks(rank_N: NDArray[np.float64], is_eligible_N: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Count ranks in the bins of the fine grid; rank 1 belongs to the last bin."""

    def work(chunk: slice) -> NDArray[np.int64]:
        bin_N = np.minimum((np.asarray(rank_N[chunk]) * _GRID).astype(np.int64), _GRID - 1)
        if is_eligible_N is not None:
            bin_N = bin_N[is_eligible_N[chunk]]
        return np.bincount(bin_N, minlength=_GRID)

    count_G = np.zeros(_GRID, np.int64)
    for part_G in map_chunks(work, len(rank_N)):
        count_G += part_G
    return count_G


def _mean_by_bin(
    share_G: NDArray[np.float64], n_open_G: NDArray[np.int64], n_pool_R: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Average the shares of the samples that can be selected over all samples of each bin; 0 if the bin has no samples."""
    share_R: NDArray[np.float64] = (share_G * n_open_G).reshape(len(n_pool_R), -1).sum(axis=1) / np.maximum(n_pool_R, 1)
    return share_R


def _expected_share(weight_G: NDArray[np.float64], t: float, p_rank: PRank) -> NDArray[np.float64]:
    return np.minimum(1.0, t * weight_G) if p_rank == "inclusion" else -np.expm1(-t * weight_G)


def _expected_count(weight_G: NDArray[np.float64], n_pool_G: NDArray[np.int64], t: float, p_rank: PRank) -> float:
    return float(np.sum(n_pool_G * _expected_share(weight_G, t, p_rank)))


def _shares(
    strategy: Strategy, p_rank: PRank, n_pool_G: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rank_G = (np.arange(_GRID) + 0.5) / _GRID
    log_density_G = strategy.log_density(rank_G)
    if not strategy.is_stochastic:
        # Bins are selected whole in the order of rank until k is reached.
        wanted_G = np.where(log_density_G > -np.inf, n_pool_G, 0)
        open_G = np.clip(k - (np.cumsum(wanted_G) - wanted_G), 0, wanted_G)
        share_G = open_G / np.maximum(n_pool_G, 1)
        return share_G, share_G
    weight_G = np.exp(log_density_G - log_density_G.max())
    total = float(np.sum(n_pool_G * weight_G))
    expected_G = _expected_share(weight_G, inclusion_rate(weight_G, n_pool_G, k, p_rank=p_rank), p_rank)
    return k * weight_G / total if total > 0 else weight_G, expected_G
