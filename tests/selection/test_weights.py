"""Repeats, weights and the reads of an epoch, against slow oracles: exact sums, bounds, and the same reads everywhere."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.selection.keys import Domain, mix64
from alchemist_core.selection.weights import UNIT, epoch_size_of, reads_of_epoch, repeat_evenly, weigh
from tests.oracles.oracle_weights import oracle_reads, oracle_repeats, oracle_weights


def hashes(seed, n):
    return np.random.default_rng(seed).integers(-(2**63), 2**63, n)


@given(seed=st.integers(0, 1000), n=st.integers(1, 12), more=st.integers(0, 40))
def test_repeats_are_given_one_by_one_to_who_has_the_fewest(seed, n, more):
    hash64_K = hashes(seed, n)
    noise = mix64(Domain.REPEATS, seed, hash64_K).tolist()
    weight_K = repeat_evenly(hash64_K, n + more, seed=seed)
    assert weight_K.tolist() == oracle_repeats(noise, n + more)
    # A larger epoch takes no read away, and the order of the members does not matter.
    assert (repeat_evenly(hash64_K, n + more + 1, seed=seed) >= weight_K).all()
    assert (repeat_evenly(hash64_K[::-1], n + more, seed=seed)[::-1] == weight_K).all()


@given(
    seed=st.integers(0, 1000), n=st.integers(1, 9), more=st.integers(0, 9), clip=st.sampled_from([1.5, 2.0, 4.0, 100.0]),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)  # fmt: skip
def test_weights_are_the_clipped_density_to_the_unit_and_add_up_exactly(seed, n, more, clip, spread):
    log_density_K = np.random.default_rng(seed).normal(scale=spread, size=n)
    weight_K = weigh(log_density_K, hashes(seed, n), n + more, clip=clip)
    assert epoch_size_of(weight_K) == n + more
    assert sum(map(Fraction, weight_K.tolist())) == n + more
    assert (weight_K * UNIT == np.rint(weight_K * UNIT)).all()
    wanted = oracle_weights(np.exp(log_density_K - log_density_K.max()).tolist(), n + more, clip)
    assert np.abs(weight_K - np.array(wanted, float)).max() <= 1.001 / UNIT


def test_a_uniform_density_weighs_every_member_the_same():
    assert (weigh(np.full(1000, -3.0), hashes(0, 1000), 1000, clip=4.0) == 1).all()
    assert set(weigh(np.full(1000, -3.0), hashes(0, 1000), 1500, clip=4.0)) == {1.5}


@pytest.mark.parametrize("clip", [1.5, 4.0])
def test_no_weight_is_above_the_clip_where_the_density_is_too_small_for_a_float64(clip):
    log_density_K = -((np.linspace(0, 1, 500) / 0.001) ** 2)
    weight_K = weigh(log_density_K, hashes(0, 500), 500, clip=clip)
    assert 1 / clip - 1 / UNIT <= weight_K.min() < weight_K.max() <= clip + 1 / UNIT
    assert weight_K.sum() == 500
    assert (np.diff(weight_K) <= 1 / UNIT).all(), "a weight falls with the density"


@given(seed=st.integers(0, 1000), n=st.integers(1, 12), epoch=st.integers(0, 50))
def test_an_epoch_reads_what_a_grid_of_points_hits(seed, n, epoch):
    rng = np.random.default_rng(seed)
    unit_K = rng.integers(1, 3 * UNIT, n)
    unit_K[-1] += -unit_K.sum() % UNIT
    weight_K, id_K = unit_K / UNIT, hashes(seed, n)
    read_K = reads_of_epoch(weight_K, id_K, seed=seed, epoch=epoch)
    own_seed, start = mix64(Domain.READS, seed, np.array([2 * epoch, 2 * epoch + 1])).tolist()
    order = np.argsort(mix64(Domain.READS, own_seed, id_K)).tolist()
    fractions = [Fraction(int(unit), UNIT) for unit in unit_K]
    assert read_K.tolist() == oracle_reads(fractions, order, Fraction(start % UNIT, UNIT))
    assert read_K.sum() == sum(fractions)
    assert ((read_K == np.floor(weight_K)) | (read_K == np.ceil(weight_K))).all()
    assert (reads_of_epoch(weight_K[::-1], id_K[::-1], seed=seed, epoch=epoch)[::-1] == read_K).all()


def test_over_many_epochs_a_member_is_read_as_often_as_its_weight_says():
    weight_K = np.array([0.25, 0.5, 1.0, 1.75, 2.5, 0.125, 0.875, 1.0])
    id_K, n_epochs = hashes(1, 8), 4000
    read_K = sum(reads_of_epoch(weight_K, id_K, seed=3, epoch=epoch) for epoch in range(n_epochs))
    # Five standard deviations of independent epochs.
    assert np.abs(read_K / n_epochs - weight_K).max() < 5 * 0.5 / np.sqrt(n_epochs)


@pytest.mark.parametrize("epoch", [0, 7])
def test_whole_weights_are_read_exactly(epoch):
    weight_K = np.array([1.0, 3.0, 2.0])
    assert reads_of_epoch(weight_K, hashes(0, 3), seed=9, epoch=epoch).tolist() == [1, 3, 2]
