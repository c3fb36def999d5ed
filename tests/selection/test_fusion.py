"""The threshold of a fusion: what a fraction of good samples does not reach, if the signals err independently of each other."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alchemist_core.selection.fusion import fuse_ranks, fused_quantile
from alchemist_core.statistics import quantiles_of

RANKS = hnp.arrays(np.float64, 7, elements=st.floats(0, 1, width=32)).map(np.sort)


def by_enumeration(quantiles: list[NDArray[np.float64]], loss: float) -> float:
    """Score every combination of one step of each signal, all equally likely, and count."""
    middles = [(rank_Q[1:] + rank_Q[:-1]) / 2 for rank_Q in quantiles]
    score_N = np.sort(1 - np.array([np.mean(each) for each in product(*middles)]))[::-1]
    return float(score_N[max(0, int(np.ceil((1 - loss) * len(score_N) - 1e-9)) - 1)])


@given(st.lists(RANKS, min_size=1, max_size=3), st.sampled_from([0.02, 0.05, 0.3, 0.5]))
def test_the_quantile_is_that_of_all_combinations_to_a_step_of_the_grid(
    quantiles: list[NDArray[np.float64]], loss: float
) -> None:
    found, expected = fused_quantile(quantiles, loss), by_enumeration(quantiles, loss)
    # Steps of one score may lie on both sides of the fraction: the neighbours' scores bound it.
    around = [by_enumeration(quantiles, near) for near in (loss * 0.999 - 1e-6, loss * 1.001 + 1e-6)]
    assert min(around) - 1e-3 <= found <= max(around) + 1e-3, (found, expected)


def test_independent_signals_lose_the_fraction_and_signals_that_err_together_lose_more() -> None:
    generator, n = np.random.default_rng(0), 40_000
    rank_NM = generator.beta(1, 4, (n, 3))
    quantiles = [np.array(quantiles_of(rank_N)) for rank_N in rank_NM.T]
    threshold = fused_quantile(quantiles, 0.05)
    lost = np.mean(fuse_ranks(rank_NM) < threshold)
    assert lost == pytest.approx(0.05, abs=0.004)
    together = np.mean(fuse_ranks(np.sort(rank_NM, axis=0)) < threshold)
    assert together > 2 * lost
