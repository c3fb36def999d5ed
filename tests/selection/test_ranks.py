import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import DataError
from alchemist_core.selection.ranks import (
    MAX_KNOTS,
    RankScale,
    fit_rank_scale,
    needs_rescale,
    share_above_cut,
)
from tests.oracles.oracle_selection import oracle_percent_rank

SCORES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


@given(SCORES)
def test_rank_is_percent_rank_while_there_are_fewer_scores_than_knots(scores):
    score_N = np.array(scores, np.float32)
    rank_N = fit_rank_scale(score_N).rank(score_N)
    assert rank_N.tolist() == [oracle_percent_rank(score, score_N.tolist()) for score in score_N.tolist()]


@given(SCORES, st.floats(-2e6, 2e6))
def test_a_higher_score_never_has_a_higher_rank(scores, score):
    scale = fit_rank_scale(np.array(scores))
    rank_N = scale.rank(np.array([score, score + 1.0]))
    assert 0 <= rank_N[1] <= rank_N[0] <= 1


def test_ties_share_a_rank_and_the_highest_score_has_rank_0():
    score_N = np.array([2.0, 9.0, 2.0, 5.0, 9.0])
    assert fit_rank_scale(score_N).rank(score_N).tolist() == [0.75, 0.0, 0.75, 0.5, 0.0]


def test_scores_outside_the_scale_are_clamped():
    scale = RankScale(np.array([0.0, 1.0]), np.array([0.9, 0.1]))
    assert scale.rank(np.array([-5.0, 0.0, 1.0, 5.0])).tolist() == [1.0, 0.9, 0.1, 0.0]


def test_interpolation_is_the_four_operations_in_their_order():
    scores, ranks = np.array([0.1, 0.37, 1.3]), np.array([1.0, 0.41, 0.03])
    score_N = np.random.default_rng(0).uniform(0.1, 1.3, 1_000)
    rank_N = RankScale(scores, ranks).rank(score_N)
    for score, rank in zip(score_N.tolist(), rank_N.tolist(), strict=True):
        i = 0 if score < 0.37 else 1
        low, high, span = float(ranks[i]), float(ranks[i + 1]), float(scores[i + 1]) - float(scores[i])
        assert rank == low + (high - low) * ((score - float(scores[i])) / span)


def test_a_scale_of_a_million_scores_has_65536_knots_and_errs_by_less_than_a_knot():
    score_N = np.random.default_rng(1).normal(size=1_000_000)
    scale = fit_rank_scale(score_N)
    exact_N = np.empty(1_000_000)
    exact_N[np.argsort(-score_N)] = np.arange(1_000_000) / 999_999
    assert scale.knot_scores.size == MAX_KNOTS
    assert scale.knot_scores[[0, -1]].tolist() == [score_N.min(), score_N.max()]
    assert np.abs(scale.rank(score_N) - exact_N).max() < 1 / MAX_KNOTS


def test_a_plateau_among_more_scores_than_knots_keeps_its_rank():
    score_N = np.append(np.random.default_rng(2).normal(size=400), np.full(600, 0.5))
    scale = fit_rank_scale(score_N, max_knots=64)
    assert scale.knot_scores.size <= 64
    assert scale.rank(np.array([0.5]))[0] == oracle_percent_rank(0.5, score_N.tolist())


def test_one_sample_alone_has_rank_0():
    assert fit_rank_scale(np.array([3.0])).rank(np.array([3.0, 2.0, 4.0])).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf]])
def test_a_scale_without_finite_scores_is_refused(scores):
    with pytest.raises(DataError):
        fit_rank_scale(np.array(scores))


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [([1.0, 1.0], [1.0, 0.0]), ([2.0, 1.0], [1.0, 0.0]), ([1.0, 2.0], [0.0, 1.0]), ([1.0], [1.0, 0.0]), ([], [])],
)
def test_knots_out_of_order_are_refused(scores, ranks):
    with pytest.raises(DataError):
        RankScale(np.array(scores), np.array(ranks))


def test_a_score_that_is_not_finite_has_no_rank():
    with pytest.raises(DataError, match="NaN"):
        fit_rank_scale(np.array([1.0, 2.0])).rank(np.array([np.nan]))


def test_a_corpus_that_moved_against_its_scale_asks_for_a_new_one():
    score_N = np.random.default_rng(3).normal(size=20_000)
    scale = fit_rank_scale(score_N)
    assert share_above_cut(scale.rank(score_N), 0.25) == pytest.approx(0.25, abs=1e-4)
    assert scale.share_above_cut(0.25) == pytest.approx(0.25, abs=1e-4)
    assert not needs_rescale(scale.rank(score_N), 0.25, scale)
    assert needs_rescale(scale.rank(score_N + 0.1), 0.25, scale)


@pytest.mark.parametrize(("cut", "share"), [(0.0, 0.0), (0.25, 0.4), (0.4, 0.4), (0.5, 0.7), (0.7, 0.7), (0.75, 1.0)])
def test_scores_that_tie_are_dropped_together_which_is_no_drift(cut, share):
    score_N = np.repeat([9.0, 5.0, 1.0], [400, 300, 300])
    scale = fit_rank_scale(score_N)
    rank_N = scale.rank(score_N)
    assert share_above_cut(rank_N, cut) == share
    assert scale.share_above_cut(cut) == pytest.approx(share, abs=0.001)
    assert not needs_rescale(rank_N, cut, scale)
    # A tenth moved to the highest score.
    assert needs_rescale(scale.rank(np.append(score_N[:900], np.full(100, 9.0))), cut, scale) is (0 < share < 1)


def test_a_scale_of_one_knot_ranks_its_own_score_and_clamps_all_others():
    scale = RankScale(np.array([2.0]), np.array([0.25]))
    assert scale.rank(np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 0.25, 0.0]


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [([1.0, 2.0], [1.001, 0.0]), ([1.0, 2.0], [1.0, -0.001]), ([1.0, 2.0], [0.5, 0.5]), ([1.0, np.inf], [1.0, 0.0])],
)
def test_ranks_outside_0_and_1_and_endless_scores_are_refused(scores, ranks):
    with pytest.raises(DataError):
        RankScale(np.array(scores), np.array(ranks))


def test_a_scale_may_have_as_many_knots_as_the_limit_and_no_more():
    assert MAX_KNOTS == 65_536
    most, more = (np.arange(float(n)) for n in (MAX_KNOTS, MAX_KNOTS + 1))
    assert RankScale(most, 1 - most / MAX_KNOTS).knot_scores.size == MAX_KNOTS
    with pytest.raises(DataError, match="needs 1 to 65536"):
        RankScale(more, 1 - more / (MAX_KNOTS + 1))


def test_as_many_distinct_scores_as_knots_keep_a_knot_each():
    assert fit_rank_scale(np.arange(5.0), max_knots=5).knot_scores.tolist() == [0, 1, 2, 3, 4]
    assert fit_rank_scale(np.arange(5.0), max_knots=3).knot_scores.tolist() == [0, 2, 4]


def test_scales_are_the_same_when_scores_and_ranks_are():
    def scale(score, rank):
        return RankScale(np.array([0.0, score]), np.array([1.0, rank]))

    assert scale(2.0, 0.5).is_same_as(scale(2.0, 0.5))
    assert not scale(2.0, 0.5).is_same_as(scale(2.0, 0.25))
    assert not scale(2.0, 0.5).is_same_as(scale(3.0, 0.5))


def test_the_rank_at_the_cut_is_not_dropped_and_an_empty_corpus_drops_nothing():
    assert share_above_cut(np.array([0.2, 0.25, 0.3, 0.1]), 0.25) == 0.5
    assert share_above_cut(np.array([]), 0.25) == 0.0


@pytest.mark.parametrize(("cut", "is_due"), [(0.02, False), (0.0201, True)])
def test_a_rescale_is_due_beyond_two_hundredths(cut, is_due):
    scale = RankScale(np.array([0.0, 1.0, 2.0]), np.array([1.0, cut, 0.0]))
    assert needs_rescale(np.array([0.5, 0.9]), cut, scale) is is_due
