"""The distribution of a selection: weighted sampling without replacement, one after the other in proportion to p(rank)."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.selection.curves import inclusion_rate, selection_curve
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.sampler import sample_members
from alchemist_core.selection.strategies import Gsample, Random, ShiftGsample, TopK
from tests.oracles.oracle_selection import oracle_eq11_density, oracle_subset_law

ROOT = Path(__file__).parents[2]
# The 0.999 quantile of chi-squared with 19 degrees of freedom: 20 subsets, less their sum.
CHI2_19_AT_P001 = 43.82
RANKS = [0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
STRATEGY = ShiftGsample(0.25, 0.55, 0.25)


def chi_squared_of(n_draws: int, noise: str = "Noise") -> float:
    """Select in another process, without the shape checks, which take ten times as long and are part of other tests."""
    code = f"from tests.selection.test_law import *; print(chi_squared({n_draws}, {noise}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


class WrongSign(Noise):
    """The noise of a selection with the wrong sign: a Gumbel minimum instead of a maximum."""

    def of(self, pair_hash64_N):
        return -super().of(pair_hash64_N)


def inclusion(seed):
    return Noise(seed, p_rank="inclusion")


def chi_squared(n_draws, noise=Noise):
    rank_N, hash_N = np.array(RANKS), np.array([11, 22, 33, 44, 55, 66]) * 2**40
    counts = Counter(
        tuple(sample_members(rank_N, hash_N, k=3, strategy=STRATEGY, noise=noise(seed)).tolist())
        for seed in range(n_draws)
    )
    law = oracle_subset_law([oracle_eq11_density(rank, 0.25, 0.55, 0.25) for rank in RANKS], 3)
    assert len(law) == 20
    return sum((counts[subset] - n_draws * chance) ** 2 / (n_draws * chance) for subset, chance in law.items())


@pytest.mark.slow
def test_100000_draws_of_3_from_6_follow_all_20_subset_probabilities():
    assert chi_squared_of(100_000) < CHI2_19_AT_P001


@pytest.mark.parametrize("noise", ["WrongSign", "inclusion"])
@pytest.mark.slow
def test_another_law_does_not_follow_them(noise):
    assert chi_squared_of(20_000, noise) > CHI2_19_AT_P001


def worst_deviation(noise, p_rank="per-draw"):
    """In 20 bins of a million ranks: the largest difference of kept and expected share, in standard errors."""
    n, k = 1_000_000, 200_000
    rank_N = (np.arange(n) + 0.5) / n
    hash_N = np.random.default_rng(5).integers(-(2**63), 2**63, n)
    member_K = sample_members(rank_N, hash_N, k=k, strategy=ShiftGsample(), noise=noise)
    kept_R = np.bincount((rank_N[member_K] * 20).astype(int), minlength=20) / (n / 20)

    weight_N = np.exp(ShiftGsample().log_density(rank_N))
    t = inclusion_rate(weight_N, np.ones(n, np.int64), k, p_rank=p_rank)
    chance_N = np.minimum(1, t * weight_N) if p_rank == "inclusion" else 1 - np.exp(-t * weight_N)
    expected_R = chance_N.reshape(20, -1).mean(axis=1)
    error_R = np.sqrt((chance_N * (1 - chance_N)).reshape(20, -1).sum(axis=1)) / (n / 20)
    assert (kept_R[:5] == 0).all()
    return (np.abs(kept_R - expected_R)[5:] / error_R[5:]).max()


def test_of_a_million_samples_each_rank_keeps_1_minus_exp_of_minus_t_p():
    assert worst_deviation(Noise(0)) <= 4


@pytest.mark.parametrize("noise", [WrongSign(0), inclusion(0)], ids=["wrong sign", "inclusion law"])
def test_under_another_law_they_do_not(noise):
    assert worst_deviation(noise) > 20


def test_the_inclusion_reading_keeps_each_rank_with_its_own_chance():
    assert worst_deviation(inclusion(0), p_rank="inclusion") <= 4


def test_the_inclusion_reading_solves_the_constant_of_the_paper_s_default():
    rank_G = (np.arange(4_000) + 0.5) / 4_000
    weight_G = np.exp(ShiftGsample().log_density(rank_G))
    # c = 0.640 at a retention of 0.2; 3.05 at 0.5, where all ranks around the mean are kept.
    for retention, c in ((0.2, 0.640), (0.5, 3.05)):
        found = inclusion_rate(weight_G, np.ones(4_000, np.int64), round(retention * 4_000), p_rank="inclusion")
        assert found == pytest.approx(c, rel=0.005)


def test_where_the_inclusion_chance_is_1_every_sample_is_kept():
    n = 200_000
    rank_N = (np.arange(n) + 0.5) / n
    hash_N = np.random.default_rng(5).integers(-(2**63), 2**63, n)
    member_K = sample_members(rank_N, hash_N, k=n // 2, strategy=ShiftGsample(), noise=inclusion(3))
    is_sure_N = np.abs(rank_N - 0.625) < 0.18  # c·p = 3.05·exp(−½·1.44²) = 1.08
    assert np.isin(np.flatnonzero(is_sure_N), member_K).all()


def test_a_curve_shows_what_was_kept_beside_what_was_wanted():
    rank_N = (np.arange(100_000) + 0.5) / 100_000
    hash_N = np.random.default_rng(6).integers(-(2**63), 2**63, 100_000)
    member_K = sample_members(rank_N, hash_N, k=20_000, strategy=ShiftGsample(), noise=Noise(0))
    curve = selection_curve(rank_N, member_K, strategy=ShiftGsample())
    assert curve.n_pool.tolist() == [2_500] * 40
    assert curve.n_kept.sum() == 20_000
    assert np.abs(curve.kept_share - curve.expected).max() < 4 * np.sqrt(0.25 / 2_500)
    assert np.isclose((curve.target * curve.n_pool).sum(), 20_000)
    assert np.isclose((curve.expected * curve.n_pool).sum(), 20_000)


def test_a_large_retention_saturates_and_reports_it():
    rank_N, hash_N = (np.arange(10_000) + 0.5) / 10_000, np.arange(10_000)
    large_K = sample_members(rank_N, hash_N, k=7_000, strategy=ShiftGsample(), noise=Noise(0))
    curve = selection_curve(rank_N, large_K, strategy=ShiftGsample())
    assert curve.is_saturated
    assert curve.target.max() > 1 >= curve.expected.max()
    small_K = sample_members(rank_N, hash_N, k=200, strategy=Gsample(), noise=Noise(0))
    assert not selection_curve(rank_N, small_K, strategy=Gsample()).is_saturated


def test_a_threshold_leaves_the_curve_of_what_it_accepts():
    rank_N = (np.arange(10_000) + 0.5) / 10_000
    is_accepted_N = rank_N < 0.4
    accepted_K = np.flatnonzero(is_accepted_N)
    member_K = accepted_K[sample_members(rank_N[accepted_K], accepted_K, k=2_000, strategy=Random(), noise=Noise(0))]
    curve = selection_curve(rank_N, member_K, strategy=Random(), is_accepted_N=is_accepted_N)
    assert curve.n_pool.tolist() == [250] * 40
    assert np.allclose(curve.expected, np.repeat([0.5, 0.0], [16, 24]))
    assert np.allclose(curve.target, curve.expected)
    # All that it accepts, which an epoch repeats: no rank is short of samples, with any strategy.
    curve = selection_curve(rank_N, accepted_K, strategy=ShiftGsample(), is_accepted_N=is_accepted_N)
    assert np.allclose(curve.expected, np.repeat([1.0, 0.0], [16, 24]))
    assert not curve.is_saturated


def test_without_sampling_the_curve_is_the_selection_itself():
    rank_N = np.random.default_rng(1).uniform(size=1_200)
    member_K = sample_members(rank_N, np.arange(1_200), k=240, strategy=TopK(), noise=Noise(0))
    curve = selection_curve(rank_N, member_K, strategy=TopK())
    assert np.abs(curve.kept_share - curve.target).max() < 0.05
    random_K = sample_members(rank_N, np.arange(1_200), k=240, strategy=Random(), noise=Noise(0))
    flat = selection_curve(rank_N, random_K, strategy=Random())
    assert np.allclose(flat.expected, 0.2)
    assert not flat.is_saturated
