"""The fit of the rank window: the curve keeps the means of the bands, a known optimum is found, and noise gives no gain."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import ConfigError
from alchemist_core.selection.rank_window import (
    FittedWindow,
    RankWindow,
    _choose,
    fit_window,
    predict_gain,
    value_curve,
)
from alchemist_core.selection.strategies import Gsample, Random, ShiftGsample
from alchemist_core.statistics import Estimate

# Log gains over random of five bands, similar to those of two pilot corpora: useful samples on top, and in the middle.
ON_TOP = [0.40, -0.10, -0.40, -1.20, -1.50]
IN_THE_MIDDLE = [-1.80, -0.20, 0.40, 0.20, -1.00]


def measured(bands: list[float], n_seeds: int = 4, noise: float = 0.03, seed: int = 0) -> np.ndarray:
    return np.array(bands) + noise * np.random.default_rng(seed).normal(size=(n_seeds, len(bands)))


@given(st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=8).filter(lambda bands: 120 % len(bands) == 0))
def test_the_curve_has_each_bands_own_mean_less_the_mean_of_all(bands: list[float]) -> None:
    curve_G = value_curve(np.array(bands))
    assert curve_G.reshape(len(bands), -1).mean(axis=1) == pytest.approx(np.array(bands) - np.mean(bands), abs=1e-8)
    assert curve_G.mean() == pytest.approx(0.0, abs=1e-9)


def test_the_curve_is_the_flattest_of_all_with_these_means() -> None:
    curve_G, generator = value_curve(np.array(ON_TOP)), np.random.default_rng(0)
    for _ in range(20):
        bump_BG = generator.normal(size=(5, 24))
        other_G = curve_G + (bump_BG - bump_BG.mean(axis=1, keepdims=True)).ravel()
        assert np.sum(np.diff(curve_G) ** 2) < np.sum(np.diff(other_G) ** 2)


@pytest.mark.parametrize("retention", [0.2, 0.5])
def test_where_the_head_is_best_it_is_kept_softly(retention: float) -> None:
    window = fit_window(measured(ON_TOP), retention).window
    assert window.drop_top_ratio == 0.0
    assert window.mean_rank <= 0.1
    # Sameness has its price: the top alone would be narrower.
    assert window.std_rank >= 0.1


@pytest.mark.parametrize("retention", [0.2, 0.5])
def test_where_the_middle_is_best_the_head_is_left_out(retention: float) -> None:
    fit = fit_window(measured(IN_THE_MIDDLE), retention)
    rank_G = np.linspace(0.0, 1.0, 1001)
    density_G = np.exp(
        ShiftGsample(fit.window.drop_top_ratio, fit.window.mean_rank, fit.window.std_rank).log_density(rank_G)
    )
    assert 0.4 <= np.average(rank_G, weights=density_G) <= 0.7
    assert density_G[rank_G < 0.15].sum() < 0.02 * density_G.sum()
    assert fit.predicted.is_positive


def test_a_selection_of_the_useful_ranks_is_expected_to_gain_and_one_of_the_others_to_lose() -> None:
    gain_SB = measured(ON_TOP)
    kept = {name: np.array(n_kept_R) for name, n_kept_R in {"top": [9, 3, 1, 0, 0], "bottom": [0, 0, 0, 3, 9]}.items()}
    top, bottom, even = (
        predict_gain(gain_SB, n_kept_R, np.full(5, 9)) for n_kept_R in (kept["top"], kept["bottom"], np.ones(20, int))
    )
    assert top.is_positive
    assert bottom.high is not None
    assert bottom.high < 0
    assert even.mean == pytest.approx(0, abs=1e-9)
    # A single band reproduces the measurement, except for the common gain of all bands, which is noise or the cost of less diversity.
    alone = predict_gain(gain_SB, np.array([1, 0, 0, 0, 0]), np.ones(5, int))
    assert alone.mean == pytest.approx(gain_SB[:, 0].mean(), abs=0.1)


def test_the_predicted_gain_is_over_a_random_selection_of_the_same_eligible_samples() -> None:
    """By hand, for gains of the bands by which a random selection is worth 0.1 more than a band, so that λ = 0.1 / log 5.

    The values of the bands are 0.4, 0.2, 0.1, −0.1, −0.6. Eligible are a fifth, two and two of the lower three.
    """
    gain_SB = np.array([[0.3, 0.1, 0.0, -0.2, -0.7]] * 2)
    n_pool_R, price = np.array([0, 0, 100, 200, 200]), 0.1 / math.log(5)
    # Half of band 3 and half of band 4: (0.1 − 0.1) / 2, in ranks of 2.5 times their usual share.
    selected = 0.0 - price * math.log(2.5)
    # 0.2 · 0.1 − 0.4 · 0.1 − 0.4 · 0.6; bands 4 and 5 have twice their usual share, band 3 has its own.
    random = -0.26 - price * 0.8 * math.log(2)
    found = predict_gain(gain_SB, np.array([0, 0, 100, 100, 0]), n_pool_R)
    assert found.mean == pytest.approx(selected - random, abs=1e-8)
    assert found.is_positive
    assert selected < 0, "over a random selection from all ranks it loses"
    # The other way round: the worst two fifths of the upper half are better than all ranks, and worse than their half.
    upper_R, worst_R = np.array([9] * 5 + [0] * 5), np.array([0, 0, 0, 9, 9] + [0] * 5)
    assert predict_gain(gain_SB, worst_R, np.full(10, 9)).mean > 0 > predict_gain(gain_SB, worst_R, upper_R).mean
    # All eligible samples are a random selection of them, exactly: a check fails below 0.
    for pool_R in (n_pool_R, upper_R, np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4])):
        whole = predict_gain(measured(ON_TOP), pool_R, pool_R)
        assert (whole.mean, whole.low, whole.high) == (0, 0, 0)


def test_a_band_that_teaches_nothing_does_not_pass_for_the_price_of_sameness() -> None:
    """Losses of synthetic scenes under rule loss: plain images first, then informative ones, and both ends are bad."""
    log_gain_B = np.log(1.16 / np.array([13.45, 0.81, 0.65, 1.14, 1.69]))
    fit = fit_window(measured(log_gain_B.tolist()), 0.2)
    assert fit.window.drop_top_ratio >= 0.2
    assert 0.3 <= fit.window.mean_rank <= 0.5
    assert fit.window.std_rank <= 0.15
    # The same fit to differences of losses chose a spread of .4 and promised 2.1 nats of 1.16.
    assert 1.16 * np.exp(-fit.predicted.mean) == pytest.approx(0.6, abs=0.1)


def test_no_rank_window_is_narrower_than_the_bands_can_tell() -> None:
    gains = [-1.0, 2.0, -1.0, -1.0, -1.0]
    assert fit_window(measured(gains), 0.1).window.std_rank == 0.1
    assert fit_window(measured([gain for gain in gains for _ in range(2)]), 0.1).window.std_rank == 0.05


def test_the_measured_gain_is_reported_with_the_rank_window() -> None:
    fitted = FittedWindow.of(fit_window(measured(ON_TOP), 0.2), Estimate(0.3, 0.2, 0.4, 4))
    assert (fitted.gain, fitted.gain_low, fitted.gain_high) == (0.3, 0.2, 0.4)
    assert (
        "windows chosen on other seeds gained 0.3000 [0.2000, 0.4000] nats per token over random at 20%"
        in fitted.describe()
    )
    of_one_seed = FittedWindow.of(fit_window(measured(ON_TOP), 0.2), Estimate(0.3, None, None, 1))
    assert (of_one_seed.gain_low, of_one_seed.gain_high) == (-math.inf, math.inf)
    assert "No rank window shows a gain (0.3000 (no interval) nats" in of_one_seed.describe()


def test_with_equally_useful_ranks_no_gain_is_predicted() -> None:
    n_false = sum(fit_window(measured([0.0] * 5, seed=seed), 0.2).predicted.is_positive for seed in range(40))
    # One-sided 2.5 % of 40 is 1; the seeds are fixed.
    assert n_false <= 4


def test_a_prediction_is_of_seeds_that_did_not_choose() -> None:
    # Each seed alone has another best band, so choosing and judging on the same seeds would predict a gain.
    gain_SB = np.array([[0.5, -0.5, 0.0, 0.0], [-0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, -0.5], [0.0, 0.0, -0.5, 0.5]])
    fit = fit_window(gain_SB, 0.25)
    assert fit.predicted.mean < 0.0
    # A seed tests the rank window that a fit to the other seeds chooses.
    assert fit.held_out == tuple(fit_window(np.delete(gain_SB, seed, axis=0), 0.25).window for seed in range(4))
    assert fit_window(gain_SB[:1], 0.25).held_out == (fit_window(gain_SB[:1], 0.25).window,)


def test_one_seed_predicts_without_an_interval() -> None:
    assert not fit_window(np.array([ON_TOP]), 0.2).predicted.is_positive


def test_a_rank_window_gives_the_retention_that_it_was_fitted_for() -> None:
    assert fit_window(measured([-1.0, -0.8, -0.1, 0.2, 0.3]), 0.7).window.drop_top_ratio <= 0.3
    assert fit_window(measured([-1.0, -0.8, -0.1, 0.2, 0.3]), 1.0).window.drop_top_ratio == 0.0


def test_one_band_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        fit_window(np.array([[0.1]]), 0.2)


def fitted(low: float, cut: float = 0.0) -> FittedWindow:
    return FittedWindow(RankWindow(cut, 0.25, 0.2), 0.2, 0.3, low, 0.4)


def test_without_a_drop_top_ratio_no_dropped_share_is_reported() -> None:
    assert fitted(0.1).strategy == Gsample(0.25, 0.2)
    assert fitted(0.1, cut=0.05).strategy == ShiftGsample(0.05, 0.25, 0.2)


@pytest.mark.parametrize("low", [0.0, -0.1, -np.inf])
def test_a_gain_whose_interval_reaches_0_selects_at_random(low: float) -> None:
    assert fitted(low).strategy == Random()
    assert not fitted(low).is_significant
    assert ("(no interval)" in fitted(low).describe()) is math.isinf(low)


def test_of_rank_windows_as_good_to_a_fiftieth_the_one_that_leaves_out_least_is_taken() -> None:
    windows = [
        RankWindow(0.3, 0.5, 0.1),
        RankWindow(0.1, 0.5, 0.1),
        RankWindow(0.1, 0.5, 0.3),
        RankWindow(0.0, 0.5, 1.0),
    ]
    assert _choose(np.array([1.0, 0.98, 0.98, 0.97]), windows) == 2
    assert _choose(np.array([1.0, 0.98, 0.9797, 0.97]), windows) == 1
    assert _choose(np.array([-1.0, -1.01, -2.0, -1.02]), windows) == 3


def test_two_bands_are_enough() -> None:
    fit = fit_window(np.array([[0.5, -0.9], [0.5, -0.9]]), 0.5)
    assert fit.window.mean_rank < 0.5
    # Both lose 0.2 on average against random, log 2 nats away from it.
    assert fit.sameness_price == pytest.approx(0.2 / np.log(2))
    assert fit_window(np.array([[0.9, -0.5]]), 0.5).sameness_price == 0.0
