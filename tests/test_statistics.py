"""Intervals of paired differences: Student's own tables, coverage by simulation, and the effect that seeds can show."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alchemist_core.statistics import (
    Estimate,
    detectable_effect,
    estimate,
    estimate_gain,
    estimate_share,
    gain_over,
    is_lower_better,
    student_quantile,
)

# Two-sided 95 % points, as every textbook prints them.
TABLE_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 29: 2.045, 30: 2.042, 120: 1.980}
TABLE_80 = {1: 1.376, 2: 1.061, 4: 0.941, 9: 0.883, 30: 0.854}


@pytest.mark.parametrize(("level", "table"), [(0.975, TABLE_975), (0.8, TABLE_80)])
def test_quantiles_equal_the_printed_table(level: float, table: dict[int, float]) -> None:
    assert {n: round(student_quantile(level, n), 3) for n in table} == pytest.approx(table, abs=6e-4)


def test_an_interval_of_five_seeds_holds_the_truth_in_95_of_100_repetitions() -> None:
    values_RS = np.random.default_rng(0).normal(0.3, 2.0, (4000, 5))
    found = [estimate(values_S.tolist()) for values_S in values_RS]
    covered = np.mean([one.low < 0.3 < one.high for one in found])
    assert covered == pytest.approx(0.95, abs=0.012)


def power_by_quadrature(effect: float, n: int) -> float:
    """Chance that the t statistic of n differences exceeds its threshold, over every sample variance that they can have.

    With V chi-squared with n − 1 degrees: P(t > q) = E[Φ(effect·√n − q·√(V / (n − 1)))].
    """
    df, threshold = n - 1, TABLE_975[n - 1]
    v = np.linspace(1e-9, 12 * df + 60, 400_001)
    density = np.exp((df / 2 - 1) * np.log(v) - v / 2 - df / 2 * math.log(2) - math.lgamma(df / 2))
    chance = stats.norm.cdf(effect * math.sqrt(n) - threshold * np.sqrt(v / df))
    return float(np.trapezoid(density * chance, v))


@pytest.mark.parametrize("n", [3, 4, 5, 6, 10, 31])
def test_the_detectable_effect_has_the_power_that_it_names_however_few_the_seeds(n: int) -> None:
    assert power_by_quadrature(detectable_effect(1.0, n), n) == pytest.approx(0.8, abs=1e-3)


def test_three_seeds_show_an_effect_of_3_26_standard_deviations_as_the_noncentral_t_says() -> None:
    assert stats.nct.sf(stats.t.ppf(0.975, 2), 2, detectable_effect(1.0, 3) * math.sqrt(3)) == pytest.approx(0.8)
    assert detectable_effect(1.0, 3) == pytest.approx(3.264, abs=1e-3)
    assert detectable_effect(0.02, 3) == pytest.approx(0.02 * 3.264, abs=1e-4)


def test_the_detectable_effect_is_found_as_often_as_it_says() -> None:
    effect = detectable_effect(1.0, 4)
    values_RS = np.random.default_rng(1).normal(effect, 1.0, (4000, 4))
    assert np.mean([estimate(values_S.tolist()).is_positive for values_S in values_RS]) == pytest.approx(0.8, abs=0.02)


def test_one_seed_gives_no_interval_and_shows_no_effect() -> None:
    found = estimate([1.0])
    assert (found.low, found.high, found.is_positive) == (None, None, False)
    assert math.isinf(detectable_effect(1.0, 1))


def test_a_gain_pairs_the_seeds_that_both_have() -> None:
    found = estimate_gain({1: 2.0, 2: 3.0, 9: 0.0}, {1: 3.0, 2: 4.5, 8: 7.0})
    assert found is not None
    assert (found.mean, found.n) == (1.25, 2)
    assert estimate_gain({1: 1.0}, {2: 1.0}) is None


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=8), st.floats(-2.0, 2.0))
def test_a_part_in_proportion_to_the_whole_is_its_share_without_error(whole: list[float], share: float) -> None:
    found = estimate_share([share * gap for gap in whole], whole)
    assert found is not None
    assert found.mean == pytest.approx(share, abs=1e-9)
    assert found.half_width == pytest.approx(0.0, abs=1e-9)


def test_there_is_no_share_of_a_gap_that_is_not_there() -> None:
    assert estimate_share([1.0, 1.0], [0.5, -0.5]) is None


def test_an_interval_that_touches_0_is_not_positive() -> None:
    assert not Estimate(1.0, 0.0, 2.0, 3).is_positive
    assert Estimate(1.0, 1e-9, 2.0, 3).is_positive
    assert Estimate(1.0, 0.25, 2.0, 3).half_width == 1.0


def test_two_seeds_give_an_interval_by_hand() -> None:
    # A mean of 2, a deviation of √2 and the 97.5 % point 12.706 of one degree of freedom: 2 ± 12.706.
    found = estimate([1.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062), abs=1e-3)
    assert estimate([1.0, 3.0], confidence=0.6).high == pytest.approx(2 + 1.3764, abs=1e-3)


@pytest.mark.parametrize(
    ("metric", "is_lower"),
    [
        ("loss", True), ("heldout_loss", True), ("fid", True), ("fid_inception_v3_clean", True), ("kid_offline", True),
        ("clip_score", False), ("geneval_colors", False), ("average_score", False), ("my_fid", False),
    ],
)  # fmt: skip
def test_of_losses_fids_and_kids_alone_a_lower_value_is_better(metric: str, is_lower: bool) -> None:
    assert is_lower_better(metric) is is_lower
    assert gain_over(metric, 1.0, 3.0) == (2.0 if is_lower else -2.0)


def test_a_gain_is_in_the_metrics_own_direction() -> None:
    values, controls = {1: 0.5, 2: 0.75}, {1: 0.25, 2: 0.25}
    assert [estimate_gain(values, controls, metric=name).mean for name in ("clip_score", "fid")] == [0.375, -0.375]
    assert estimate_gain(values, controls).mean == -0.375


def test_a_share_has_the_interval_of_its_residuals() -> None:
    # The share is (1 + 3) / (2 + 2) = 1; the residuals over the mean gap of 2 are ∓½, so their interval is ±12.706 / 2.
    found = estimate_share([1.0, 3.0], [2.0, 2.0])
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1 - 6.3531, 1 + 6.3531), abs=1e-3)


@pytest.mark.parametrize("whole", [[], [1.0, -1.0]])
def test_a_gap_of_nothing_has_no_share(whole: list[float]) -> None:
    assert estimate_share([0.5] * len(whole), whole) is None


def test_one_seed_has_a_share_without_an_interval() -> None:
    assert estimate_share([1.0], [4.0]) == Estimate(0.25, None, None, 1)


def test_two_seeds_can_show_an_effect_and_more_power_needs_a_larger_one() -> None:
    assert math.isfinite(detectable_effect(1.0, 2))
    assert detectable_effect(1.0, 5, power=0.9) > detectable_effect(1.0, 5) > detectable_effect(1.0, 5, confidence=0.8)
