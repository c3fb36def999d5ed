import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.selection.keys import Domain, Noise, gumbel_noise, mix64, uniform_noise
from tests.oracles.oracle_selection import oracle_finalise, oracle_uniform

SIGNED_64 = st.integers(-(2**63), 2**63 - 1)


@given(domain=st.sampled_from(Domain), seed=st.integers(0, 2**53 - 1), pair_hash64=SIGNED_64)
def test_noise_equals_its_integer_oracle_bit_for_bit(domain, seed, pair_hash64):
    assert uniform_noise(domain, seed, np.array([pair_hash64]))[0] == oracle_uniform(domain, seed, pair_hash64)


def test_mixing_is_splitmix64():
    # The published first output of SplitMix64 for seed 0 is its finaliser at the golden gamma.
    assert oracle_finalise(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def test_the_extremes_of_the_hash_give_finite_noise():
    top = np.float64(2**52 - 1)
    assert 0 < (top + 0.5) * 2.0**-52 < 1
    assert 0 < (0 + 0.5) * 2.0**-52
    assert np.isfinite(gumbel_noise(Domain.SELECT, 0, np.arange(-50_000, 50_000))).all()


def test_every_use_of_the_hash_has_noise_of_its_own():
    pair_hash64_N = np.arange(20_000) * 7_919
    noise = {domain: uniform_noise(domain, 7, pair_hash64_N) for domain in Domain}
    for one in Domain:
        for other in Domain:
            if one < other:
                assert abs(np.corrcoef(noise[one], noise[other])[0, 1]) < 4 / np.sqrt(20_000)


def test_neighbouring_seeds_have_unrelated_noise():
    pair_hash64_N = np.arange(20_000)
    one, other = (uniform_noise(Domain.SELECT, seed, pair_hash64_N) for seed in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(20_000)


def test_one_flipped_bit_flips_half_of_the_hash():
    pair_hash64_N = np.random.default_rng(0).integers(-(2**63), 2**63, 2_000)
    for bit in (0, 31, 63):
        flipped_N = pair_hash64_N ^ (np.int64(1) << np.int64(bit))
        changed = mix64(Domain.SELECT, 3, pair_hash64_N) ^ mix64(Domain.SELECT, 3, flipped_N)
        assert np.bitwise_count(changed).mean() == pytest.approx(32, abs=0.5)


def test_noise_is_standard_gumbel():
    noise_N = gumbel_noise(Domain.SELECT, 1, np.arange(200_000))
    assert noise_N.mean() == pytest.approx(np.euler_gamma, abs=4 * np.pi / np.sqrt(6 * 200_000))
    assert noise_N.var() == pytest.approx(np.pi**2 / 6, rel=0.02)


def test_the_number_of_a_use_is_for_ever() -> None:
    """Another number would select other members for every stored subset."""
    assert [(domain.name, domain.value) for domain in Domain] == [
        ("SELECT", 1), ("RANDOM_CONTROL", 2), ("ORACLE_CONTROL", 3), ("SHUFFLE", 4), ("ORACLE_FILLING", 5),
        ("BUCKETS", 6), ("BLOCKS", 7), ("BUFFER", 8), ("REPEATS", 9), ("READS", 10),
    ]  # fmt: skip


def test_each_reading_by_hand() -> None:
    pair_hash64_N = np.array([-5, 0, 12345])
    u_N = uniform_noise(Domain.SHUFFLE, 3, pair_hash64_N)
    gumbel_N = Noise(3, Domain.SHUFFLE).of(pair_hash64_N)
    ohlsson_N = Noise(3, Domain.SHUFFLE, "inclusion").of(pair_hash64_N)
    assert gumbel_N == pytest.approx([-math.log(-math.log(u)) for u in u_N.tolist()])
    assert ohlsson_N == pytest.approx([-math.log(u) for u in u_N.tolist()])


def test_a_selection_uses_the_main_domain_and_per_draw_ranks_by_default() -> None:
    assert Noise(7) == Noise(seed=7, domain=Domain.SELECT, p_rank="per-draw")
