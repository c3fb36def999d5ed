"""Fréchet and kernel distances equal those of three published implementations on the same features."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import DataError
from alchemist_core.metrics.distances import (
    clip_score,
    drawn_kernel_distance,
    fit_gaussian,
    frechet_distance,
    kernel_distance,
)

# Means, spreads and images to features as they occur: more images than features, as many, and fewer.
SHAPES = [(400, 24), (64, 64), (40, 96)]


def some_features(n: int, n_features: int, seed: int, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((n_features, n_features)) / n_features**0.5
    return (np.abs(generator.standard_normal((n, n_features)) @ mixing) + shift).astype(np.float32)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # clean-fid's, of scipy
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_frechet_distance_is_the_published_one(shape: tuple[int, int]) -> None:
    from cleanfid.fid import fid_from_feats
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    first, second = some_features(*shape, seed=0), some_features(*shape, seed=1, shift=0.2)
    ours = frechet_distance(fit_gaussian(first), fit_gaussian(second))
    statistics = [fid_features_to_statistics(torch.from_numpy(one.astype(np.float64))) for one in (first, second)]
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    tensors = [torch.from_numpy(value) for one in statistics for value in (one["mu"], one["sigma"])]
    assert ours == pytest.approx(fidelity, rel=1e-6)
    assert ours == pytest.approx(float(_compute_fid(*tensors)), rel=1e-6)
    # Its root of a singular product, by Schur's method, is good to three digits.
    assert ours == pytest.approx(fid_from_feats(first.astype(np.float64), second.astype(np.float64)), rel=1e-3)


def test_frechet_distance_is_the_formula_with_a_true_root() -> None:
    one, two = fit_gaussian(some_features(400, 8, seed=0)), fit_gaussian(some_features(300, 8, seed=1, shift=0.5))
    root_DD = scipy.linalg.sqrtm(one.covariance_DD @ two.covariance_DD).real
    expected = ((one.mean_D - two.mean_D) ** 2).sum() + np.trace(one.covariance_DD + two.covariance_DD - 2 * root_DD)
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-9)


@given(st.integers(2, 40), st.integers(1, 30), st.integers(0, 99))
def test_a_set_has_no_distance_from_itself_and_the_same_in_both_directions(n: int, n_features: int, seed: int) -> None:
    one, two = fit_gaussian(some_features(n, n_features, seed)), fit_gaussian(some_features(n, n_features, seed + 1))
    scale = np.trace(one.covariance_DD) + np.trace(two.covariance_DD) + 1e-9
    assert abs(frechet_distance(one, one)) < 1e-6 * scale
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one), abs=1e-6 * scale)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(DataError, match="at least 2"):
        fit_gaussian(np.zeros((1, 4)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_distance_over_draws_is_torch_fidelity_s(shape: tuple[int, int]) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    first, second = some_features(*shape, seed=0), some_features(*shape, seed=1, shift=0.2)
    theirs = kid_features_to_metric(
        torch.from_numpy(first).double(), torch.from_numpy(second).double(), kid_subsets=7, kid_subset_size=32
    )
    ours = drawn_kernel_distance(first, second, n_subsets=7, subset_size=32)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_distance_over_all_is_torchmetrics_and_clean_fid_s(shape: tuple[int, int]) -> None:
    from cleanfid.fid import kernel_distance as clean_kernel_distance
    from torchmetrics.image.kid import poly_mmd

    first, second = some_features(*shape, seed=0), some_features(*shape, seed=1, shift=0.2)
    ours = kernel_distance(first, second)
    tensors = (torch.from_numpy(one).double() for one in (first, second))
    assert ours == pytest.approx(float(poly_mmd(*tensors)), rel=1e-9)
    doubles = (one.astype(np.float64) for one in (first, second))
    assert ours == pytest.approx(clean_kernel_distance(*doubles, num_subsets=1), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    """Over many pairs of sets from one distribution it averages to 0, far below the Fréchet distance of the same sets."""
    sets = np.random.default_rng(0).standard_normal((60, 2, 20, 8))
    kernel = np.array([kernel_distance(*pair) for pair in sets])
    frechet = np.array([frechet_distance(*map(fit_gaussian, pair)) for pair in sets])
    assert abs(kernel.mean()) < 3 * kernel.std() / len(kernel) ** 0.5
    assert frechet.min() > 1


def test_a_draw_larger_than_the_set_is_refused() -> None:
    with pytest.raises(DataError, match="9 images are fewer than subset_size 10"):
        drawn_kernel_distance(np.ones((9, 2)), np.ones((30, 2)), n_subsets=1, subset_size=10)


@given(st.integers(1, 20), st.integers(0, 99))
def test_clip_score_ignores_lengths_and_is_within_its_bounds(n: int, seed: int) -> None:
    image_ND, text_ND = some_features(n, 6, seed) + 0.1, some_features(n, 6, seed + 1) + 0.1
    score = clip_score(image_ND, text_ND)
    assert -1 <= score <= 1
    assert score == pytest.approx(clip_score(3 * image_ND, 0.5 * text_ND), rel=1e-6)
    assert clip_score(image_ND, -image_ND) == pytest.approx(-1)


def test_a_draw_may_take_every_image_and_then_has_no_spread() -> None:
    first, second = some_features(9, 3, seed=0), some_features(9, 3, seed=1)
    drawn = drawn_kernel_distance(first, second, n_subsets=3, subset_size=9)
    assert drawn.mean == pytest.approx(kernel_distance(first, second))
    assert drawn.deviation == pytest.approx(0, abs=1e-12)
    with pytest.raises(DataError, match="9 images are fewer than subset_size 10"):
        drawn_kernel_distance(np.ones((30, 2)), np.ones((9, 2)), n_subsets=1, subset_size=10)


def test_kernel_distance_of_four_numbers_by_hand() -> None:
    # With one feature the kernel is (x·y + 1)³: within {0, 1} it is 1, within {1, 2} it is 27, between them 1, 1, 8 and 27.
    assert kernel_distance(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == 1 + 27 - 2 * 37 / 4


def test_frechet_distance_of_two_images_by_hand() -> None:
    # Means 1 and 5, unbiased variances 2 and 8: 16 + (√8 − √2)².
    one, two = fit_gaussian(np.array([[0.0], [2.0]])), fit_gaussian(np.array([[3.0], [7.0]]))
    assert frechet_distance(one, two) == pytest.approx(18)


def test_clip_score_is_the_mean_over_images_with_no_factor_and_no_cut() -> None:
    image_ND, text_ND = np.eye(2), np.array([[0.6, 0.8], [0.6, -0.8]])
    assert clip_score(image_ND, text_ND) == pytest.approx((0.6 - 0.8) / 2)
