import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alchemist_core.statistics import area_under_curve, mean_ranks, spearman

numbers = st.lists(st.integers(-5, 5), min_size=3, max_size=30)


@given(numbers)
def test_ranks_agree_with_scipy(values: list[int]) -> None:
    assert mean_ranks(np.array(values)).tolist() == stats.rankdata(values).tolist()


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=30))
def test_spearman_agrees_with_scipy(rows: list[tuple[int, int]]) -> None:
    first, second = np.array(rows).T
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-9)


def test_an_order_of_ties_correlates_with_nothing() -> None:
    assert spearman(np.zeros(5), np.arange(5)) == 0


@given(numbers, numbers)
def test_the_area_is_the_share_of_pairs_in_the_right_order(good: list[int], bad: list[int]) -> None:
    by_hand = np.mean([1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad])
    assert area_under_curve(np.array(good), np.array(bad)) == pytest.approx(by_hand)
