"""What differences that are paired by seed show: Student's intervals, and how small an effect so few seeds could see.

Three to ten seeds are usual: normal and bootstrap intervals would cover too little there. Knows nothing of arms or models.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from jaxtyping import Float, Num

LOWER_IS_BETTER = "loss|^fid|^kid"
"""Regular expression of the metrics of which a lower value is better, as Python, Postgres and Prometheus read it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with both ends of its interval; without ends where one seed alone gives none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length."""
        return None if self.high is None else self.high - self.mean

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval lies above 0; never without one."""
        return self.low is not None and self.low > 0


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return the mean of some seeds' values with its interval. Source: Student 1908.

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> (found.mean, round(found.high, 3))
    (2.0, 4.484)
    """
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, len(values))
    half = student_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def is_lower_better(metric: str) -> bool:
    """Whether a lower value of a metric is better: of losses, FID and KID; of every other metric a higher one is.

    The SQL function `alchemist.gain_over` and the alert `SubsetWorseThanRandom` hold the same pattern; tests compare them.

    >>> is_lower_better("heldout_loss"), is_lower_better("clip_score")
    (True, False)
    """
    return re.search(LOWER_IS_BETTER, metric) is not None


def gain_over(metric: str, value: float, control: float) -> float:
    """Return by how much a value is better than a control's, in the metric's unit: positive is always better.

    >>> gain_over("heldout_loss", 2.0, 3.0), gain_over("clip_score", 0.25, 0.5)
    (1.0, -0.25)
    """
    return control - value if is_lower_better(metric) else value - control


def estimate_gain(
    value_of_seed: dict[int, float], control_of_seed: dict[int, float], *, metric: str = "loss"
) -> Estimate | None:
    """Return how much better the values are than a control's, over the seeds that both have; None without any."""
    seeds = sorted(value_of_seed.keys() & control_of_seed.keys())
    gains = [gain_over(metric, value_of_seed[seed], control_of_seed[seed]) for seed in seeds]
    return estimate(gains) if gains else None


def estimate_share(part: Sequence[float], whole: Sequence[float]) -> Estimate | None:
    """Return Σ part / Σ whole, paired by seed, with the delta method's interval; None where the whole is not above 0.

    >>> estimate_share([1.0, 2.0], [2.0, 4.0]).mean
    0.5
    """
    gap = fmean(whole) if whole else 0.0
    if gap <= 0:
        return None
    share = fmean(part) / gap
    residual = estimate([(mine - share * all_) / gap for mine, all_ in zip(part, whole, strict=True)])
    half = residual.half_width
    return (
        Estimate(share, None, None, len(part))
        if half is None
        else Estimate(share, share - half, share + half, len(part))
    )


def detectable_effect(spread: float, n_seeds: int, *, power: float = 0.8, confidence: float = 0.95) -> float:
    """Return the smallest true difference whose interval leaves 0 out, on the right side, in `power` of all repetitions.

    Under a true difference the t statistic follows the noncentral t distribution, whose centre is the effect in standard errors;
    with few seeds its lower tail is wider than the central t's. Source: Lenth 1989, AS 243 (by scipy).

    Args:
        spread: Standard deviation of the paired differences, in the metric's unit.
        n_seeds: Number of pairs; below 2 the result is infinite.
        power: Chance to find the effect, 0-1.
        confidence: Of the two-sided interval that has to leave 0 out, 0-1.

    >>> round(detectable_effect(1.0, 5), 3)
    1.682
    """
    if n_seeds < 2:
        return math.inf
    from scipy.special import nctdtrinc  # noqa: PLC0415  scipy loads slowly, and the other functions do without it

    threshold = student_quantile((1 + confidence) / 2, n_seeds - 1)
    return float(nctdtrinc(n_seeds - 1, 1 - power, threshold)) * spread / math.sqrt(n_seeds)


def student_quantile(level: float, n_freedom: int) -> float:
    """Return the value below which Student's t stays with chance `level`, for a level of at least one half.

    >>> round(student_quantile(0.975, 4), 3)
    2.776
    """
    low, high = 0.0, 1.0
    while _student_within(high, n_freedom) < 2 * level - 1:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, n_freedom) < 2 * level - 1 else (low, middle)
    return high


def _student_within(t: float, n_freedom: int) -> float:
    """Return the chance of |T| < t. Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(n_freedom))
    cosine2 = math.cos(angle) ** 2
    is_odd = n_freedom % 2 == 1
    term = math.cos(angle) if is_odd else 1.0
    total = term if n_freedom > 1 else 0.0
    for k in range(3 if is_odd else 2, n_freedom - 1, 2):
        term *= cosine2 * (k - 1) / k
        total += term
    within = math.sin(angle) * total
    return 2 / math.pi * (angle + within) if is_odd else within


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
