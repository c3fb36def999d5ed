import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.selection.draw import draw_members, retention_to_k
from alchemist_core.selection.keys import Domain, Noise
from alchemist_core.selection.strategies import Block, Gsample, HeadGsample, Random, ShiftGsample, TopK
from tests.oracles.oracle_selection import oracle_draw, oracle_eq11_density

ALL = [ShiftGsample(), Gsample(), HeadGsample(), Random(), TopK(), Block(0.25)]
SEEDS = st.integers(0, 2**53 - 1)


def pool(n, seed=0):
    """Ranks with ties, and the hashes of n pairs, in no order."""
    rng = np.random.default_rng(seed)
    return np.round(rng.uniform(size=n), 2), rng.integers(-(2**63), 2**63, n)


@given(seed=SEEDS, n=st.integers(5, 80), retention=st.floats(0.05, 0.7), drop_top_ratio=st.floats(0, 0.9))
def test_a_draw_equals_its_oracle(seed, n, retention, drop_top_ratio):
    rank_N, hash_N = pool(n, seed % 1_000)
    densities = [oracle_eq11_density(rank, drop_top_ratio, 0.6, 0.3) for rank in rank_N.tolist()]
    k = min(max(1, round(retention * n)), sum(density > 0 for density in densities))
    if k == 0:
        return
    strategy = ShiftGsample(drop_top_ratio, 0.6, 0.3)
    member_K = draw_members(rank_N, hash_N, k=k, strategy=strategy, noise=Noise(seed))
    assert set(hash_N[member_K].tolist()) == oracle_draw(densities, hash_N.tolist(), k, seed, Domain.SELECT)


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
@given(seed=SEEDS, n=st.integers(10, 300), retention=st.floats(0.1, 0.6))
def test_exactly_k_distinct_members_come_out_in_order(strategy, seed, n, retention):
    rank_N, hash_N = pool(n, seed % 1_000)
    possible = int(np.isfinite(strategy.log_density(rank_N)).sum())
    k = min(retention_to_k(retention, n), possible)
    member_K = draw_members(rank_N, hash_N, k=k, strategy=strategy, noise=Noise(seed))
    assert member_K.dtype == np.int64
    assert len(member_K) == k
    assert (np.diff(member_K) > 0).all()


@given(seed=SEEDS, drop_top_ratio=st.floats(0, 0.95))
def test_nothing_above_the_head_cut_is_ever_kept(seed, drop_top_ratio):
    rank_N, hash_N = pool(400)
    k = int((rank_N >= drop_top_ratio).sum())
    strategy = ShiftGsample(drop_top_ratio=drop_top_ratio)
    member_K = draw_members(rank_N, hash_N, k=k, strategy=strategy, noise=Noise(seed))
    assert rank_N[member_K].min() >= drop_top_ratio


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
@given(seed=SEEDS, shuffle=st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_no_member(strategy, seed, shuffle):
    rank_N, hash_N = pool(200)
    order_N = np.random.default_rng(shuffle).permutation(200)
    straight = hash_N[draw_members(rank_N, hash_N, k=60, strategy=strategy, noise=Noise(seed))]
    shuffled = hash_N[order_N][
        draw_members(rank_N[order_N], hash_N[order_N], k=60, strategy=strategy, noise=Noise(seed))
    ]
    assert set(straight.tolist()) == set(shuffled.tolist())


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
@given(seed=SEEDS)
def test_20_percent_lie_within_50_within_70(strategy, seed):
    rank_N, hash_N = pool(300)
    small, middle, large = (
        set(
            draw_members(
                rank_N, hash_N, k=retention_to_k(retention, 300), strategy=strategy, noise=Noise(seed)
            ).tolist()
        )
        for retention in (0.2, 0.5, 0.7)
    )
    assert small < middle < large


def test_a_seed_is_a_draw_and_another_seed_another():
    rank_N, hash_N = pool(1_000)
    first, again, other = (
        draw_members(rank_N, hash_N, k=200, strategy=ShiftGsample(), noise=Noise(seed)).tolist() for seed in (7, 7, 8)
    )
    assert first == again != other


def test_a_control_shares_no_noise_with_the_subset_it_controls():
    rank_N, hash_N = pool(10_000)
    subset, control = (
        set(draw_members(rank_N, hash_N, k=2_000, strategy=Random(), noise=Noise(0, domain)).tolist())
        for domain in (Domain.SELECT, Domain.RANDOM_CONTROL)
    )
    # 400 common members are expected of independent draws, with a standard deviation of 16.
    assert abs(len(subset & control) - 400) < 64


def test_top_k_keeps_the_highest_scores_and_breaks_ties_by_hash():
    rank_N, hash_N = np.array([0.5, 0.0, 0.5, 0.5]), np.array([30, 40, -10, 20])
    assert draw_members(rank_N, hash_N, k=3, strategy=TopK(), noise=Noise(0)).tolist() == [1, 2, 3]
    assert draw_members(rank_N, hash_N, k=3, strategy=TopK(), noise=Noise(1)).tolist() == [1, 2, 3]


def test_a_block_is_one_band_below_its_start():
    rank_N = np.arange(10) / 9
    assert draw_members(rank_N, np.arange(10), k=2, strategy=Block(0.4), noise=Noise(0)).tolist() == [4, 5]


def test_more_than_can_be_had_is_refused_with_the_largest_retention():
    rank_N = np.arange(1_000) / 999
    with pytest.raises(ConfigError, match=r"largest possible retention is 0\.7500"):
        draw_members(rank_N, np.arange(1_000), k=900, strategy=ShiftGsample(), noise=Noise(0))
    k = retention_to_k(0.75, 1_000)
    assert len(draw_members(rank_N, np.arange(1_000), k=k, strategy=ShiftGsample(), noise=Noise(0))) == 750


def test_everything_can_be_kept():
    rank_N, hash_N = pool(50)
    assert draw_members(rank_N, hash_N, k=50, strategy=Gsample(), noise=Noise(3)).tolist() == list(range(50))


@pytest.mark.parametrize(("n", "k", "message"), [(0, 1, "No pair is eligible"), (3, 0, "keeps none of 3")])
def test_an_empty_pool_and_an_empty_subset_are_refused(n, k, message):
    with pytest.raises(ConfigError, match=message):
        draw_members(np.zeros(n), np.arange(n), k=k, strategy=TopK(), noise=Noise(0))


def test_a_rank_that_is_nan_is_refused():
    with pytest.raises(DataError, match="NaN"):
        draw_members(np.array([0.1, np.nan, 0.3]), np.arange(3), k=1, strategy=Random(), noise=Noise(0))


def test_ranks_and_hashes_of_different_pairs_are_refused():
    with pytest.raises(DataError, match="2 ranks"):
        draw_members(np.zeros(2), np.arange(3), k=1, strategy=TopK(), noise=Noise(0))


def test_neither_pythons_hash_seed_nor_the_number_of_threads_changes_a_member():
    script = (
        "import numpy as np, hashlib, os, sys\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])\n"
        "from alchemist_core.selection.draw import draw_members\n"
        "from alchemist_core.selection.keys import Noise\n"
        "from alchemist_core.selection.strategies import ShiftGsample\n"
        "n = 300_000\n"
        "m = draw_members(np.arange(n) / n, np.arange(n) * 7919, k=60_000, strategy=ShiftGsample(), noise=Noise(5))\n"
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
    here_K = draw_members(
        np.arange(300_000) / 300_000, np.arange(300_000) * 7919, k=60_000, strategy=ShiftGsample(), noise=Noise(5)
    )
    assert digests == {hashlib.sha256(here_K.tobytes()).hexdigest()}
