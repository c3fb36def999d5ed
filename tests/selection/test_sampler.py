import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.selection.keys import Domain, Noise
from alchemist_core.selection.sampler import (
    Keys,
    count_possible,
    k_to_retention,
    largest,
    require_possible,
    retention_to_k,
    sample_members,
)
from alchemist_core.selection.strategies import Block, Gsample, HeadGsample, Random, ShiftGsample, TopK
from tests.oracles.oracle_selection import oracle_draw, oracle_eq11_density

ALL = [ShiftGsample(), Gsample(), HeadGsample(), Random(), TopK(), Block(0.25)]
SEEDS = st.integers(0, 2**53 - 1)


def pool(n, seed=0):
    """Ranks with ties, and the hashes of n samples, in random order."""
    rng = np.random.default_rng(seed)
    return np.round(rng.uniform(size=n), 2), rng.integers(-(2**63), 2**63, n)


@given(seed=SEEDS, n=st.integers(5, 80), retention=st.floats(0.05, 0.7), drop_top_ratio=st.floats(0, 0.9))
def test_a_selection_equals_its_oracle(seed, n, retention, drop_top_ratio):
    rank_N, hash_N = pool(n, seed % 1_000)
    densities = [oracle_eq11_density(rank, drop_top_ratio, 0.6, 0.3) for rank in rank_N.tolist()]
    k = min(max(1, round(retention * n)), sum(density > 0 for density in densities))
    if k == 0:
        return
    strategy = ShiftGsample(drop_top_ratio, 0.6, 0.3)
    member_K = sample_members(rank_N, hash_N, k=k, strategy=strategy, noise=Noise(seed))
    assert set(hash_N[member_K].tolist()) == oracle_draw(densities, hash_N.tolist(), k, seed, Domain.SELECT)


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
@given(seed=SEEDS, n=st.integers(10, 300), retention=st.floats(0.1, 0.6))
def test_exactly_k_distinct_members_come_out_in_order(strategy, seed, n, retention):
    rank_N, hash_N = pool(n, seed % 1_000)
    possible = int(np.isfinite(strategy.log_density(rank_N)).sum())
    k = min(retention_to_k(retention, n), possible)
    member_K = sample_members(rank_N, hash_N, k=k, strategy=strategy, noise=Noise(seed))
    assert member_K.dtype == np.int64
    assert len(member_K) == k
    assert (np.diff(member_K) > 0).all()


@given(seed=SEEDS, drop_top_ratio=st.floats(0, 0.95))
def test_nothing_above_the_drop_top_ratio_is_ever_kept(seed, drop_top_ratio):
    rank_N, hash_N = pool(400)
    k = int((rank_N >= drop_top_ratio).sum())
    strategy = ShiftGsample(drop_top_ratio=drop_top_ratio)
    member_K = sample_members(rank_N, hash_N, k=k, strategy=strategy, noise=Noise(seed))
    assert rank_N[member_K].min() >= drop_top_ratio


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
@given(seed=SEEDS, shuffle=st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_no_member(strategy, seed, shuffle):
    rank_N, hash_N = pool(200)
    order_N = np.random.default_rng(shuffle).permutation(200)
    straight = hash_N[sample_members(rank_N, hash_N, k=60, strategy=strategy, noise=Noise(seed))]
    shuffled = hash_N[order_N][
        sample_members(rank_N[order_N], hash_N[order_N], k=60, strategy=strategy, noise=Noise(seed))
    ]
    assert set(straight.tolist()) == set(shuffled.tolist())


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
@given(seed=SEEDS)
def test_20_percent_are_contained_in_50_and_70(strategy, seed):
    rank_N, hash_N = pool(300)
    small, middle, large = (
        set(
            sample_members(
                rank_N, hash_N, k=retention_to_k(retention, 300), strategy=strategy, noise=Noise(seed)
            ).tolist()
        )
        for retention in (0.2, 0.5, 0.7)
    )
    assert small < middle < large


def test_each_seed_gives_another_selection():
    rank_N, hash_N = pool(1_000)
    first, again, other = (
        sample_members(rank_N, hash_N, k=200, strategy=ShiftGsample(), noise=Noise(seed)).tolist() for seed in (7, 7, 8)
    )
    assert first == again != other


def test_a_control_shares_no_noise_with_the_subset_it_controls():
    rank_N, hash_N = pool(10_000)
    subset, control = (
        set(sample_members(rank_N, hash_N, k=2_000, strategy=Random(), noise=Noise(0, domain)).tolist())
        for domain in (Domain.SELECT, Domain.RANDOM_CONTROL)
    )
    # Independent selections have 400 common members on average, with a standard deviation of 16.
    assert abs(len(subset & control) - 400) < 64


def test_top_k_keeps_the_highest_scores_and_breaks_ties_by_hash():
    rank_N, hash_N = np.array([0.5, 0.0, 0.5, 0.5]), np.array([30, 40, -10, 20])
    assert sample_members(rank_N, hash_N, k=3, strategy=TopK(), noise=Noise(0)).tolist() == [1, 2, 3]
    assert sample_members(rank_N, hash_N, k=3, strategy=TopK(), noise=Noise(1)).tolist() == [1, 2, 3]


def test_a_block_is_one_band_below_its_start():
    rank_N = np.arange(10) / 9
    assert sample_members(rank_N, np.arange(10), k=2, strategy=Block(0.4), noise=Noise(0)).tolist() == [4, 5]


def test_more_than_can_be_had_is_refused_with_the_largest_retention():
    rank_N = np.arange(1_000) / 999
    with pytest.raises(ConfigError, match=r"largest possible retention is 0\.7500"):
        sample_members(rank_N, np.arange(1_000), k=900, strategy=ShiftGsample(), noise=Noise(0))
    k = retention_to_k(0.75, 1_000)
    assert len(sample_members(rank_N, np.arange(1_000), k=k, strategy=ShiftGsample(), noise=Noise(0))) == 750


def test_everything_can_be_kept():
    rank_N, hash_N = pool(50)
    assert sample_members(rank_N, hash_N, k=50, strategy=Gsample(), noise=Noise(3)).tolist() == list(range(50))


@pytest.mark.parametrize(("n", "k", "message"), [(0, 1, "No sample is eligible"), (3, 0, "keeps none of 3")])
def test_an_empty_corpus_and_an_empty_subset_are_refused(n, k, message):
    with pytest.raises(ConfigError, match=message):
        sample_members(np.zeros(n), np.arange(n), k=k, strategy=TopK(), noise=Noise(0))


def test_a_rank_that_is_nan_is_refused():
    with pytest.raises(DataError, match="NaN"):
        sample_members(np.array([0.1, np.nan, 0.3]), np.arange(3), k=1, strategy=Random(), noise=Noise(0))


def test_ranks_and_hashes_of_different_samples_are_refused():
    with pytest.raises(DataError, match="2 ranks"):
        sample_members(np.zeros(2), np.arange(3), k=1, strategy=TopK(), noise=Noise(0))


def test_neither_pythons_hash_seed_nor_the_number_of_threads_changes_a_member():
    script = (
        "import numpy as np, hashlib, os, sys\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])\n"
        "from alchemist_core.selection.sampler import sample_members\n"
        "from alchemist_core.selection.keys import Noise\n"
        "from alchemist_core.selection.strategies import ShiftGsample\n"
        "n = 300_000\n"
        "m = sample_members(np.arange(n) / n, np.arange(n) * 7919, k=60_000, strategy=ShiftGsample(), noise=Noise(5))\n"
        "print(hashlib.sha256(m.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, n_cores],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed, n_cores in (("0", "1"), ("1", "2"))
    }
    here_K = sample_members(
        np.arange(300_000) / 300_000, np.arange(300_000) * 7919, k=60_000, strategy=ShiftGsample(), noise=Noise(5)
    )
    assert digests == {hashlib.sha256(here_K.tobytes()).hexdigest()}


@pytest.mark.parametrize(("retention", "n", "k"), [(0.5, 5, 2), (0.5, 7, 4), (0.2, 12, 2), (0.2, 13, 3), (1.0, 9, 9)])
def test_a_retention_keeps_the_nearest_whole_number_the_even_one_of_two(retention, n, k):
    assert retention_to_k(retention, n) == k


@given(k=st.integers(1, 10**9), more=st.integers(0, 10**9))
def test_the_largest_retention_that_is_named_keeps_no_more_than_there_are(k, more):
    retention = k_to_retention(k, k + more)
    assert retention_to_k(retention, k + more) <= k
    assert retention * (k + more) >= 0.998 * k - 1e-6


def test_keys_at_the_bound_itself_are_candidates():
    keys = Keys(np.array([0.5, 0.25, 0.5, 0.75]), np.arange(4), TopK(), Noise(0))
    candidate, key = keys.above(-0.5)
    assert (candidate.tolist(), key.tolist()) == ([0, 1, 2], [-0.5, -0.25, -0.5])
    assert keys.all().tolist() == [-0.5, -0.25, -0.5, -0.75]


def test_a_sample_that_is_not_open_has_no_key_and_is_never_kept():
    is_eligible_N = np.array([True, False, True])
    keys = Keys(np.array([0.1, 0.2, 0.3]), np.arange(3), TopK(), Noise(0), is_eligible_N)
    assert keys.all().tolist() == [-0.1, -np.inf, -0.3]
    drawn = sample_members(
        np.zeros(3), np.arange(3), k=2, strategy=Random(), noise=Noise(0), is_eligible_N=is_eligible_N
    )
    assert drawn.tolist() == [0, 2]
    with pytest.raises(
        ConfigError, match=r"3 of 2 eligible samples are requested, but strategy random can select only 2"
    ):
        sample_members(np.zeros(3), np.arange(3), k=3, strategy=Random(), noise=Noise(0), is_eligible_N=is_eligible_N)


def test_a_large_corpus_is_probed_for_a_bound_that_enough_keys_reach():
    n, k = 600_000, 60_000
    keys = Keys(np.arange(n) / n, np.arange(n), TopK(), Noise(0))
    n_above = len(keys.above(keys.bound(k))[0])
    # Every fourth sample is probed: six standard errors of 15,000 of them are 735, which represent 2,940.
    assert n_above == pytest.approx(k + 2_940, abs=40)
    assert Keys(np.arange(9) / 9, np.arange(9), TopK(), Noise(0)).bound(3) == np.finfo(np.float64).min
    assert keys.bound(n) == np.finfo(np.float64).min


def test_a_misleading_probe_loses_no_member():
    # Every probed sample ranks first, every other one last, so the probed bound is too high.
    n = 700_000
    rank_N = np.where(np.arange(n) % (n // (1 << 17)) == 0, 0.0, 1.0)
    k = int((rank_N == 0).sum()) + 1_000
    member_K = sample_members(rank_N, np.arange(n), k=k, strategy=TopK(), noise=Noise(0))
    assert len(member_K) == k
    assert (rank_N[member_K] == 0).sum() == k - 1_000


def test_of_equal_keys_the_smaller_hashes_are_kept():
    assert largest(np.zeros(4), np.array([3, -7, 9, 1]), 2).tolist() == [1, 3]
    assert largest(np.array([0.0, 2.0, 0.0]), np.array([5, 9, 4]), 2).tolist() == [1, 2]
    assert largest(np.zeros(2), np.arange(2), 0).tolist() == []
    assert largest(np.zeros(2), np.arange(2), 2).tolist() == [0, 1]


def test_a_sample_counts_as_possible_where_it_is_open_and_wanted():
    rank_N = np.array([0.1, 0.25, 0.5, 0.9])
    assert count_possible(rank_N, ShiftGsample(0.25)) == 3
    assert count_possible(rank_N, ShiftGsample(0.25), np.array([True, True, False, False])) == 1


@pytest.mark.parametrize(
    ("k", "n_possible", "n", "message"),
    [
        (1, 0, 0, "No sample is eligible"),
        (1, 0, 2_000, "^Strategy x excludes all 2,000 eligible samples"),
        (0, 5, 2_000, r"keeps none of 2,000 eligible samples\. The smallest that keeps one is about 0\.0002501\."),
        (
            1_001,
            1_000,
            2_000,
            r"^1,001 of 2,000 eligible samples .* only 1,000: the largest possible retention is 0\.5000",
        ),
        (201, 200, 2_000, r"retention is 0\.1000\."),
        (3, 2, 2_000, r"retention is 0\.001\."),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_bound(k, n_possible, n, message):
    with pytest.raises(ConfigError, match=message):
        require_possible(k, n_possible, n, what="strategy x")


@pytest.mark.parametrize("n", [1, 7, 400, 2_000, 99_999, 30_000_000])
def test_the_retention_that_is_named_for_one_sample_keeps_one_and_hardly_less_keeps_none(n):
    with pytest.raises(ConfigError, match="keeps none") as refusal:
        require_possible(0, 1, n, what="strategy x")
    named = float(str(refusal.value).split("about ")[1].rstrip("."))
    assert retention_to_k(named, n) == 1
    assert retention_to_k(0.998 * named, n) == 0


@pytest.mark.parametrize("n_possible", [1, 1_000])
def test_all_possible_samples_may_be_selected_but_not_one_more(n_possible):
    require_possible(n_possible, n_possible, 2_000, what="strategy x")
    with pytest.raises(ConfigError, match=f"only {n_possible:,}: the largest possible retention"):
        require_possible(n_possible + 1, n_possible, 2_000, what="strategy x")
