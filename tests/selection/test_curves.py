"""The curve of a selection, calculated by hand: eligible, requested and expected samples of each bin of rank."""

import numpy as np
import pytest

from alchemist_core.selection.curves import SelectionCurve, count_ranks, inclusion_rate, read_curve, selection_curve
from alchemist_core.selection.exclusions import EXCLUSIONS, Exclusion, count_exclusions
from alchemist_core.selection.strategies import Block, Gsample, Random, TopK

RANKS = (np.arange(8) + 0.5) / 8


def test_the_highest_scores_are_kept_bin_by_bin_and_nothing_else_is_asked_for() -> None:
    curve = selection_curve(RANKS, np.array([0, 1, 2]), strategy=TopK(), n_bins=4)
    assert (curve.n_pool.tolist(), curve.n_kept.tolist()) == ([2, 2, 2, 2], [2, 1, 0, 0])
    assert curve.target.tolist() == curve.expected.tolist() == curve.kept_share.tolist() == [1, 0.5, 0, 0]


def test_a_block_asks_for_nothing_above_its_start() -> None:
    curve = selection_curve(RANKS, np.array([4, 5]), strategy=Block(0.5), n_bins=4)
    assert curve.target.tolist() == curve.expected.tolist() == [0, 0, 1, 0]


def test_a_random_selection_asks_every_rank_alike() -> None:
    curve = selection_curve(RANKS, np.array([1, 4]), strategy=Random(), n_bins=2)
    assert (curve.target.tolist(), curve.n_kept.tolist()) == ([0.25, 0.25], [1, 1])
    assert curve.expected == pytest.approx([0.25, 0.25])
    assert not curve.is_saturated


def test_samples_that_are_not_open_are_not_part_of_the_pool() -> None:
    is_eligible_N = np.array([False] * 4 + [True] * 4)
    curve = selection_curve(RANKS, np.array([4, 5]), strategy=Random(), is_eligible_N=is_eligible_N, n_bins=2)
    assert (curve.n_pool.tolist(), curve.target.tolist()) == ([0, 4], [0, 0.5])
    assert curve.kept_share.tolist() == [0, 0.5]


def test_a_selection_of_more_than_a_rank_holds_is_saturated() -> None:
    curve = selection_curve(RANKS, np.arange(6), strategy=Gsample(0.5, 0.1), n_bins=8)
    assert curve.target.max() > 1 >= curve.expected.max()
    assert (curve.expected * curve.n_pool).sum() == pytest.approx(6)
    assert curve.is_saturated


@pytest.mark.parametrize(("gap", "is_saturated"), [(0.0, False), (0.0625, True), (-0.0625, True), (0.05, False)])
def test_a_gap_of_more_than_a_twentieth_is_saturation(gap: float, is_saturated: bool) -> None:
    curve = SelectionCurve(np.array([4]), np.array([2]), np.array([gap]), np.array([0.0]))
    assert (curve.largest_gap, curve.is_saturated) == (abs(gap), is_saturated)


def test_a_curve_comes_back_from_the_store_as_it_went() -> None:
    curve = selection_curve(RANKS, np.array([1, 2]), strategy=Gsample(), n_bins=4)
    stored = curve.as_json()
    again = read_curve(stored)
    assert again.as_json() == stored
    assert stored.keys() == {"n_pool", "n_kept", "target", "expected", "is_saturated"}
    assert np.abs(again.target - curve.target).max() <= 5e-7


def test_the_target_of_a_selection_far_from_the_favoured_rank_adds_up_to_its_size() -> None:
    # The nearest samples are three deviations away, so that all weights together are far below that of one sample in the middle.
    curve = selection_curve(RANKS, np.array([3, 4]), strategy=Gsample(0.5, 0.02), n_bins=8)
    assert (curve.target * curve.n_pool).sum() == pytest.approx(2)
    assert curve.target[3:5] == pytest.approx([1, 1], abs=0.05)


def test_rank_1_belongs_to_the_last_bin_and_rank_0_to_the_first() -> None:
    count_G = count_ranks(np.array([0.0, 0.5, 1.0, 1.0]))
    assert (len(count_G), count_G[0], count_G[2000], count_G[-1], count_G.sum()) == (4000, 1, 1, 2, 4)


def test_the_rate_by_hand() -> None:
    weight_G, n_G = np.array([1.0, 0.5]), np.array([10, 10])
    # 10 t + 5 t = 6, while no chance is cut at 1; beyond, the first bin gives all of its ten.
    assert inclusion_rate(weight_G, n_G, 6, p_rank="inclusion") == pytest.approx(0.4)
    assert inclusion_rate(weight_G, n_G, 17, p_rank="inclusion") == pytest.approx(1.4)
    # 10 (1 − e^−t) = 5 where one bin alone is wanted.
    assert inclusion_rate(np.array([1.0, 0.0]), n_G, 5) == pytest.approx(np.log(2))


def test_exclusions_have_their_numbers_and_are_counted_by_their_words() -> None:
    assert {reason.name: reason.value for reason in Exclusion} == {
        "CONTAMINATED": 1, "PREDICATE": 2, "DUPLICATE": 3, "CAP": 4, "SEMANTIC_DUPLICATE": 5, "REJECTED": 6,
    }  # fmt: skip
    words = ("contaminated", "predicate", "duplicate", "cap", "semantic_duplicate", "rejected")
    assert dict(enumerate(words, 1)) == EXCLUSIONS
    assert count_exclusions(np.array([0, 1, 2, 2, 4, 0], np.uint8)) == {"contaminated": 1, "predicate": 2, "cap": 1}
    assert count_exclusions(np.array([], np.uint8)) == {}
