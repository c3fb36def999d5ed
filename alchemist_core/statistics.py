"""The statistics of the platform, on scipy: Student's t intervals, differences paired by seed, power, and rank correlations.

Three to ten seeds are usual, and with so few, normal and bootstrap intervals are too narrow. A gain is positive when the subset is
better than its control, for every metric. scipy is imported where it is used: `scipy.stats` takes more than a second to load.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev, variance
from typing import TYPE_CHECKING

from alchemist_core.lazy import np

if TYPE_CHECKING:
    from jaxtyping import Float, Num

LOWER_IS_BETTER = "loss|^fid|^kid"
"""Regular expression for the metrics whose lower values are better, in a syntax that Python, Postgres and Prometheus share."""

N_QUANTILES = 101
"""A stored distribution has this many quantiles: from 0% to 100% in steps of 1%."""

ValueOfSeed = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with both ends of its interval; `low` and `high` are None with a single seed."""

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
        """Whether the whole interval lies above 0; False without an interval."""
        return self.low is not None and self.low > 0

    def among(self, n_compared: int) -> Estimate:
        """Return it with the interval that holds for so many estimates together. Source: Bonferroni; Dunn 1961.

        >>> found = estimate([1.0, 2.0, 3.0])
        >>> [round(found.among(n).low, 3) for n in (1, 20)]
        [-0.484, -9.525]
        """
        if self.half_width is None:
            return self
        quantiles = (student_quantile(1 - 0.025 / n, self.n - 1) for n in (n_compared, 1))
        half = self.half_width * next(quantiles) / next(quantiles)
        return Estimate(self.mean, self.mean - half, self.mean + half, self.n)


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return the mean over seeds with its t interval. Source: Student 1908.

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
    """Whether a lower value of a metric is better: true for losses, FID and KID, false for every other metric.

    The SQL function `alchemist.gain_over` and the alert `EvaluationRegression` use the same pattern; tests compare them.

    >>> is_lower_better("heldout_loss"), is_lower_better("clip_score")
    (True, False)
    """
    return re.search(LOWER_IS_BETTER, metric) is not None


def gain_over(metric: str, value: float, control: float) -> float:
    """Return by how much a value is better than a control's, in the metric's unit; a positive gain is better.

    >>> gain_over("heldout_loss", 2.0, 3.0), gain_over("clip_score", 0.25, 0.5)
    (1.0, -0.25)
    """
    return control - value if is_lower_better(metric) else value - control


def estimate_gain(value_of_seed: ValueOfSeed, control_of_seed: ValueOfSeed, *, metric: str = "loss") -> Estimate | None:
    """Return the mean gain over a control, paired over the seeds that both have; None without a common seed."""
    seeds = sorted(value_of_seed.keys() & control_of_seed.keys())
    gains = [gain_over(metric, value_of_seed[seed], control_of_seed[seed]) for seed in seeds]
    return estimate(gains) if gains else None


def gap_closed(loss: ValueOfSeed, random: ValueOfSeed, oracle: ValueOfSeed) -> Estimate | None:
    """Return (loss of random − loss of subset) / (loss of random − loss of oracle), over the seeds that all three have.

    0 is as good as random, 1 as good as the oracle. None without a common seed, or where the oracle is not better than random.

    >>> gap_closed({1: 2.25}, random={1: 3.0}, oracle={1: 2.0}).mean
    0.75
    """
    seeds = sorted(loss.keys() & random.keys() & oracle.keys())
    return estimate_share(
        [random[seed] - loss[seed] for seed in seeds], [random[seed] - oracle[seed] for seed in seeds]
    )


def estimate_share(part: Sequence[float], whole: Sequence[float]) -> Estimate | None:
    """Return Σ part / Σ whole, paired by seed, with the delta method's interval; None where the whole is not above 0.

    >>> estimate_share([1.0, 2.0], [2.0, 4.0]).mean
    0.5
    """
    total = fmean(whole) if whole else 0.0
    if total <= 0:
        return None
    share = fmean(part) / total
    half = estimate([(mine - share * all_) / total for mine, all_ in zip(part, whole, strict=True)]).half_width
    low, high = (None, None) if half is None else (share - half, share + half)
    return Estimate(share, low, high, len(part))


def pooled_spread(values: Sequence[ValueOfSeed], control: ValueOfSeed) -> float | None:
    """Return the pooled standard deviation of differences to a control, paired by seed; None below two common seeds.

    >>> pooled_spread([{1: 2.0, 2: 4.0}], {1: 3.0, 2: 3.0})
    1.4142135623730951
    """
    found = [
        variance([control[seed] - value[seed] for seed in sorted(value.keys() & control.keys())])
        for value in values
        if len(value.keys() & control.keys()) > 1
    ]
    return math.sqrt(sum(found) / len(found)) if found else None


def detectable_effect(spread: float, n_seeds: int, *, power: float = 0.8, confidence: float = 0.95) -> float:
    """Return the smallest true gain whose interval lies above 0 in `power` of all repetitions.

    Under a true gain the t statistic follows the noncentral t distribution, centred at the gain in standard errors. With few
    seeds its lower tail is wider than the central t's. Source: Lenth 1989, AS 243 (by scipy).

    Args:
        spread: Standard deviation of the paired differences, in the metric's unit.
        n_seeds: Number of pairs; below 2 the result is infinite.
        power: Probability of finding the gain, 0-1.
        confidence: Confidence of the two-sided interval, 0-1.

    >>> round(detectable_effect(1.0, 5), 3)
    1.682
    """
    if n_seeds < 2:
        return math.inf
    from scipy.special import nctdtrinc  # noqa: PLC0415

    threshold = student_quantile((1 + confidence) / 2, n_seeds - 1)
    return float(nctdtrinc(n_seeds - 1, 1 - power, threshold)) * spread / math.sqrt(n_seeds)


def student_quantile(level: float, n_freedom: int) -> float:
    """Return the quantile of Student's t distribution.

    >>> round(student_quantile(0.975, 4), 3)
    2.776
    """
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(n_freedom, level))


def sequential_sign_test(n_for: int, n_against: int) -> float:
    """Return a p-value of whether both preferences are equally likely, which holds although people look after each answer and may stop.

    It is the inverse of a likelihood ratio: of any share of preferences, all equally likely beforehand, to a half. If people stop as soon
    as it is below 0.05, they are wrong in at most 5% of the cases.

    Source: Robbins 1970, Statistical methods related to the law of the iterated logarithm, with a uniform prior.

    >>> round(sequential_sign_test(14, 4), 4), round(sequential_sign_test(8, 0), 4), sequential_sign_test(0, 0)
    (0.2218, 0.0352, 1.0)
    """
    n = n_for + n_against
    inverse: float = (n + 1) * math.comb(n, n_for) / 2**n
    return min(1.0, inverse)


def spearman(first_N: Num[np.ndarray, " N"], second_N: Num[np.ndarray, " N"]) -> float:
    """Return the rank correlation of two orders; 0 where either has only ties, for which scipy returns NaN.

    Source: Spearman 1904.

    >>> round(spearman(np.array([1, 2, 3]), np.array([10, 20, 40])), 6)
    1.0
    """
    if np.ptp(first_N) == 0 or np.ptp(second_N) == 0:
        return 0.0
    from scipy.stats import spearmanr  # noqa: PLC0415

    return float(spearmanr(first_N, second_N).statistic)


def quantiles_of(value_N: Num[np.ndarray, " N"]) -> list[float]:
    """Return the quantiles of a distribution from 0% to 100%, in steps of 1%.

    >>> quantiles_of(np.array([0.0, 1.0]))[:3]
    [0.0, 0.01, 0.02]
    """
    found: list[float] = np.quantile(value_N.astype(np.float64), np.linspace(0, 1, N_QUANTILES)).tolist()
    return found


def area_under_curve(good_P: Num[np.ndarray, " P"], bad_Q: Num[np.ndarray, " Q"]) -> float:
    """Return the area under the ROC curve: the share of pairs in which the good sample scores higher. A tie counts half.

    Source: Mann and Whitney 1947.

    >>> area_under_curve(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    rank_N = mean_ranks(np.concatenate([good_P, bad_Q]))
    n_good, n_bad = len(good_P), len(bad_Q)
    return float((rank_N[:n_good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_bad))


def interval_of_area(area: float, n_good: int, n_bad: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return both ends of the interval of an area under the ROC curve: the areas that the measured one does not contradict.

    It is wider than a point also at 0 and 1, where the usual interval has no width. Source: Hanley and McNeil 1982 (standard error);
    Newcombe 2006 (solved for the unknown area).

    >>> [round(end, 3) for end in interval_of_area(0.8, 20, 20)]
    [0.626, 0.9]
    >>> [round(end, 3) for end in interval_of_area(1.0, 20, 20)]
    [0.899, 1.0]
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)

    def end(outermost: float) -> float:
        inside, outside = area, outermost
        for _ in range(60):
            middle = (inside + outside) / 2
            is_inside = abs(middle - area) <= z * _area_error(middle, n_good, n_bad)
            inside, outside = (middle, outside) if is_inside else (inside, middle)
        return inside

    return end(0.0), end(1.0)


def _area_error(area: float, n_good: int, n_bad: int) -> float:
    """Return the standard error of an area. Source: Hanley and McNeil 1982, Eq. 1."""
    of_good, of_bad = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (n_good - 1) * (of_good - area**2) + (n_bad - 1) * (of_bad - area**2)
    return math.sqrt(max(spread, 0.0) / (n_good * n_bad))


def mean_ranks(value_N: Num[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Rank from 1, lowest first; equal values share the mean of their ranks.

    >>> mean_ranks(np.array([5, 1, 5])).tolist()
    [2.5, 1.0, 2.5]
    """
    from scipy.stats import rankdata  # noqa: PLC0415

    return np.asarray(rankdata(value_N), np.float64)
