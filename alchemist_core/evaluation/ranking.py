"""How two orders of the same samples agree, and how well an order tells two kinds apart.

Letters: N samples · P of one kind · Q of the other.
"""

import numpy as np
from jaxtyping import Float, Num


def spearman(first_N: Num[np.ndarray, " N"], second_N: Num[np.ndarray, " N"]) -> float:
    """Correlate two orders; 0 where either has only ties.

    Source: Spearman 1904.

    >>> round(spearman(np.array([1, 2, 3]), np.array([10, 20, 40])), 6)
    1.0
    """
    first_rank_N, second_rank_N = mean_ranks(first_N), mean_ranks(second_N)
    first_rank_N, second_rank_N = first_rank_N - first_rank_N.mean(), second_rank_N - second_rank_N.mean()
    scale = np.sqrt((first_rank_N**2).sum() * (second_rank_N**2).sum())
    return float((first_rank_N * second_rank_N).sum() / scale) if scale > 0 else 0.0


def area_under_curve(good_P: Num[np.ndarray, " P"], bad_Q: Num[np.ndarray, " Q"]) -> float:
    """Give the share of pairs in which the good sample has the higher score; a tie counts half.

    Source: Mann and Whitney 1947.

    >>> area_under_curve(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    rank_N = mean_ranks(np.concatenate([good_P, bad_Q]))
    n_good, n_bad = len(good_P), len(bad_Q)
    return float((rank_N[:n_good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_bad))


def mean_ranks(value_N: Num[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Rank from 1, lowest first; equal values share the mean of their ranks.

    >>> mean_ranks(np.array([5, 1, 5])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse_N, count_K = np.unique(value_N, return_inverse=True, return_counts=True)
    last_rank_K = np.cumsum(count_K)
    return (last_rank_K - (count_K - 1) / 2)[inverse_N].astype(np.float64)
